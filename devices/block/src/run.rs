//! Transfers that several requests share.

use disk::Operation;
use memory::{IoVectors, MOST_VECTORS};

/// The most bytes that requests have together in one transfer. What is larger gains nothing, and its first request
/// waits for its last.
const MOST_BYTES: usize = 1 << 20;

/// Reads or writes, taken one after the other, of which each goes on at the disk where the one before ends. They become
/// one transfer: the host's side costs by the call more than by the byte.
pub(crate) struct Run {
    first: usize,
    last: usize,
    through: bool,
    writes: bool,
    offset: u64,
    vectors: IoVectors,
}

impl Run {
    /// A transfer of one request so far. Gives other operations back.
    pub(crate) fn begin(
        tag: usize,
        through: bool,
        operation: Operation,
    ) -> Result<Self, Operation> {
        let (writes, offset, vectors) = parts(operation)?;
        Ok(Self {
            first: tag,
            last: tag,
            through,
            writes,
            offset,
            vectors,
        })
    }

    /// Adds a request. Gives the one before it and its own vectors, empty; or the operation back, if it does not go on
    /// from here.
    pub(crate) fn add(
        &mut self,
        tag: usize,
        through: bool,
        operation: Operation,
    ) -> Result<(usize, IoVectors), Operation> {
        let (writes, offset, mut vectors) = parts(operation)?;
        let length = self.vectors.len();
        let goes_on = (writes, through) == (self.writes, self.through)
            && self.offset.checked_add(length as u64) == Some(offset)
            && length + vectors.len() <= MOST_BYTES
            && self.vectors.as_raw().len() + vectors.as_raw().len() <= MOST_VECTORS;
        if goes_on && self.vectors.append(&mut vectors) {
            return Ok((std::mem::replace(&mut self.last, tag), vectors));
        }
        Err(operation_of(writes, offset, vectors))
    }

    /// The transfer, under the tag of its first request.
    pub(crate) fn end(self) -> (usize, Operation) {
        let operation = operation_of(self.writes, self.offset, self.vectors);
        (self.first, operation)
    }
}

/// Whether it writes, where, and what; other operations are given back.
fn parts(operation: Operation) -> Result<(bool, u64, IoVectors), Operation> {
    match operation {
        Operation::Read { offset, vectors } => Ok((false, offset, vectors)),
        Operation::Write { offset, vectors } => Ok((true, offset, vectors)),
        other => Err(other),
    }
}

fn operation_of(writes: bool, offset: u64, vectors: IoVectors) -> Operation {
    match writes {
        true => Operation::Write { offset, vectors },
        false => Operation::Read { offset, vectors },
    }
}
