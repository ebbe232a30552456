//! What a Unix socket did not take yet.

use std::os::fd::AsFd;

use memory::IoVectors;
use rustix::io::Errno;

/// Bytes on their way from the guest to a Unix socket. How many there can be is the business of
/// [`Credit`](crate::credit::Credit).
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    /// How many of the bytes are gone.
    gone: usize,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, from: &IoVectors) {
        self.bytes.drain(..self.gone);
        self.gone = 0;
        let before = self.bytes.len();
        self.bytes.resize(before + from.len(), 0);
        from.copy_to(&mut self.bytes[before..]);
    }

    /// Writes as much as `fd` takes. Gives the number of bytes.
    ///
    /// # Errors
    /// Not if `fd` takes none now; that is 0 bytes.
    pub(crate) fn write_to(&mut self, fd: impl AsFd) -> Result<usize, Errno> {
        let mut done = 0;
        while !self.is_empty() {
            match rustix::io::write(&fd, &self.bytes[self.gone..]) {
                Ok(count) => {
                    self.gone += count;
                    done += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(done),
                Err(errno) => return Err(errno),
            }
        }
        self.clear();
        Ok(done)
    }

    /// Drops all bytes.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.gone = 0;
    }
}
