//! Requests to an image: allocated blocks go to the file, others are zeros, or room is made for them.

use std::io;
use std::sync::Arc;

use super::parent::Layer;
use super::{Mapping, Place, corrupt, narrow};
use crate::Operation;
use crate::damage::Damage;
use crate::pieces::{Format, Job};
use crate::slot::Kind;

/// Bytes that are read of a parent at a time.
const PIECE: u64 = 64 << 10;

pub(crate) struct MappedFormat {
    pub(crate) mapping: Arc<dyn Mapping>,
    /// Only behind an image that is read.
    pub(crate) parent: Option<Arc<Layer>>,
    pub(crate) piece: Vec<u8>,
    pub(crate) read_only: bool,
    pub(crate) damage: Arc<Damage>,
}

impl MappedFormat {
    /// Begins with the next piece of a job, as [`Format::next`].
    fn begin(&mut self, job: &mut Job) -> io::Result<Option<Operation>> {
        let (at, left) = job.left();
        let (mut place, mut count) = self.mapping.find(at, left)?;
        if job.kind == Kind::Write && place == Place::Zero {
            self.mapping.allocate(at, left)?;
            (place, count) = self.mapping.find(at, left)?;
            if !matches!(place, Place::Data(_)) {
                return Err(corrupt("room that was made is not there"));
            }
        }
        if count == 0 {
            return Err(corrupt("a block has no bytes"));
        }
        match place {
            Place::Data(start) => job.piece(start, count).map(Some),
            Place::Zero => {
                job.give_zeros(count);
                Ok(None)
            }
            Place::Parent => {
                let Some(parent) = &self.parent else {
                    return Err(corrupt("bytes are in a parent, and there is none"));
                };
                self.piece.resize(narrow(count.min(PIECE)), 0);
                // What is wrong with another image is not wrong with this one.
                parent
                    .read(at, &mut self.piece)
                    .map_err(std::io::Error::other)?;
                job.give(&self.piece);
                Ok(None)
            }
        }
    }
}

impl Format for MappedFormat {
    fn check(&self, job: &Job) -> io::Result<()> {
        let refused = |number| Err(io::Error::from_raw_os_error(number));
        if job.end().is_none_or(|end| end > self.mapping.capacity()) {
            return refused(libc::EINVAL);
        }
        match job.kind.changes() {
            true if self.read_only => refused(libc::EROFS),
            true => {
                self.damage.refuse_changes()?;
                self.mapping.begin_change()
            }
            false => Ok(()),
        }
    }

    fn next(&mut self, job: &mut Job) -> io::Result<Option<Operation>> {
        let next = self.begin(job);
        next.inspect_err(|error| {
            self.damage.note(error);
        })
    }
}
