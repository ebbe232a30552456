//! What can go wrong with the socket.

use std::io;
use std::path::PathBuf;

/// Result of an operation on the server.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another monitor serves there.
    #[error(
        "--api-socket: another monitor serves at {0} (it holds the lock {lock}): choose another path or end that monitor",
        lock = crate::lock_path(.0).display()
    )]
    Busy(PathBuf),
    /// Something that is no socket is there. It is not removed: it may be precious.
    #[error("--api-socket: {0} exists and is no socket: remove it or choose another path")]
    NotASocket(PathBuf),
    /// The lock beside the socket cannot be had.
    #[error("--api-socket: cannot lock {path}")]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("--api-socket: cannot listen at {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The inherited descriptor cannot be used.
    #[error("--api-socket: cannot use fd={fd}, which must be a Unix stream socket that listens")]
    Descriptor {
        /// The descriptor.
        fd: i32,
        /// Why.
        source: io::Error,
    },
    /// The server's thread cannot be started.
    #[error("cannot start the thread that serves the API")]
    Thread(#[source] io::Error),
    /// The process's ways out, or its filter, cannot be set up.
    #[error("cannot prepare to serve the API")]
    Sandbox(#[from] sandbox::Error),
}
