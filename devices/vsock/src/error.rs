//! Why the host's side cannot be had.

use std::io;
use std::path::PathBuf;

/// Why the host's side of the device cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody listens at the path.
    #[error(
        "\"{}\" is in use by a running process; choose another path for this VM",
        path.display()
    )]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// There is something else at the path. It is not removed: it may be precious.
    #[error(
        "\"{}\" exists and is not a socket; remove it or choose another path",
        path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot {action} \"{}\"", path.display())]
    Socket {
        /// What was being done.
        action: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What must be undone when the process dies could not be noted down.
    #[error("cannot prepare the clean-up of the socket")]
    CleanUp(#[source] sandbox::Error),
    /// The process or the system has no descriptors left.
    #[error("cannot make a descriptor for events")]
    Events(#[source] io::Error),
}

impl From<Error> for device::Error {
    fn from(error: Error) -> Self {
        Self::Backend {
            what: "--vsock socket".into(),
            source: Box::new(error),
        }
    }
}
