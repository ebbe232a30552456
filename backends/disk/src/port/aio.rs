//! Linux AIO: io_submit(2), io_getevents(2).
//!
//! Descriptors are watched by requests too (`IOCB_CMD_POLL`), so that one call waits for everything. With the page
//! cache the kernel does reads and writes within io_submit, one after the other; only `O_DIRECT` makes them wait at
//! the same time. fallocate(2) has no such request: it is done when its turn comes, on this thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use super::sync::{as_number, carry_out};
use super::{Happened, Port, Step, Until};
use crate::image::Image;
use crate::sys::{self, AioContext, AioEvent};

// linux/aio_abi.h.
const FDSYNC: u16 = 3;
const POLL: u16 = 5;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
/// Tells the requests that watch from the others.
const WATCH: u64 = 1 << 32;
/// Descriptors that a lane may watch beside its requests.
const WATCHES: u32 = 16;
/// Completions taken by one call.
const BATCH: usize = 128;

struct Watched {
    fd: RawFd,
    token: u64,
    armed: bool,
}

pub(crate) struct Aio {
    // Before the image: dropping it waits for what is under way.
    context: AioContext,
    image: Arc<Image>,
    taken: VecDeque<(u32, Step)>,
    watched: Vec<Watched>,
    requests: Vec<libc::iocb>,
    pointers: Vec<*mut libc::iocb>,
    events: Vec<AioEvent>,
    under_way: usize,
}

// SAFETY: the pointers are into `requests`, which the value owns, and are only used within `submit`.
unsafe impl Send for Aio {}

impl Aio {
    pub(crate) fn new(image: Arc<Image>, depth: u16) -> io::Result<Self> {
        let requests = u32::from(depth) + WATCHES;
        let context = AioContext::new(requests).map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN) => io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("the host's limit fs.aio-max-nr is reached by {requests} requests more"),
            ),
            _ => error,
        })?;
        Ok(Self {
            context,
            image,
            taken: VecDeque::new(),
            watched: Vec::new(),
            requests: Vec::new(),
            pointers: Vec::new(),
            events: vec![AioEvent::default(); BATCH],
            under_way: 0,
        })
    }

    fn request(&self, slot: u32, step: Step) -> Option<libc::iocb> {
        let mut request = sys::empty_request();
        request.aio_data = slot.into();
        request.aio_fildes = number(self.image.fd());
        let (command, vectors, offset) = match step {
            Step::Read { vectors, offset } => (PREADV, Some(vectors), offset),
            Step::Write { vectors, offset } => (PWRITEV, Some(vectors), offset),
            Step::Sync => (FDSYNC, None, 0),
            Step::Allocate { .. } => return None,
        };
        request.aio_lio_opcode = command;
        if let Some(vectors) = vectors {
            request.aio_buf = vectors.first.addr() as u64;
            request.aio_nbytes = vectors.count.into();
        }
        request.aio_offset = i64::try_from(offset).ok()?;
        Some(request)
    }

    /// Makes requests of what was taken, and does what cannot be one.
    fn prepare(&mut self, until: Until, happened: &mut Happened) {
        while let Some((slot, step)) = self.taken.pop_front() {
            if let Some(request) = self.request(slot, step) {
                self.requests.push(request);
            } else {
                // SAFETY: as `take` asks, what the step points to is still there.
                let result = unsafe { carry_out(&self.image, step) };
                happened.done.push((slot, as_number(result)));
            }
        }
        if until == Until::StepDone {
            return;
        }
        for (index, watched) in self.watched.iter_mut().enumerate() {
            if !watched.armed {
                let mut request = sys::empty_request();
                request.aio_data = WATCH | index as u64;
                request.aio_fildes = number(watched.fd);
                request.aio_lio_opcode = POLL;
                request.aio_buf = libc::POLLIN as u64;
                self.requests.push(request);
                watched.armed = true;
            }
        }
    }

    /// Hands requests to the kernel. What it has no room for stays for later.
    fn submit(&mut self, happened: &mut Happened) -> io::Result<()> {
        self.pointers.clear();
        self.pointers
            .extend(self.requests.iter_mut().map(|request| &raw mut *request));
        let mut next = 0;
        while next < self.pointers.len() {
            // SAFETY: as `take` asks; the requests themselves are read within the call.
            match unsafe { self.context.submit(&self.pointers[next..]) } {
                Ok(count) => {
                    next += count;
                    self.under_way += count;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Its limit is reached: completions make room.
                    Some(libc::EAGAIN) if self.under_way > 0 => break,
                    // The first of them is refused, and the others were not looked at.
                    _ => {
                        let data = self.requests[next].aio_data;
                        if data & WATCH != 0 {
                            return Err(error);
                        }
                        happened.done.push((slot(data), as_number(Err(error))));
                        next += 1;
                    }
                },
            }
        }
        self.requests.drain(..next);
        Ok(())
    }

    fn collect(&mut self, minimum: usize, happened: &mut Happened) -> io::Result<()> {
        let count = match self.context.events(minimum, &mut self.events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        };
        self.under_way -= count.min(self.under_way);
        for event in &self.events[..count] {
            if event.data & WATCH == 0 {
                let result = i32::try_from(event.result).unwrap_or(i32::MAX);
                happened.done.push((slot(event.data), result));
            } else if let Some(watched) = self.watched.get_mut(slot(event.data) as usize) {
                watched.armed = false;
                if event.result > 0 {
                    happened.ready.push(watched.token);
                }
            }
        }
        Ok(())
    }
}

impl Port for Aio {
    unsafe fn take(&mut self, slot: u32, step: Step) {
        self.taken.push_back((slot, step));
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.watched.push(Watched {
            fd: sys::number(fd),
            token,
            armed: false,
        });
        Ok(())
    }

    fn wait(&mut self, until: Until, happened: &mut Happened) -> io::Result<()> {
        loop {
            self.prepare(until, happened);
            if !self.requests.is_empty() {
                self.submit(happened)?;
            }
            let enough = match until {
                Until::Now => true,
                Until::Anything => !happened.is_empty(),
                Until::StepDone => !happened.done.is_empty(),
            };
            if self.under_way > 0 {
                self.collect(usize::from(!enough), happened)?;
            }
            let enough = enough
                || match until {
                    Until::StepDone => !happened.done.is_empty(),
                    _ => !happened.is_empty(),
                };
            if enough || (self.under_way == 0 && self.requests.is_empty()) {
                return Ok(());
            }
        }
    }
}

fn number(fd: RawFd) -> u32 {
    // Open descriptors are not below zero.
    fd.unsigned_abs()
}

fn slot(data: u64) -> u32 {
    u32::try_from(data & (WATCH - 1)).unwrap_or(u32::MAX)
}
