//! Why a task could not give its worker back.

use std::any::Any;
use std::io;

/// Why a task could not give its worker back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The thread could not put itself under its system call filter, and so ran nothing.
    #[error("worker \"{name}\" was not started: its system call filter could not be applied")]
    Filter {
        /// The thread's name.
        name: String,
        /// What the sandbox said.
        source: sandbox::Error,
    },
    /// The worker returned an error from `register` or `ready`.
    #[error("worker \"{name}\" failed")]
    Failed {
        /// The thread's name.
        name: String,
        /// What the worker returned.
        source: io::Error,
    },
    /// Waiting for events failed, which means that a descriptor of the loop was closed.
    #[error("worker \"{name}\" could not wait for events")]
    Wait {
        /// The thread's name.
        name: String,
        /// What `epoll_pwait` said.
        source: io::Error,
    },
    /// The worker panicked.
    #[error("worker \"{name}\" panicked: {message}")]
    Panicked {
        /// The thread's name.
        name: String,
        /// The panic's message, or a note that it was not text.
        message: String,
    },
}

/// The text of a panic's payload: `panic!` carries a `&str` or a `String`.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "(no message)".to_owned()
    }
}
