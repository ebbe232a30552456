//! Lanes of an image: each request goes to the lane of the file, as a whole if it is in one place there, else in
//! pieces, one after the other.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use memory::IoVectors;

use super::{Mapping, Place, corrupt, narrow};
use crate::lane::FileLane;
use crate::{Event, Lane, Operation, Request};

/// Zeros that are given to a guest at a time.
const ZEROS: [u8; 4096] = [0; 4096];

/// What is done with the pieces of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Discard,
    Zero { unmap: bool },
}

/// A request that is carried out in pieces. One of them is under way at a time.
struct Job {
    tag: u64,
    kind: Kind,
    offset: u64,
    length: u64,
    /// Bytes that are done, and those of the piece that is under way.
    done: u64,
    under_way: u64,
    vectors: Option<IoVectors>,
}

/// What comes next for a job.
enum Next {
    Finished,
    Piece(Operation),
}

pub(crate) struct MappedLane {
    /// Of the file.
    below: Box<dyn FileLane>,
    mapping: Arc<dyn Mapping>,
    read_only: bool,
    jobs: Vec<Job>,
}

impl MappedLane {
    pub(crate) fn new(
        below: Box<dyn FileLane>,
        mapping: Arc<dyn Mapping>,
        read_only: bool,
    ) -> Self {
        Self {
            below,
            mapping,
            read_only,
            jobs: Vec::new(),
        }
    }

    fn finish(&mut self, tag: u64, result: io::Result<()>, vectors: Option<IoVectors>) {
        self.below.deliver(Event::Done {
            tag,
            result,
            vectors,
        });
    }

    /// Why a request cannot be carried out.
    fn check(&self, job: &Job) -> io::Result<()> {
        let number = match job.offset.checked_add(job.length) {
            Some(end) if end <= self.mapping.capacity() => None,
            _ => Some(libc::EINVAL),
        };
        let number = match job.kind {
            Kind::Read => number,
            _ if self.read_only => number.or(Some(libc::EROFS)),
            _ => number,
        };
        match number {
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None if job.kind == Kind::Read => Ok(()),
            None => self.mapping.begin_change(),
        }
    }

    fn begin(&mut self, mut job: Job) {
        if let Err(error) = self.check(&job) {
            return self.finish(job.tag, Err(error), job.vectors);
        }
        if job.vectors.is_some() && job.length > 0 {
            match self.mapping.find(job.offset, job.length) {
                Ok((Place::Data(start), count)) if count == job.length => {
                    if let Some(vectors) = job.vectors.take() {
                        let operation = transfer(job.kind, start, vectors);
                        let tag = job.tag;
                        return self.below.push(Request { tag, operation });
                    }
                }
                Ok(_) => {}
                Err(error) => return self.finish(job.tag, Err(error), job.vectors),
            }
        }
        self.go_on(job);
    }

    /// Begins the next piece of a job, or ends it.
    fn go_on(&mut self, mut job: Job) {
        match self.next(&mut job) {
            Ok(Next::Finished) => self.finish(job.tag, Ok(()), job.vectors),
            Ok(Next::Piece(operation)) => {
                let tag = job.tag;
                self.jobs.push(job);
                self.below.push(Request { tag, operation });
            }
            Err(error) => self.finish(job.tag, Err(error), job.vectors),
        }
    }

    fn next(&self, job: &mut Job) -> io::Result<Next> {
        while job.done < job.length {
            let (at, left) = (job.offset + job.done, job.length - job.done);
            let (mut place, mut count) = self.mapping.find(at, left)?;
            if job.kind == Kind::Write && place == Place::Zero {
                self.mapping.allocate(at, left)?;
                (place, count) = self.mapping.find(at, left)?;
                if place == Place::Zero {
                    return Err(corrupt("room that was made is not there"));
                }
            }
            if count == 0 {
                return Err(corrupt("a block has no bytes"));
            }
            match place {
                Place::Data(start) => {
                    job.under_way = count;
                    return Ok(Next::Piece(job.piece(start, count)));
                }
                Place::Zero => {
                    if let Some(vectors) = &job.vectors {
                        fill_with_zeros(vectors, job.done, count);
                    }
                    job.done += count;
                }
            }
        }
        Ok(Next::Finished)
    }

    /// Takes the ends of pieces out of the events from `first` on, and goes on with their jobs.
    fn take_pieces(&mut self, events: &mut Vec<Event>, first: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let mut ended = Vec::new();
        let mut at = first;
        while at < events.len() {
            let job = match &events[at] {
                Event::Done { tag, .. } => self.jobs.iter().position(|job| job.tag == *tag),
                Event::Ready { .. } => None,
            };
            match job {
                Some(job) => ended.push((self.jobs.swap_remove(job), events.remove(at))),
                None => at += 1,
            }
        }
        for (mut job, event) in ended {
            match event {
                Event::Done { result: Ok(()), .. } => {
                    job.done += job.under_way;
                    self.go_on(job);
                }
                Event::Done {
                    result: Err(error), ..
                } => self.finish(job.tag, Err(error), job.vectors),
                Event::Ready { .. } => {}
            }
        }
    }
}

impl Job {
    fn piece(&self, start: u64, count: u64) -> Operation {
        match (self.kind, &self.vectors) {
            (Kind::Discard, _) => Operation::Discard {
                offset: start,
                length: count,
            },
            (Kind::Zero { unmap }, _) => Operation::WriteZeroes {
                offset: start,
                length: count,
                unmap,
            },
            (kind, Some(vectors)) => {
                transfer(kind, start, vectors.part(narrow(self.done), narrow(count)))
            }
            (_, None) => Operation::Flush,
        }
    }
}

fn transfer(kind: Kind, offset: u64, vectors: IoVectors) -> Operation {
    match kind {
        Kind::Read => Operation::Read { offset, vectors },
        _ => Operation::Write { offset, vectors },
    }
}

fn fill_with_zeros(vectors: &IoVectors, from: u64, count: u64) {
    let mut done = 0;
    while done < count {
        let piece = narrow(count - done).min(ZEROS.len());
        vectors.copy_from_at(narrow(from + done), &ZEROS[..piece]);
        done += piece as u64;
    }
}

impl Lane for MappedLane {
    fn push(&mut self, request: Request) {
        let tag = request.tag;
        let (kind, offset, length, vectors) = match request.operation {
            Operation::Read { offset, vectors } => {
                (Kind::Read, offset, vectors.len() as u64, Some(vectors))
            }
            Operation::Write { offset, vectors } => {
                (Kind::Write, offset, vectors.len() as u64, Some(vectors))
            }
            Operation::Discard { offset, length } => (Kind::Discard, offset, length, None),
            Operation::WriteZeroes {
                offset,
                length,
                unmap,
            } => (Kind::Zero { unmap }, offset, length, None),
            // Tables are written to the same file, before the request that needs them.
            Operation::Flush => return self.below.push(request),
        };
        self.begin(Job {
            tag,
            kind,
            offset,
            length,
            done: 0,
            under_way: 0,
            vectors,
        });
    }

    /// A job has one piece in the lane below, until its own end is there.
    fn in_flight(&self) -> usize {
        self.below.in_flight()
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.below.watch(fd, token)
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        while events.len() == before {
            self.below.wait(events)?;
            self.take_pieces(events, before);
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        self.below.poll(events)?;
        self.take_pieces(events, before);
        Ok(())
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        loop {
            let before = events.len();
            self.below.drain(events)?;
            self.take_pieces(events, before);
            if self.below.in_flight() == 0 {
                return Ok(());
            }
        }
    }
}
