//! A request that is under way.

use std::io;

use libc::iovec;
use memory::{IoVectors, MOST_VECTORS};

use crate::Operation;
use crate::buffer::{Buffer, SIZE};
use crate::claim::Claim;
use crate::port::Step;
use crate::sys::Vectors;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    #[default]
    Flush,
    Discard,
    Zero {
        unmap: bool,
    },
}

impl Kind {
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

impl Operation {
    /// Its kind, where on the disk it is and how long, and the guest's memory.
    pub(crate) fn parts(self) -> (Kind, u64, u64, Option<IoVectors>) {
        match self {
            Self::Read { offset, vectors } => {
                (Kind::Read, offset, vectors.len() as u64, Some(vectors))
            }
            Self::Write { offset, vectors } => {
                (Kind::Write, offset, vectors.len() as u64, Some(vectors))
            }
            Self::Flush => (Kind::Flush, 0, 0, None),
            Self::Discard { offset, length } => (Kind::Discard, offset, length, None),
            Self::WriteZeroes {
                offset,
                length,
                unmap,
            } => (Kind::Zero { unmap }, offset, length, None),
        }
    }
}

/// What the step that is under way is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A transfer between the guest's memory and the file.
    Plain,
    #[default]
    Sync,
    Allocate {
        mode: i32,
    },
    /// From the file into the buffer, for the guest.
    ReadPiece,
    /// From the file into the buffer, to be changed there.
    FillPiece,
    /// From the buffer to the file.
    WritePiece,
}

/// Part of a request that goes through a buffer.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) buffer: Buffer,
    /// Where in the file the buffer's bytes are.
    pub(crate) start: u64,
    /// How many of them are used.
    pub(crate) length: usize,
    /// Where in the buffer the request's bytes begin, and how many they are.
    pub(crate) skip: usize,
    pub(crate) payload: usize,
    /// Bytes of the current transfer that are done.
    pub(crate) moved: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) tag: u64,
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) vectors: Option<IoVectors>,
    /// Bytes of the request that are done.
    pub(crate) done: u64,
    pub(crate) phase: Phase,
    pub(crate) piece: Option<Piece>,
    pub(crate) claim: Option<Claim>,
    /// How often the kernel has asked to try again, without anything getting done.
    pub(crate) again: u8,
    rest: Rest,
}

/// Vectors made for a step: of what is left of a transfer, or of a buffer.
#[derive(Debug, Default)]
struct Rest(Vec<iovec>);

// SAFETY: the addresses are of memory that the slot owns by its vectors or its piece, and are only handed to the
// kernel, which ties them to the process.
unsafe impl Send for Rest {}

impl Slot {
    /// Takes a request over. What the slot has allocated is used again.
    pub(crate) fn fill(&mut self, tag: u64, operation: Operation) {
        self.tag = tag;
        self.done = 0;
        self.again = 0;
        (self.kind, self.offset, self.length, self.vectors) = operation.parts();
    }

    /// The step that transfers what is left between the guest's memory and the file.
    pub(crate) fn plain(&mut self) -> Step {
        let all = self.vectors.as_ref().map_or(&[][..], IoVectors::as_raw);
        let vectors = if self.done == 0 && all.len() <= MOST_VECTORS {
            as_vectors(all)
        } else {
            self.rest.0.clear();
            self.rest.0.extend(after(all, self.done).take(MOST_VECTORS));
            as_vectors(&self.rest.0)
        };
        let offset = self.offset + self.done;
        self.phase = Phase::Plain;
        match self.kind {
            Kind::Read => Step::Read { vectors, offset },
            _ => Step::Write { vectors, offset },
        }
    }

    /// The step that goes on with the piece in the way that `phase` says.
    pub(crate) fn piece_step(&mut self, phase: Phase) -> Option<Step> {
        let piece = self.piece.as_mut()?;
        let bytes = piece.buffer.bytes().get_mut(piece.moved..piece.length)?;
        let offset = piece.start + piece.moved as u64;
        self.rest.0.clear();
        self.rest.0.push(iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        });
        let vectors = as_vectors(&self.rest.0);
        self.phase = phase;
        Some(match phase {
            Phase::WritePiece => Step::Write { vectors, offset },
            _ => Step::Read { vectors, offset },
        })
    }

    /// The step that is under way, once more.
    pub(crate) fn repeat(&mut self) -> Option<Step> {
        match self.phase {
            Phase::Plain => Some(self.plain()),
            Phase::Sync => Some(Step::Sync),
            Phase::Allocate { mode } => Some(self.allocate(mode)),
            phase => self.piece_step(phase),
        }
    }

    pub(crate) fn allocate(&mut self, mode: i32) -> Step {
        self.phase = Phase::Allocate { mode };
        Step::Allocate {
            mode,
            offset: self.offset,
            length: self.length,
        }
    }

    /// Lays the next piece out: whole blocks of `block` bytes around what is left, as far as the buffer goes.
    pub(crate) fn lay_out(&mut self, buffer: Buffer, block: u64) {
        let (from, until) = (self.offset + self.done, self.offset + self.length);
        let start = from / block * block;
        let end = until.next_multiple_of(block).min(start + SIZE as u64);
        // All of these are at most the size of the buffer.
        let small = |bytes: u64| usize::try_from(bytes).unwrap_or(SIZE).min(SIZE);
        self.piece = Some(Piece {
            buffer,
            start,
            length: small(end - start),
            skip: small(from - start),
            payload: small(until.min(end) - from),
            moved: 0,
        });
    }

    /// Puts the request's bytes of the current piece into the buffer.
    pub(crate) fn fill_piece(&mut self) {
        if let Some(piece) = &mut self.piece {
            let bytes = &mut piece.buffer.bytes()[piece.skip..piece.skip + piece.payload];
            match &self.vectors {
                Some(vectors) => {
                    vectors.copy_to_at(usize::try_from(self.done).unwrap_or(usize::MAX), bytes);
                }
                None => bytes.fill(0),
            }
            piece.moved = 0;
        }
    }

    /// Gives the guest its bytes of the current piece.
    pub(crate) fn empty_piece(&mut self) {
        if let (Some(piece), Some(vectors)) = (&mut self.piece, &self.vectors) {
            let bytes = &piece.buffer.bytes()[piece.skip..piece.skip + piece.payload];
            vectors.copy_from_at(usize::try_from(self.done).unwrap_or(usize::MAX), bytes);
        }
    }
}

fn as_vectors(vectors: &[iovec]) -> Vectors {
    Vectors {
        first: vectors.as_ptr(),
        // Never more than `MOST_VECTORS`.
        count: u32::try_from(vectors.len()).unwrap_or_default(),
    }
}

/// The vectors without their first `done` bytes.
fn after(vectors: &[iovec], done: u64) -> impl Iterator<Item = iovec> {
    let mut left = usize::try_from(done).unwrap_or(usize::MAX);
    vectors.iter().filter_map(move |vector| {
        let here = left.min(vector.iov_len);
        left -= here;
        (here < vector.iov_len).then(|| iovec {
            iov_base: vector.iov_base.wrapping_byte_add(here),
            iov_len: vector.iov_len - here,
        })
    })
}

/// The file ends where the disk should go on.
pub(crate) fn too_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the image became shorter while it was in use",
    )
}
