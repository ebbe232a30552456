//! What can go wrong, and how it is told.

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;

/// Result with this crate's error.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It was not said what to do.
    #[error("nothing is to be done: give a subcommand")]
    NoSubcommand,
    /// The image cannot be opened, made or checked.
    #[error(transparent)]
    Image(#[from] disk::Error),
    /// A request to an opened image failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no memory for buffers.
    #[error("no memory for buffers")]
    Memory(#[source] memory::Error),
    /// The image would lose bytes.
    #[error(
        "{} has {have} bytes, and {wanted} are fewer: what is behind them is lost; --shrink does it", path.display()
    )]
    Shrinks {
        /// The image.
        path: PathBuf,
        /// Bytes of its disk.
        have: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
}

impl Error {
    /// Prints it to standard error, for people or for programs.
    pub(crate) fn print(&self, json: bool) {
        // Standard error being gone leaves nobody to tell.
        let _ = io::stderr().lock().write_all(self.text(json).as_bytes());
    }

    fn text(&self, json: bool) -> String {
        // Names of files are in it, which may have anything.
        let plain = |text: String| text.replace(char::is_control, "?");
        let chain: Vec<String> = telemetry::chain(self).into_iter().map(plain).collect();
        if json {
            return format!("{}\n", json!({ "chain": chain }));
        }
        telemetry::chain_text("ch-image", &chain)
    }
}

#[test]
fn people_and_programs_read_the_chain_without_control_characters() {
    let error = Error::Io {
        what: "read",
        path: "a\u{1b}[2Jb".into(),
        source: io::Error::other("broken"),
    };
    assert_eq!(
        error.text(false),
        "Error: ch-image exited with the following chain of errors:\n  0: cannot read a?[2Jb\n  1: broken\n"
    );
    let value: serde_json::Value = serde_json::from_str(&error.text(true)).unwrap();
    assert_eq!(value["chain"][1], "broken");
}
