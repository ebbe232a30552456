//! A file as it will be when its log was replayed, for images that are only read.

use std::io;
use std::sync::Arc;

use super::replay::{Change, Replay};
use crate::mapped::narrow;
use crate::storage::Storage;

pub(crate) struct Overlay {
    below: Arc<dyn Storage>,
    replay: Replay,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Storage>, replay: Replay) -> Self {
        Self { below, replay }
    }
}

impl Storage for Overlay {
    fn length(&self) -> u64 {
        self.below.length().max(self.replay.length)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.below.read(offset, bytes)?;
        let there = self.length().saturating_sub(offset);
        let there = narrow(there).min(bytes.len());
        if count < there {
            bytes[count..there].fill(0);
        }
        for change in &self.replay.changes {
            match change {
                Change::Data { offset: at, page } => {
                    lay_over(
                        offset,
                        &mut bytes[..there],
                        *at,
                        page.len() as u64,
                        |from| page[from],
                    );
                }
                Change::Zero { offset: at, length } => {
                    lay_over(offset, &mut bytes[..there], *at, *length, |_| 0);
                }
            }
        }
        Ok(there)
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_length(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<bool> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Replaces what `bytes`, which are at `offset`, have of the `length` bytes at `at`.
fn lay_over(offset: u64, bytes: &mut [u8], at: u64, length: u64, byte: impl Fn(usize) -> u8) {
    let (start, end) = (
        at.max(offset),
        (at + length).min(offset + bytes.len() as u64),
    );
    for position in start..end.max(start) {
        bytes[narrow(position - offset)] = byte(narrow(position - at));
    }
}
