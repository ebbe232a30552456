//! What `state.json` says about all parts.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What `format` says.
pub(crate) const FORMAT: &str = "cloud-hypervisor snapshot";

/// Only what every version has, so that a version that is not known can be named.
#[derive(Deserialize)]
pub(crate) struct Head {
    pub(crate) format: String,
    pub(crate) version: u32,
}

/// The whole of `state.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope<'a> {
    pub(crate) format: String,
    pub(crate) version: u32,
    pub(crate) config: Part,
    /// Length of the memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Of the text of `state`.
    pub(crate) state_crc32: u32,
    #[serde(borrow)]
    pub(crate) state: &'a RawValue,
}

/// Another file.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

impl Part {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            crc32: crc32fast::hash(bytes),
        }
    }
}
