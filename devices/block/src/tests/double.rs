//! A disk in memory that can fail, hold back what is under way, and remember what it did.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use disk::{Disk, Engine, Event, Lane, Operation, Request, Topology};
use reactor::Kick;
use rustix::event::{PollFd, PollFlags, poll};

/// The disk.
pub(super) struct Double {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    read_only: bool,
    protected: bool,
    topology: Option<Topology>,
    /// Requests stay under way.
    held: bool,
    /// Errors by how their line of [`Double::log`] begins.
    errors: Vec<(&'static str, i32)>,
    broken: bool,
    /// What the image is said to contradict itself in.
    damage: Option<String>,
    log: Vec<String>,
    wakers: Vec<Kick>,
    deepest: usize,
    /// A lane waits for requests that are held.
    draining: bool,
}

impl Double {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        let bytes = (0..capacity).map(pattern).collect();
        let state = State {
            bytes,
            ..State::default()
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
        })
    }

    pub(super) fn read_only() -> Arc<Self> {
        let disk = Self::new(1 << 20);
        disk.state().read_only = true;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn damage(&self, why: &str) {
        self.state().damage = Some(why.to_owned());
    }

    pub(super) fn protect(&self) {
        self.state().protected = true;
    }

    pub(super) fn set_topology(&self, topology: Topology) {
        self.state().topology = Some(topology);
    }

    /// From now on requests stay under way.
    pub(super) fn hold(&self) {
        let mut state = self.state();
        state.held = true;
        state.deepest = 0;
        state.draining = false;
    }

    /// Lets all go on.
    pub(super) fn release(&self) {
        let mut state = self.state();
        state.held = false;
        state.wakers.iter().for_each(Kick::signal);
    }

    /// Operations whose log begins with this fail from now on.
    pub(super) fn fail(&self, begin: &'static str, errno: i32) {
        self.state().errors.push((begin, errno));
    }

    pub(super) fn heal(&self) {
        self.state().errors.clear();
    }

    /// Lanes cannot be used any more.
    pub(super) fn break_lanes(&self) {
        self.state().broken = true;
    }

    /// What was done since the last call.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    pub(super) fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        self.state().bytes[at..at + len].to_vec()
    }

    /// Whether a lane waits until nothing is under way, and something is held.
    pub(super) fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// The most requests that were under way on one lane since [`Double::hold`].
    pub(super) fn deepest(&self) -> usize {
        self.state().deepest
    }
}

/// What the disk holds at first.
pub(super) fn pattern(at: usize) -> u8 {
    (at / 512 * 7 + at % 251).to_le_bytes()[0]
}

impl State {
    fn perform(&mut self, operation: &Operation) -> io::Result<()> {
        let span = |offset: u64, length: u64| {
            let at = usize::try_from(offset).unwrap();
            at..at + usize::try_from(length).unwrap()
        };
        let text = match operation {
            Operation::Read { offset, vectors } => format!("read {offset}+{}", vectors.len()),
            Operation::Write { offset, vectors } => format!("write {offset}+{}", vectors.len()),
            Operation::Flush => "flush".into(),
            Operation::Discard { offset, length } => format!("discard {offset}+{length}"),
            Operation::WriteZeroes {
                offset,
                length,
                unmap,
            } => format!("zero {offset}+{length} {unmap}"),
        };
        let fails = |(begin, _): &&(&str, i32)| text.starts_with(begin);
        let error = self.errors.iter().find(fails).map(|(_, errno)| *errno);
        self.log.push(text);
        if let Some(errno) = error {
            return Err(io::Error::from_raw_os_error(errno));
        }
        match operation {
            Operation::Read { offset, vectors } => {
                let source = &self.bytes[span(*offset, vectors.len() as u64)];
                assert_eq!(vectors.copy_from(source), vectors.len());
            }
            Operation::Write { offset, vectors } => {
                let target = &mut self.bytes[span(*offset, vectors.len() as u64)];
                assert_eq!(vectors.copy_to(target), vectors.len());
            }
            Operation::Flush => {}
            Operation::Discard { offset, length }
            | Operation::WriteZeroes { offset, length, .. } => {
                self.bytes[span(*offset, *length)].fill(0);
            }
        }
        Ok(())
    }
}

impl Disk for Double {
    fn capacity(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn topology(&self) -> Topology {
        self.state().topology.unwrap_or(Topology {
            logical_block: 512,
            physical_block: 4096,
            minimum_io: 4096,
            optimal_io: 65536,
        })
    }

    fn engine(&self) -> Engine {
        Engine::Sync
    }

    fn is_read_only(&self) -> bool {
        self.state().read_only
    }

    fn protects_first_sector(&self) -> bool {
        self.state().protected
    }

    fn can_write_zeroes(&self) -> bool {
        true
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn damage(&self) -> Option<String> {
        self.state().damage.clone()
    }

    fn lane(&self, depth: u16) -> io::Result<Box<dyn Lane>> {
        let waker = Kick::new()?;
        self.state().wakers.push(waker.clone());
        Ok(Box::new(Way {
            state: Arc::clone(&self.state),
            depth: depth.into(),
            waker,
            watched: Vec::new(),
            pending: VecDeque::new(),
        }))
    }

    fn resize(&self, capacity: u64) -> io::Result<()> {
        if capacity > 1 << 30 {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.state()
            .bytes
            .resize(usize::try_from(capacity).unwrap(), 0);
        Ok(())
    }

    fn identity(&self) -> io::Result<(u64, u64, u64)> {
        Ok((2049, 0, 1_234_567_890_123_456))
    }
}

/// A lane.
struct Way {
    state: Arc<Mutex<State>>,
    depth: usize,
    /// Rung when requests go on.
    waker: Kick,
    watched: Vec<(OwnedFd, u64)>,
    pending: VecDeque<Request>,
}

impl Way {
    /// Does what is pending, unless it is held.
    fn advance(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(io::Error::other("broken"));
        }
        state.deepest = state.deepest.max(self.pending.len());
        if state.held {
            return Ok(());
        }
        for Request { tag, operation } in self.pending.drain(..) {
            let result = state.perform(&operation);
            let vectors = match operation {
                Operation::Read { vectors, .. } | Operation::Write { vectors, .. } => Some(vectors),
                _ => None,
            };
            events.push(Event::Done {
                tag,
                result,
                vectors,
            });
        }
        Ok(())
    }

    /// Waits for a descriptor, or for requests to go on.
    fn look(&self, block: bool, events: &mut Vec<Event>) -> io::Result<()> {
        let watched = self.watched.iter().map(|(fd, _)| fd.as_fd());
        let all = watched.chain([self.waker.as_fd()]);
        let mut polled: Vec<_> = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let now = rustix::event::Timespec::default();
        poll(&mut polled, (!block).then_some(&now))?;
        let ready = polled.iter().zip(&self.watched);
        let ready = ready.filter(|(poll, _)| poll.revents().contains(PollFlags::IN));
        events.extend(ready.map(|(_, (_, token))| Event::Ready { token: *token }));
        self.waker.take();
        Ok(())
    }
}

impl Lane for Way {
    fn push(&mut self, request: Request) {
        let known = self.pending.iter().any(|other| other.tag == request.tag);
        assert!(
            !known && self.pending.len() < self.depth,
            "more than the lane takes"
        );
        self.pending.push_back(request);
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.watched.push((fd.try_clone_to_owned()?, token));
        Ok(())
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        loop {
            self.advance(events)?;
            self.look(events.is_empty(), events)?;
            if !events.is_empty() {
                return Ok(());
            }
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.advance(events)?;
        self.look(false, events)
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        loop {
            self.advance(events)?;
            if self.pending.is_empty() {
                return Ok(());
            }
            self.state.lock().unwrap().draining = true;
            let mut polled = [PollFd::new(&self.waker, PollFlags::IN)];
            poll(&mut polled, None)?;
            self.waker.take();
        }
    }
}
