//! The queue of events and the thread that empties it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Event;
use crate::Error;

/// How many events wait for a slow reader. The longest known burst, a machine with hundreds of
/// devices that start, fits.
const CAPACITY: usize = 1024;

/// How long the thread sleeps when the sink is full, before it tries again.
///
/// Sleeping instead of polling keeps the thread's system calls to those that every thread has.
const PAUSE: Duration = Duration::from_millis(5);

/// A running event thread.
#[derive(Debug)]
pub(super) struct Monitor {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when the queue gets an event.
    arrived: Condvar,
    /// Told when everything is written, or never will be.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    /// An event left the queue and is not all written yet.
    writing: bool,
    /// Events that found the queue full.
    lost: u64,
    /// How many of those the log was told about.
    told: u64,
    /// The sink failed for good.
    broken: bool,
}

impl Monitor {
    /// Starts the thread, and returns when `prepare` has run on it.
    pub(super) fn start(
        sink: File,
        prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Self, Error> {
        let flags = fcntl_getfl(&sink).map_err(|e| Error::Sink(e.into()))?;
        fcntl_setfl(&sink, flags | OFlags::NONBLOCK).map_err(|e| Error::Sink(e.into()))?;

        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("event-monitor".to_owned());
        let run = {
            let shared = Arc::clone(&shared);
            move || {
                let prepared = prepare();
                let go = prepared.is_ok();
                let _ = ready.send(prepared);
                if go {
                    shared.run(sink);
                }
            }
        };
        thread.spawn(run).map_err(Error::Thread)?;
        let died = |_| io::Error::other("the thread ended while it was prepared");
        is_ready
            .recv()
            .map_err(died)
            .flatten()
            .map_err(Error::Thread)?;
        Ok(Self { shared })
    }

    /// Puts an event in the queue, or counts it as lost if that is full.
    pub(super) fn send(&self, event: Event) {
        let mut state = self.shared.lock();
        if state.broken {
            return;
        }
        if state.queue.len() >= CAPACITY {
            state.lost += 1;
            return;
        }
        state.queue.push_back(event);
        self.shared.arrived.notify_one();
    }

    /// Waits until the queue is empty and written. Whether it is, within the time.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let busy = |state: &mut State| !state.broken && !state.is_idle();
        let waited = self
            .shared
            .idle
            .wait_timeout_while(self.shared.lock(), timeout, busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_idle()
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.writing
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes events as they come, until the sink fails.
    fn run(&self, mut sink: File) {
        loop {
            let (event, lost) = self.next();
            if lost > 0 {
                crate::warn!(
                    "{lost} events were lost, as the reader of --event-monitor was too slow"
                );
            }
            if let Err(error) = write(&mut sink, &event) {
                crate::warn!("no more events: the sink of --event-monitor failed: {error}");
                let mut state = self.lock();
                state.broken = true;
                state.queue = VecDeque::new();
                self.idle.notify_all();
                return;
            }
        }
    }

    /// Waits for the next event; also says how many more were lost by now.
    fn next(&self) -> (Event, u64) {
        let mut state = self.lock();
        state.writing = false;
        if state.is_idle() {
            self.idle.notify_all();
        }
        loop {
            if let Some(event) = state.queue.pop_front() {
                state.writing = true;
                let news = state.lost - state.told;
                state.told = state.lost;
                return (event, news);
            }
            state = self
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes an event and its empty line to a sink that may be full for a while.
fn write(sink: &mut impl Write, event: &Event) -> io::Result<()> {
    let text = event.to_json() + "\n\n";
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match sink.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
