//! What is done about an image that turns out to contradict itself while it is used.

use std::io;
use std::sync::OnceLock;

/// The first contradiction that was found. From then on nothing is written to the image: whoever goes on could write over
/// what is still right.
#[derive(Debug, Default)]
pub(crate) struct Damage(OnceLock<String>);

impl Damage {
    /// What was found, if anything was.
    pub(crate) fn found(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Whether the image may be changed.
    ///
    /// # Errors
    /// If something was found, with that.
    pub(crate) fn refuse_changes(&self) -> io::Result<()> {
        match self.found() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!(
                "the image is not written any more: {why}"
            ))),
        }
    }

    /// Keeps the error if it says that the image contradicts itself ([`io::ErrorKind::InvalidData`]). Whether it is the
    /// first.
    pub(crate) fn note(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::InvalidData && self.0.set(error.to_string()).is_ok()
    }
}
