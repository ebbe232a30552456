//! A saved machine as files in a folder. What the state and the configuration mean is not known here.
//!
//! ```text
//!  config.json      the configuration, as vm.info shows it
//!  memory-ranges    all of RAM, byte for byte; empty pages are holes
//!  memory-checksums of each 64 KiB of memory that is not empty: its number and its CRC-32
//!  state.json       envelope: format, version, length and checksum of the other parts, the state itself
//! ```
//!
//! A [`Destination`] writes to temporary names and renames at the end, `state.json` last: a folder without one is no
//! snapshot, whatever was interrupted. What is there already is never replaced. A [`Source`] takes nothing for granted:
//! kinds of files, their lengths, the version and the checksums are looked at before anything is used. The checksums
//! find damage, not forgery: the state is checked again by those who know what it means. Those of
//! the memory are in a file of their own, which is read by those who read the memory ([`Source::checksums`]); who maps
//! it reads neither.
//!
//! An increment has only those pages of memory that are not as in another snapshot, its base, and says in `state.json`
//! which they are, where the base is, and what is the checksum of its `state.json`. The base may be an increment, too.
#![forbid(unsafe_code)]

mod envelope;
mod error;
pub mod handover;
mod naming;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

pub use envelope::Part;
pub use error::{Error, Result};
pub use naming::give_name;
pub use read::{Changes, Checksums, Parts, Source};
pub use write::{Destination, Increment, Texts};

/// Name of the configuration.
pub const CONFIG: &str = "config.json";
/// Name of the state.
pub const STATE: &str = "state.json";
/// Name of RAM's contents.
pub const MEMORY: &str = "memory-ranges";

/// Name of the checksums of RAM's contents.
pub const CHECKSUMS: &str = "memory-checksums";
/// Bytes of memory that a checksum is of.
pub const BLOCK: u64 = 64 << 10;

/// Version of the state's form. Older ones are read for as long as the code says so; newer ones are refused.
///
/// 2 is that of increments, which older monitors would take for whole snapshots; whole ones are still of version 1.
pub const VERSION: u32 = 2;
/// The version of whole snapshots.
pub(crate) const WHOLE: u32 = 1;
/// Most snapshots that lie above each other.
pub const MOST_LAYERS: usize = 64;

/// The folder that a URL `file://<folder>` names.
///
/// # Errors
/// [`Error::Url`] if it is another URL.
pub fn folder(url: &str) -> Result<PathBuf> {
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(path.into()),
        _ => Err(Error::Url(url.to_owned())),
    }
}
