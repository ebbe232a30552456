//! A saved machine as files in a folder. What the state and the configuration mean is not known here.
//!
//! ```text
//!  config.json      the configuration, as vm.info shows it
//!  memory-ranges    all of RAM, byte for byte; empty pages are holes
//!  state.json       envelope: format, version, length and checksum of the other parts, the state itself
//! ```
//!
//! A [`Destination`] writes to temporary names and renames at the end, `state.json` last: a folder without one is no
//! snapshot, whatever was interrupted. What is there already is never replaced. A [`Source`] takes nothing for granted:
//! kinds of files, their lengths, the version and the checksums are looked at before anything is used. The checksums
//! find damage, not forgery: the state is checked again by those who know what it means. The memory has no checksum,
//! because it is not read as a whole when it is mapped.
#![forbid(unsafe_code)]

mod envelope;
mod error;
pub mod handover;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

pub use error::{Error, Result};
pub use read::{Parts, Source};
pub use write::{Destination, Texts};

/// Name of the configuration.
pub const CONFIG: &str = "config.json";
/// Name of the state.
pub const STATE: &str = "state.json";
/// Name of RAM's contents.
pub const MEMORY: &str = "memory-ranges";

/// Version of the state's form. Older ones are read for as long as the code says so; newer ones are refused.
pub const VERSION: u32 = 1;

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
