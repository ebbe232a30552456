//! What ends the monitor.

use std::io;

/// Why the monitor cannot start or ended otherwise than by wish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or descriptor of an option cannot be used.
    #[error("cannot use {option} {value}")]
    Sink {
        /// The option.
        option: &'static str,
        /// What it names.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The log or the event stream cannot be set up.
    #[error("cannot set up log or events")]
    Telemetry(#[from] telemetry::Error),
    /// The process cannot be prepared or confined.
    #[error("cannot prepare the process")]
    Sandbox(#[from] sandbox::Error),
    /// There is no hypervisor to use.
    #[error("cannot use the hypervisor of this host")]
    Hypervisor(#[from] hypervisor::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] config::Problem),
    /// The API cannot be served.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The guest cannot be debugged.
    #[error("cannot serve gdb")]
    Gdb(#[source] io::Error),
    /// The API cannot be on D-Bus.
    #[cfg(feature = "dbus_api")]
    #[error("cannot serve the API on D-Bus")]
    Dbus(#[from] dbus::Error),
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] machine::Error),
}
