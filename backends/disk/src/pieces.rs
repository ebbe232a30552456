//! Lanes of formats: what is in the file goes to the lane of the file, as a whole if it is in one place there, else in
//! pieces, one after the other. What is elsewhere, or nowhere yet, a format deals with here and now ([`Format`]).

use std::io;
use std::os::fd::BorrowedFd;

use memory::IoVectors;

use crate::bytes::narrow;
use crate::error::corrupt;
use crate::lane::FileLane;
use crate::slot::Kind;
use crate::{Event, Lane, Operation, Request};

/// What a format does for the requests of one lane.
pub(crate) trait Format: Send {
    /// Why a request cannot be carried out, before anything is done for it.
    ///
    /// # Errors
    /// That is the error.
    fn check(&self, job: &Job) -> io::Result<()>;

    /// Begins with what is left of a job: gives the operation on the file for its next piece, or nothing if some more
    /// of it is done.
    ///
    /// # Errors
    /// With one the job ends.
    fn next(&mut self, job: &mut Job) -> io::Result<Option<Operation>>;

    /// A piece that [`Format::next`] gave is done, or will never be begun.
    fn ended(&mut self, _job: &Job) {}

    /// Makes what was written durable, or gives nothing where the file's own flush does that.
    fn flush(&mut self) -> Option<io::Result<()>> {
        None
    }

    /// The lane goes; nothing of it is under way.
    fn settle(&mut self) {}
}

/// A request that is carried out in pieces. One of them is under way at a time.
pub(crate) struct Job {
    tag: u64,
    pub(crate) kind: Kind,
    offset: u64,
    pub(crate) length: u64,
    /// Bytes that are done, and those of the piece that is under way.
    done: u64,
    under_way: u64,
    /// The request's, unless the piece is all of it and has them.
    vectors: Option<IoVectors>,
    /// What the format notes for the piece.
    pub(crate) note: u64,
}

impl Job {
    fn new(request: Request) -> Self {
        let (kind, offset, length, vectors) = request.operation.parts();
        Self {
            tag: request.tag,
            kind,
            offset,
            length,
            done: 0,
            under_way: 0,
            vectors,
            note: 0,
        }
    }

    /// The end of the request, if it is a number.
    pub(crate) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }

    /// Where what is left begins, and how many bytes that are.
    pub(crate) fn left(&self) -> (u64, u64) {
        (self.offset + self.done, self.length - self.done)
    }

    /// The next `count` bytes are done.
    pub(crate) fn skip(&mut self, count: u64) {
        self.done += count;
    }

    /// The next `count` bytes are under way.
    pub(crate) fn begin(&mut self, count: u64) {
        self.under_way = count;
    }

    /// The next `count` bytes are those at `start` in the file, and under way: what is to be done there.
    ///
    /// # Errors
    /// None that any request leads to.
    pub(crate) fn piece(&mut self, start: u64, count: u64) -> io::Result<Operation> {
        let offset = start;
        self.begin(count);
        Ok(match self.kind {
            Kind::Read => Operation::Read {
                offset,
                vectors: self.part(count)?,
            },
            Kind::Write => Operation::Write {
                offset,
                vectors: self.part(count)?,
            },
            Kind::Discard => Operation::Discard {
                offset,
                length: count,
            },
            Kind::Zero { unmap } => Operation::WriteZeroes {
                offset,
                length: count,
                unmap,
            },
            Kind::Flush => Operation::Flush,
        })
    }

    /// The vectors themselves if it is all of them.
    fn part(&mut self, count: u64) -> io::Result<IoVectors> {
        let part = match count == self.length {
            true => self.vectors.take(),
            false => {
                let all = self.vectors.as_ref();
                all.map(|all| all.part(narrow(self.done), narrow(count)))
            }
        };
        part.ok_or_else(|| corrupt("a transfer has no memory"))
    }

    /// The next bytes read as these.
    pub(crate) fn give(&mut self, bytes: &[u8]) {
        if let Some(vectors) = &self.vectors {
            vectors.copy_from_at(narrow(self.done), bytes);
        }
        self.done += bytes.len() as u64;
    }

    /// The next `count` bytes read as zeros, if they are read.
    pub(crate) fn give_zeros(&mut self, count: u64) {
        if let Some(vectors) = &self.vectors {
            vectors.clear_at(narrow(self.done), narrow(count));
        }
        self.done += count;
    }

    /// What is to be written next.
    pub(crate) fn take(&self, bytes: &mut [u8]) {
        if let Some(vectors) = &self.vectors {
            vectors.copy_to_at(narrow(self.done), bytes);
        }
    }
}

pub(crate) struct FormatLane<F: Format> {
    /// Of the file.
    below: Box<dyn FileLane>,
    format: F,
    jobs: Vec<Job>,
}

impl<F: Format> FormatLane<F> {
    pub(crate) fn new(below: Box<dyn FileLane>, format: F) -> Self {
        Self {
            below,
            format,
            jobs: Vec::new(),
        }
    }

    fn finish(&mut self, job: Job, result: io::Result<()>) {
        self.below.deliver(Event::Done {
            tag: job.tag,
            result,
            vectors: job.vectors,
        });
    }

    /// Begins the next piece of a job, or ends it.
    fn go_on(&mut self, mut job: Job) {
        while job.done < job.length {
            match self.format.next(&mut job) {
                Ok(Some(operation)) => {
                    let tag = job.tag;
                    self.jobs.push(job);
                    return self.below.push(Request { tag, operation });
                }
                Ok(None) => {}
                Err(error) => return self.finish(job, Err(error)),
            }
        }
        self.finish(job, Ok(()));
    }

    /// Takes the ends of pieces out of the events from `first` on, and goes on with their jobs.
    fn take_pieces(&mut self, events: &mut Vec<Event>, first: usize) {
        let mut at = first;
        while at < events.len() && !self.jobs.is_empty() {
            let Event::Done {
                tag,
                result,
                vectors,
            } = &mut events[at]
            else {
                at += 1;
                continue;
            };
            let Some(index) = self.jobs.iter().position(|job| job.tag == *tag) else {
                at += 1;
                continue;
            };
            let mut job = self.jobs.swap_remove(index);
            self.format.ended(&job);
            job.done += job.under_way;
            if result.is_ok() && job.done < job.length {
                events.swap_remove(at);
                self.go_on(job);
                continue;
            }
            // The event is the job's. If the piece was only a part, it has no more than a part of the vectors.
            if job.vectors.is_some() {
                *vectors = job.vectors;
            }
            at += 1;
        }
    }
}

impl<F: Format> Lane for FormatLane<F> {
    fn push(&mut self, request: Request) {
        if let Operation::Flush = request.operation {
            return match self.format.flush() {
                Some(result) => self.finish(Job::new(request), result),
                None => self.below.push(request),
            };
        }
        let job = Job::new(request);
        match self.format.check(&job) {
            Ok(()) => self.go_on(job),
            Err(error) => self.finish(job, Err(error)),
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

impl<F: Format> Drop for FormatLane<F> {
    fn drop(&mut self) {
        // What a format keeps follows data, and nothing of either is under way afterwards. A lane that was drained has
        // nothing left.
        let _ = self.below.drain(&mut Vec::new());
        for job in self.jobs.drain(..) {
            self.format.ended(&job);
        }
        self.format.settle();
    }
}
