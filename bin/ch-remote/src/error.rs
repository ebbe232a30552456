//! What can go wrong, and how it is told.

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;

/// Result with this crate's error.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why nothing came of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It was not said whom to ask.
    #[error("no monitor is named: give --api-socket=<path>")]
    NoSocket,
    /// It was not said what to ask.
    #[error("nothing is asked: give a subcommand")]
    NoSubcommand,
    /// Nobody answers at the socket.
    #[error("cannot connect to the monitor at {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A monitor does not start.
    #[error("cannot start a monitor: {} does not work", path.display())]
    Start {
        /// The program, or the socket that it does not listen at.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A snapshot cannot be used.
    #[error(transparent)]
    Saved(#[from] machine::Error),
    /// The connection failed.
    #[error("the connection to the monitor failed")]
    Connection(#[source] io::Error),
    /// What came is no answer of HTTP.
    #[error("the answer is not HTTP: {0}")]
    Malformed(&'static str),
    /// The monitor refuses.
    #[error("Server responded with {}", status_name(*status))]
    Server {
        /// Status of HTTP.
        status: u16,
        /// Its own chain of errors, outermost first.
        chain: Vec<String>,
    },
    /// The body of a request cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file descriptor cannot be sent.
    #[error("cannot send the file descriptor {fd}")]
    Descriptor {
        /// Its number.
        fd: i32,
        /// Why.
        source: io::Error,
    },
    /// The configuration of a device is wrong.
    #[error(transparent)]
    Device(#[from] config::Problem),
    /// A value is wrong.
    #[error("the parameters of {subcommand} are wrong")]
    Parameters {
        /// The subcommand.
        subcommand: &'static str,
        /// What is wrong.
        source: keyvalue::Error,
    },
    /// Values do not go together.
    #[error("{0}")]
    Conflict(&'static str),
}

impl Error {
    /// The story from outermost to innermost, the monitor's part included.
    pub(crate) fn chain(&self) -> Vec<String> {
        let mut chain = telemetry::chain(self);
        if let Self::Server { chain: theirs, .. } = self {
            chain.extend(theirs.iter().map(|text| crate::show::plain(text)));
        }
        chain
    }

    /// Prints it to standard error, for people or for programs.
    pub(crate) fn print(&self, json: bool) {
        let text = if json { self.json() } else { self.text() };
        // Standard error being gone leaves nobody to tell.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    fn text(&self) -> String {
        telemetry::chain_text("ch-remote", &self.chain())
    }

    fn json(&self) -> String {
        let status = match self {
            Self::Server { status, .. } => Some(status),
            _ => None,
        };
        format!("{}\n", json!({"status": status, "chain": self.chain()}))
    }
}

/// A status by its name.
fn status_name(status: u16) -> String {
    let name = match status {
        400 => "BadRequest",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        413 => "PayloadTooLarge",
        429 => "TooManyRequests",
        500 => "InternalServerError",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        other => return format!("Unknown ({other})"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::Server {
            status: 404,
            chain: vec!["Error from API".into(), "there is no VM\u{1b}[2J".into()],
        }
    }

    #[test]
    fn people_read_a_numbered_chain_without_control_characters() {
        assert_eq!(
            refused().text(),
            "Error: ch-remote exited with the following chain of errors:\n  0: Server responded with NotFound\n  \
             1: Error from API\n  2: there is no VM?[2J\n"
        );
    }

    #[test]
    fn programs_read_status_and_chain() {
        let value: serde_json::Value = serde_json::from_str(&refused().json()).unwrap();
        assert_eq!(value["status"], 404);
        assert_eq!(value["chain"][1], "Error from API");
        let value: serde_json::Value = serde_json::from_str(&Error::NoSocket.json()).unwrap();
        assert!(value["status"].is_null());
    }

    #[test]
    fn a_status_without_a_name_has_its_number() {
        assert_eq!(status_name(409), "Unknown (409)");
        assert_eq!(status_name(501), "NotImplemented");
    }
}
