//! Lanes of an image: what is one piece in the file goes to the kernel as it is, the rest is read here and now.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use memory::IoVectors;

use super::map::Place;
use super::read::Qcow2;
use crate::lane::FileLane;
use crate::{Event, Lane, Operation, Request};

/// Bytes that are read at a time where the thread waits for them.
const PIECE: usize = 64 << 10;

pub(crate) struct QcowLane {
    /// Of the file of the data.
    below: Box<dyn FileLane>,
    image: Arc<Qcow2>,
    capacity: u64,
    /// What the lane below can reach.
    reach: u64,
    piece: Vec<u8>,
}

impl QcowLane {
    pub(crate) fn new(
        below: Box<dyn FileLane>,
        image: Arc<Qcow2>,
        capacity: u64,
        reach: u64,
    ) -> Self {
        Self {
            below,
            image,
            capacity,
            reach,
            piece: Vec::new(),
        }
    }

    fn done(&mut self, tag: u64, result: io::Result<()>, vectors: Option<IoVectors>) {
        self.below.deliver(Event::Done {
            tag,
            result,
            vectors,
        });
    }

    fn read(&mut self, tag: u64, offset: u64, vectors: IoVectors) {
        let length = vectors.len() as u64;
        let result = match offset.checked_add(length) {
            Some(end) if end <= self.capacity => self.image.map().find(offset, length),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        match result {
            Ok((Place::Data(start), count)) if count == length && self.reaches(start, length) => {
                let offset = start;
                let operation = Operation::Read { offset, vectors };
                self.below.push(Request { tag, operation });
            }
            Ok(_) => {
                let result = self.read_now(offset, &vectors);
                self.done(tag, result, Some(vectors));
            }
            Err(error) => self.done(tag, Err(error), Some(vectors)),
        }
    }

    fn reaches(&self, start: u64, length: u64) -> bool {
        start
            .checked_add(length)
            .is_some_and(|end| end <= self.reach)
    }

    fn read_now(&mut self, offset: u64, vectors: &IoVectors) -> io::Result<()> {
        self.piece.resize(PIECE, 0);
        let mut done = 0;
        while done < vectors.len() {
            let count = PIECE.min(vectors.len() - done);
            let piece = &mut self.piece[..count];
            self.image.read(offset + done as u64, piece)?;
            vectors.copy_from_at(done, piece);
            done += count;
        }
        Ok(())
    }
}

impl Lane for QcowLane {
    fn push(&mut self, request: Request) {
        let tag = request.tag;
        let refused = Err(io::Error::from_raw_os_error(libc::EROFS));
        match request.operation {
            Operation::Read { vectors, .. } if vectors.is_empty() => {
                self.done(tag, Ok(()), Some(vectors));
            }
            Operation::Read { offset, vectors } => self.read(tag, offset, vectors),
            // Nothing was written.
            Operation::Flush => self.done(tag, Ok(()), None),
            Operation::Write { vectors, .. } => self.done(tag, refused, Some(vectors)),
            Operation::Discard { .. } | Operation::WriteZeroes { .. } => {
                self.done(tag, refused, None);
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.below.in_flight()
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.below.watch(fd, token)
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.below.wait(events)
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.below.poll(events)
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.below.drain(events)
    }
}
