//! What `state.json` says about all parts.

use std::path::PathBuf;

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
    /// The checksums of the memory; none in snapshots of monitors that wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_checksums: Option<Part>,
    /// Of an increment: the snapshot that it is to. From version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<Base>,
    /// Of the text of `state`.
    pub(crate) state_crc32: u32,
    #[serde(borrow)]
    pub(crate) state: &'a RawValue,
}

/// The snapshot that an increment is to, and what the increment has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// Its folder; from the increment's folder, if it is no absolute path.
    pub(crate) folder: PathBuf,
    /// Its `state.json`, which has the checksums of the other parts.
    pub(crate) state: Part,
    /// Parts of memory that are not the base's: first byte, and the one behind the last.
    pub(crate) changed: Vec<(u64, u64)>,
}

/// Length and checksum of another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
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
