//! What can go wrong in a command of xtask.

use std::io;
use std::path::PathBuf;

/// Result of everything in xtask.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// A message for the person at the keyboard: what failed and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line makes no sense; the process exits with 2.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was tried, "cannot read /boot/x".
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended badly; its own output has been shown.
    #[error("`{command}` failed: {status}")]
    Command {
        /// The command as one would type it.
        command: String,
        /// How it ended, or what it said.
        status: String,
    },
    /// Something is absent that this machine has to bring.
    #[error("{what}; {remedy}")]
    Missing {
        /// What is absent.
        what: String,
        /// What the user can do.
        remedy: String,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        problem: String,
    },
    /// One of the project's checks found something; offences have been printed.
    #[error("{check}: {count} offence(s)")]
    Check {
        /// Name of the check.
        check: &'static str,
        /// How many offences.
        count: usize,
    },
    /// A guest did not do what it was started for.
    #[error("{0}")]
    Guest(String),
    /// The emulated host did not do its job.
    #[error("the emulated host {problem}; its kernel log is {}\n{tail}", log.display())]
    Nested {
        /// What went wrong, "did not come up in 60 s".
        problem: String,
        /// The whole kernel log.
        log: PathBuf,
        /// Last lines of it.
        tail: String,
    },
}

/// Says what was tried when the system refuses.
pub(crate) trait Context<T> {
    /// Wraps an I/O error with what was tried.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io {
            what: what(),
            source: error.into(),
        })
    }
}

/// Prints an error and the chain of its causes to standard error.
pub(crate) fn print_chain(error: &Error) {
    eprintln!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}
