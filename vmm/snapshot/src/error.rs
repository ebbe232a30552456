//! What can be wrong with a snapshot.

use std::io;
use std::path::PathBuf;

/// Result of an operation on a snapshot.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a URL of a folder.
    #[error("{0:?}: a snapshot is in a folder of this host, given as file:///<folder>")]
    Url(String),
    /// A file of the folder cannot be used.
    #[error("cannot {act} {}", .path.display())]
    File {
        /// What failed: `create`, `write`, `open`, `read`.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something already.
    #[error("{} is there already: a snapshot replaces nothing, give an empty folder", .0.display())]
    Exists(PathBuf),
    /// A file is not what it should be.
    #[error("{} is no part of a snapshot: {why}", .path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The state is of a version that this one does not know.
    #[error(
        "{} has version {found} of the state, this monitor reads up to {}: use the version that wrote it, or a later one",
        .path.display(), crate::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The base of an increment is not what it was.
    #[error(
        "{} is not the snapshot that {} is an increment to: it was changed or replaced", .base.display(), .path.display()
    )]
    OtherBase {
        /// Folder of the base.
        base: PathBuf,
        /// The increment's state.
        path: PathBuf,
    },
    /// A monitor that is to take a machine over cannot be reached.
    #[error("cannot reach the monitor at {}", .path.display())]
    Receiver {
        /// Its API socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A monitor does not take a machine over.
    #[error("the monitor at {} does not take the VM over: {why}", .path.display())]
    NotReceived {
        /// Its API socket.
        path: PathBuf,
        /// What it says.
        why: String,
    },
}
