//! Why a stream could not be opened.

use std::io;
use std::path::PathBuf;

/// Why a stream could not be opened. Each message names the console option that asked for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Endpoint::Off`](crate::Endpoint::Off) means that there is no device, so also no stream.
    #[error("a console that is \"off\" has no host side; use \"null\" to throw its output away")]
    Off,
    /// The file of `file=` could not be created or emptied.
    #[error("cannot create \"{}\", the console output file given with \"file=\"", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens at the path of `socket=`.
    #[error(
        "\"{}\", given with \"socket=\", is in use by a running process; \
         choose another path for this VM",
        path.display()
    )]
    SocketInUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// There is something else at the path of `socket=`. It is not removed: it may be precious.
    #[error(
        "\"{}\", given with \"socket=\", exists and is not a socket; \
         remove it or choose another path",
        path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket of `socket=` could not be made.
    #[error("cannot {action} \"{}\", the console socket given with \"socket=\"", path.display())]
    Socket {
        /// What was being done.
        action: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pseudo terminal of `pty` could not be made.
    #[error("cannot {action} a pseudo terminal, asked for with \"pty\"")]
    Pty {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Standard input or output cannot be the console that `tty` asks for.
    #[error("cannot {action}, needed for a console on \"tty\"")]
    Terminal {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The console's threads could not be given a way to wake each other.
    #[error("cannot make an event descriptor for a console")]
    Bell(#[source] io::Error),
    /// What must be undone when the process dies could not be noted down.
    #[error("cannot prepare the clean-up of a console's terminal or socket")]
    CleanUp(#[source] sandbox::Error),
}
