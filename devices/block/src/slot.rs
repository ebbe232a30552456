//! Requests under way.

use std::time::Instant;

use disk::Operation;
use memory::IoVectors;
use virtio::Chain;

use crate::request::{Plan, Segment};

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
