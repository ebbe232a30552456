//! Requests to an image: what is in the file goes there; what is elsewhere, or nowhere yet, is dealt with here and now.

use std::io;
use std::sync::Arc;

use super::entry::Place;
use super::epoch::Visitor;
use super::known::Known;
use super::narrow;
use super::read::Qcow2;
use super::write::Clear;
use crate::Operation;
use crate::image::{Image, SECTOR};
use crate::pieces::{Format, Job};
use crate::slot::Kind;

/// Bytes that are read at a time where the thread waits for them.
const PIECE: usize = 64 << 10;

pub(crate) struct QcowFormat {
    image: Arc<Qcow2>,
    /// The file of the data.
    data: Arc<Image>,
    visitor: Visitor,
    known: Known,
    piece: Vec<u8>,
}

impl QcowFormat {
    pub(crate) fn new(image: Arc<Qcow2>, data: Arc<Image>, visitor: Visitor) -> Self {
        Self {
            image,
            data,
            visitor,
            known: Known::default(),
            piece: Vec::new(),
        }
    }

    /// Whole sectors of the disk, in bytes.
    fn capacity(&self) -> u64 {
        self.image.map().size() / SECTOR * SECTOR
    }

    fn read(&mut self, job: &mut Job) -> io::Result<Option<Operation>> {
        let (at, left) = job.left();
        let map = self.image.map();
        if let Some((start, count)) = self.known.find(map.header(), at, left, false)
            && self.reaches(start, count)
        {
            return job.piece(start, count).map(Some);
        }
        let (place, count) = map.find(at, left)?;
        if let Place::Data(start) = place
            && self.reaches(start, count)
        {
            self.known.note(map.header(), at, start, count, false);
            return job.piece(start, count).map(Some);
        }
        if place == Place::Zero
            || (place == Place::Unallocated && self.image.backing_ends_before(at))
        {
            job.give_zeros(count);
            return Ok(None);
        }
        let count = narrow(count).min(PIECE);
        self.piece.resize(PIECE.max(self.piece.len()), 0);
        let piece = &mut self.piece[..count];
        self.image.read(at, piece)?;
        job.give(piece);
        Ok(None)
    }

    fn write(&mut self, job: &mut Job) -> io::Result<Option<Operation>> {
        let (at, left) = job.left();
        let map = self.image.map();
        if let Some((start, count)) = self.known.find(map.header(), at, left, true)
            && self.reaches(start, count)
        {
            return job.piece(start, count).map(Some);
        }
        if let Some((start, count)) = map.find_own(at, left)?
            && self.reaches(start, count)
        {
            self.known.note(map.header(), at, start, count, true);
            return job.piece(start, count).map(Some);
        }
        let cluster = map.header().cluster();
        let count = left.min(cluster - at % cluster);
        self.piece.resize(narrow(count).max(self.piece.len()), 0);
        let piece = &mut self.piece[..narrow(count)];
        job.take(piece);
        self.image.write(at, piece)?;
        job.skip(count);
        Ok(None)
    }

    fn clear(&self, job: &mut Job, how: Clear) -> io::Result<Option<Operation>> {
        let (at, left) = job.left();
        let part = self.image.map().header().part();
        let end = at + left;
        let whole = match end == self.capacity() {
            true => end,
            false => end / part * part,
        };
        if at.is_multiple_of(part) && whole > at {
            job.skip(self.image.clear(at, whole - at, how)?);
            return Ok(None);
        }
        let count = left.min(part - at % part);
        if how == Clear::Discard {
            job.skip(count);
            return Ok(None);
        }
        if let Some((offset, length)) = self.image.map().find_own(at, count)?
            && self.reaches(offset, length)
        {
            // The rest of the part keeps its place.
            job.begin(length);
            return Ok(Some(Operation::WriteZeroes {
                offset,
                length,
                unmap: false,
            }));
        }
        if !self.image.is_zero(at, count)? {
            self.image.write(at, &vec![0; narrow(count)])?;
        }
        job.skip(count);
        Ok(None)
    }

    /// Whether the lane below can be asked for it.
    fn reaches(&self, start: u64, length: u64) -> bool {
        let end = start.checked_add(length);
        end.is_some_and(|end| end <= self.data.capacity())
    }
}

impl Format for QcowFormat {
    fn check(&self, job: &Job) -> io::Result<()> {
        if job.kind.changes() {
            self.image.writer()?;
        }
        match job.end() {
            Some(end) if end <= self.capacity() => {}
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
        match job.kind.changes() {
            true => self.image.damage.refuse_changes(),
            false => Ok(()),
        }
    }

    fn next(&mut self, job: &mut Job) -> io::Result<Option<Operation>> {
        // What the tables say holds until the piece is done.
        job.note = self.visitor.enter();
        self.known.begin(self.image.map());
        let next = match job.kind {
            Kind::Read => self.read(job),
            Kind::Write => self.write(job),
            Kind::Discard => self.clear(job, Clear::Discard),
            Kind::Zero { unmap } => {
                let gives_back = self.image.writer.as_ref().is_some_and(|it| it.gives_back);
                let unmap = unmap && gives_back;
                self.clear(job, Clear::Zero { unmap })
            }
            Kind::Flush => Ok(Some(Operation::Flush)),
        };
        if let Err(error) = &next {
            self.image.note(error);
        }
        if !matches!(next, Ok(Some(_))) {
            self.visitor.leave(job.note);
        }
        next
    }

    fn ended(&mut self, job: &Job) {
        self.visitor.leave(job.note);
    }

    fn flush(&mut self) -> Option<io::Result<()>> {
        match &self.image.writer {
            // Nothing was written.
            None => Some(Ok(())),
            Some(writer) if writer.is_changed() => Some(self.image.flush()),
            Some(_) => None,
        }
    }

    fn settle(&mut self) {
        // Nobody is there to be told. What is not in the file stays in memory for other lanes, and the next flush says.
        let _ = self.image.settle();
    }
}
