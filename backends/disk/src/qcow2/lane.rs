//! Lanes of an image: what is in the file goes to the lane of the file, in pieces where it is in several places. What
//! is elsewhere, or nowhere yet, is dealt with here and now.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use memory::IoVectors;

use super::entry::Place;
use super::epoch::Visitor;
use super::narrow;
use super::read::Qcow2;
use super::write::Clear;
use crate::image::{Image, SECTOR};
use crate::lane::FileLane;
use crate::{Event, Lane, Operation, Request};

/// Bytes that are read at a time where the thread waits for them.
const PIECE: usize = 64 << 10;

/// What is done with the pieces of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Clear(Clear),
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
    /// The request's, unless the piece is all of it and has them.
    vectors: Option<IoVectors>,
    /// When the piece was begun.
    epoch: u64,
}

pub(crate) struct QcowLane {
    /// Of the file of the data.
    below: Box<dyn FileLane>,
    image: Arc<Qcow2>,
    data: Arc<Image>,
    visitor: Visitor,
    jobs: Vec<Job>,
    piece: Vec<u8>,
}

impl QcowLane {
    pub(crate) fn new(
        below: Box<dyn FileLane>,
        image: Arc<Qcow2>,
        data: Arc<Image>,
        visitor: Visitor,
    ) -> Self {
        Self {
            below,
            image,
            data,
            visitor,
            jobs: Vec::new(),
            piece: Vec::new(),
        }
    }

    fn finish(&mut self, tag: u64, result: io::Result<()>, vectors: Option<IoVectors>) {
        self.below.deliver(Event::Done {
            tag,
            result,
            vectors,
        });
    }

    fn flush(&mut self, request: Request) {
        match &self.image.writer {
            // Nothing was written.
            None => self.finish(request.tag, Ok(()), None),
            Some(writer) if writer.is_changed() => {
                let result = self.image.flush();
                self.finish(request.tag, result, None);
            }
            Some(_) => self.below.push(request),
        }
    }

    /// Why a request cannot be carried out.
    fn check(&self, job: &Job) -> io::Result<()> {
        if job.kind != Kind::Read {
            self.image.writer()?;
        }
        let capacity = self.image.map().size() / SECTOR * SECTOR;
        match job.offset.checked_add(job.length) {
            Some(end) if end <= capacity => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// Begins the next piece of a job, or ends it.
    fn go_on(&mut self, mut job: Job) {
        while job.done < job.length {
            // What the tables say holds until the piece is done.
            job.epoch = self.visitor.enter();
            match self.next(&mut job) {
                Ok(Some(operation)) => {
                    let tag = job.tag;
                    self.jobs.push(job);
                    return self.below.push(Request { tag, operation });
                }
                Ok(None) => self.visitor.leave(job.epoch),
                Err(error) => {
                    self.visitor.leave(job.epoch);
                    return self.finish(job.tag, Err(error), job.vectors);
                }
            }
        }
        self.finish(job.tag, Ok(()), job.vectors);
    }

    /// What is left of a job begins with the operation, or with nothing: some of it is done then.
    fn next(&mut self, job: &mut Job) -> io::Result<Option<Operation>> {
        let (at, left) = (job.offset + job.done, job.length - job.done);
        match job.kind {
            Kind::Read => self.next_read(job, at, left),
            Kind::Write => self.next_write(job, at, left),
            Kind::Clear(how) => self.next_clear(job, at, left, how),
        }
    }

    fn next_read(&mut self, job: &mut Job, at: u64, left: u64) -> io::Result<Option<Operation>> {
        let (place, count) = self.image.map().find(at, left)?;
        if let Place::Data(start) = place
            && self.reaches(start, count)
        {
            let vectors = job.part(count);
            return Ok(vectors.map(|vectors| Operation::Read {
                offset: start,
                vectors,
            }));
        }
        let count = narrow(count).min(PIECE);
        self.piece.resize(PIECE.max(self.piece.len()), 0);
        let piece = &mut self.piece[..count];
        self.image.read(at, piece)?;
        if let Some(vectors) = &job.vectors {
            vectors.copy_from_at(narrow(job.done), piece);
        }
        job.done += count as u64;
        Ok(None)
    }

    fn next_write(&mut self, job: &mut Job, at: u64, left: u64) -> io::Result<Option<Operation>> {
        if let Some((start, count)) = self.image.map().find_own(at, left)?
            && self.reaches(start, count)
        {
            let vectors = job.part(count);
            return Ok(vectors.map(|vectors| Operation::Write {
                offset: start,
                vectors,
            }));
        }
        let cluster = self.image.map().header().cluster();
        let count = narrow(left.min(cluster - at % cluster));
        self.piece.resize(count.max(self.piece.len()), 0);
        let piece = &mut self.piece[..count];
        if let Some(vectors) = &job.vectors {
            vectors.copy_to_at(narrow(job.done), piece);
        }
        self.image.write(at, piece)?;
        job.done += count as u64;
        Ok(None)
    }

    fn next_clear(
        &mut self,
        job: &mut Job,
        at: u64,
        left: u64,
        how: Clear,
    ) -> io::Result<Option<Operation>> {
        let part = self.image.map().header().part();
        let end = at + left;
        let whole = match end == self.image.map().size() / SECTOR * SECTOR {
            true => end,
            false => end / part * part,
        };
        if at.is_multiple_of(part) && whole > at {
            job.done += self.image.clear(at, whole - at, how)?;
            return Ok(None);
        }
        let count = left.min(part - at % part);
        if how == Clear::Discard {
            job.done += count;
            return Ok(None);
        }
        if let Some((offset, length)) = self.image.map().find_own(at, count)?
            && self.reaches(offset, length)
        {
            job.under_way = length;
            return Ok(Some(Operation::WriteZeroes {
                offset,
                length,
                unmap: false,
            }));
        }
        if !self.image.is_zero(at, count)? {
            self.image.write(at, &vec![0; narrow(count)])?;
        }
        job.done += count;
        Ok(None)
    }

    /// Whether the lane below can be asked for it.
    fn reaches(&self, start: u64, length: u64) -> bool {
        let end = start.checked_add(length);
        end.is_some_and(|end| end <= self.data.capacity())
    }

    /// Takes the ends of pieces out of the events from `first` on, and goes on with their jobs.
    fn take_pieces(&mut self, events: &mut Vec<Event>, first: usize) {
        let mut at = first;
        while at < events.len() && !self.jobs.is_empty() {
            let job = match &events[at] {
                Event::Done { tag, .. } => self.jobs.iter().position(|job| job.tag == *tag),
                Event::Ready { .. } => None,
            };
            let Some(job) = job else {
                at += 1;
                continue;
            };
            let mut job = self.jobs.swap_remove(job);
            self.visitor.leave(job.epoch);
            job.done += job.under_way;
            match &mut events[at] {
                Event::Done {
                    result: Ok(()),
                    vectors,
                    ..
                } => {
                    if job.done >= job.length {
                        // The event is the job's.
                        if job.vectors.is_some() {
                            *vectors = job.vectors;
                        }
                        at += 1;
                    } else {
                        events.swap_remove(at);
                        self.go_on(job);
                    }
                }
                Event::Done { vectors, .. } => {
                    if job.vectors.is_some() {
                        *vectors = job.vectors;
                    }
                    at += 1;
                }
                Event::Ready { .. } => at += 1,
            }
        }
    }
}

impl Job {
    /// The next `count` bytes of the vectors, and that they are under way; the vectors themselves if that is all.
    fn part(&mut self, count: u64) -> Option<IoVectors> {
        self.under_way = count;
        if count == self.length {
            return self.vectors.take();
        }
        let vectors = self.vectors.as_ref()?;
        Some(vectors.part(narrow(self.done), narrow(count)))
    }
}

impl Lane for QcowLane {
    fn push(&mut self, request: Request) {
        let gives_back = self.image.writer.as_ref().is_some_and(|it| it.gives_back);
        let clear = |how, offset, length| (Kind::Clear(how), offset, length, None);
        let (kind, offset, length, vectors) = match request.operation {
            Operation::Read { offset, vectors } => {
                (Kind::Read, offset, vectors.len() as u64, Some(vectors))
            }
            Operation::Write { offset, vectors } => {
                (Kind::Write, offset, vectors.len() as u64, Some(vectors))
            }
            Operation::Discard { offset, length } => clear(Clear::Discard, offset, length),
            Operation::WriteZeroes {
                offset,
                length,
                unmap,
            } => {
                let unmap = unmap && gives_back;
                clear(Clear::Zero { unmap }, offset, length)
            }
            Operation::Flush => return self.flush(request),
        };
        let job = Job {
            tag: request.tag,
            kind,
            offset,
            length,
            done: 0,
            under_way: 0,
            vectors,
            epoch: 0,
        };
        match self.check(&job) {
            Ok(()) => self.go_on(job),
            Err(error) => self.finish(job.tag, Err(error), job.vectors),
        }
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

impl Drop for QcowLane {
    fn drop(&mut self) {
        // Tables follow data, and nothing of either is under way afterwards. A lane that was drained has nothing left.
        let _ = self.below.drain(&mut Vec::new());
        for job in self.jobs.drain(..) {
            self.visitor.leave(job.epoch);
        }
        // Nobody is there to be told. What is not in the file stays in memory for other lanes, and the next flush says.
        let _ = self.image.settle();
    }
}
