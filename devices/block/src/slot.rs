//! Requests under way, and transfers that several of them share.

use std::time::Instant;

use disk::Operation;
use memory::{IoVectors, MOST_VECTORS};
use virtio::Chain;

use crate::request::{Plan, Segment};

/// The most bytes that requests have together in one transfer. What is larger gains nothing, and its first request
/// waits for its last.
const MOST_BYTES: usize = 1 << 20;

/// A request under way. Kept to be used again, with the memory it has.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) chain: Option<Chain>,
    pub(crate) kind: Option<Plan>,
    pub(crate) begun: Option<Instant>,
    pub(crate) vectors: Option<IoVectors>,
    /// Ranges that are not begun yet, the last first.
    pub(crate) segments: Vec<Segment>,
    /// It is complete only when what it wrote is durable.
    pub(crate) through: bool,
    /// What it wrote is being made durable.
    pub(crate) is_synced: bool,
    /// The request whose data goes with this one's, behind it.
    pub(crate) joined: Option<usize>,
}

impl Slot {
    /// The first step of a request; `None` if there is nothing to do but what follows.
    pub(crate) fn first(
        &mut self,
        chain: &Chain,
        plan: Plan,
    ) -> Result<Option<Operation>, memory::Error> {
        let operation = match plan {
            Plan::Read { length: 0, .. } | Plan::Write { length: 0, .. } => return Ok(None),
            Plan::Read { offset, length } => {
                let mut vectors = self.vectors(chain);
                chain.add_writable(&mut vectors)?;
                // All but the status.
                vectors.truncate(length as usize);
                Operation::Read { offset, vectors }
            }
            Plan::Write { offset, length } => {
                let mut vectors = self.vectors(chain);
                chain.add_readable(&mut vectors)?;
                // All but the header.
                vectors.skip(vectors.len().saturating_sub(length as usize));
                Operation::Write { offset, vectors }
            }
            Plan::Flush => Operation::Flush,
            Plan::GetId | Plan::Discard | Plan::WriteZeroes => return Ok(self.next_range()),
        };
        Ok(Some(operation))
    }

    /// The first step once more.
    pub(crate) fn again(&mut self) -> Result<Option<Operation>, memory::Error> {
        let (Some(chain), Some(plan)) = (self.chain.take(), self.kind) else {
            return Ok(None);
        };
        let operation = self.first(&chain, plan);
        self.chain = Some(chain);
        operation
    }

    fn vectors(&mut self, chain: &Chain) -> IoVectors {
        let spare = self.vectors.take();
        let mut vectors = spare.unwrap_or_else(|| IoVectors::new(chain.ram().clone()));
        vectors.clear();
        vectors
    }

    pub(crate) fn next_range(&mut self) -> Option<Operation> {
        let Segment {
            offset,
            length,
            unmap,
        } = self.segments.pop()?;
        Some(match self.kind {
            Some(Plan::Discard) => Operation::Discard { offset, length },
            _ => Operation::WriteZeroes {
                offset,
                length,
                unmap,
            },
        })
    }

    /// Makes durable what was written, if the request is complete only then.
    pub(crate) fn sync(&mut self) -> Option<Operation> {
        self.is_synced = std::mem::take(&mut self.through);
        self.is_synced.then_some(Operation::Flush)
    }
}

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
