//! Why a test cannot go on.

use std::io;

/// Result of everything in testkit.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What did not work, with what the monitor and the guest said last.
///
/// `Debug` prints the same text as `Display`, because that is what a failing test shows.
#[derive(thiserror::Error)]
pub enum Error {
    /// A variable that `cargo xtask test` sets is not there.
    #[error("{name} is not set: run this through `cargo xtask test FILTER`")]
    NotSet {
        /// The environment variable.
        name: &'static str,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("no {what} within {seconds} s\n{context}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// Last lines of console and log.
        context: String,
    },
    /// The monitor ended although the test still needs it.
    #[error("the monitor ended ({status}) before {what}\n{context}")]
    Ended {
        /// What was waited for.
        what: String,
        /// How it ended.
        status: String,
        /// Last lines of console and log.
        context: String,
    },
    /// The guest ended by a triple fault while it worked on a request, and boots again.
    #[error("the guest started again (triple fault) before {what}\n{context}")]
    Restarted {
        /// What was waited for.
        what: String,
        /// Last lines of console and log.
        context: String,
    },
    /// The guest's answer is not understood.
    #[error("the guest answered {answer:?}\n{context}")]
    Answer {
        /// The line in question.
        answer: String,
        /// Last lines of console and log.
        context: String,
    },
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Says what was tried when the system refuses.
pub(crate) trait Context<T> {
    /// Wraps an I/O error.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Io {
            what: what.into(),
            source: error.into(),
        })
    }
}
