//! Output to a reader that comes, lags and goes as it likes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reactor::Kick;
use rustix::io::Errno;

use crate::ring::Ring;

/// The most bytes that one call moves from the ring to the reader. A vCPU thread that prints may
/// wait for the lock that long, and no longer.
const FLUSH_LIMIT: usize = 64 << 10;

/// Output that is delivered if a reader is there and takes it, and kept in a [`Ring`] if not.
///
/// Shared by the [`Output`](crate::Output)s, which write, and the worker, which says who the
/// reader is and delivers the rest when a slow reader has caught up.
#[derive(Debug)]
pub(crate) struct Kept {
    state: Mutex<State>,
    /// Rings when the worker should start to wait for the reader to take more.
    lagging: Kick,
}

#[derive(Debug, Default)]
struct State {
    ring: Ring,
    reader: Reader,
}

/// Whoever is at the other end, if anybody.
#[derive(Debug, Default)]
struct Reader {
    /// Non-blocking.
    fd: Option<Arc<OwnedFd>>,
    /// It has not taken what is in the ring. Until the worker has seen it do so, writers do not
    /// even try: that would cost a system call per byte printed.
    lagging: bool,
}

impl Kept {
    pub(crate) fn new(lagging: Kick) -> Self {
        Self {
            state: Mutex::default(),
            lagging,
        }
    }

    /// Delivers or keeps all of `bytes`. Never blocks.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let was_lagging = state.reader.lagging;
        let sent = if state.ring.is_empty() {
            state.reader.send(bytes)
        } else {
            0
        };
        state.ring.push(&bytes[sent..]);
        if state.reader.lagging && !was_lagging {
            self.lagging.signal();
        }
    }

    /// Somebody reads now, at the other end of a non-blocking descriptor: delivers what was kept
    /// for them.
    pub(crate) fn attach(&self, reader: Arc<OwnedFd>) {
        let mut state = self.lock();
        state.reader.fd = Some(reader);
        state.flush();
    }

    /// Nobody reads any more.
    pub(crate) fn detach(&self) {
        self.lock().reader = Reader::default();
    }

    /// The reader has taken some: delivers more.
    pub(crate) fn flush(&self) {
        self.lock().flush();
    }

    /// Whether to call [`Kept::flush`] once the reader can take more.
    pub(crate) fn is_lagging(&self) -> bool {
        self.lock().reader.lagging
    }

    /// Bytes that no reader will ever see.
    pub(crate) fn forgotten(&self) -> u64 {
        self.lock().ring.forgotten()
    }

    #[cfg(test)]
    pub(crate) fn has_reader(&self) -> bool {
        self.lock().reader.fd.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the state is true after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Delivers from the ring, up to [`FLUSH_LIMIT`] bytes.
    fn flush(&mut self) {
        let mut budget = FLUSH_LIMIT;
        self.reader.lagging = false;
        while !self.ring.is_empty() && budget > 0 {
            let front = self.ring.front();
            let sent = self.reader.send(&front[..front.len().min(budget)]);
            if sent == 0 {
                break;
            }
            self.ring.consume(sent);
            budget -= sent;
        }
        self.reader.lagging = !self.ring.is_empty() && self.reader.fd.is_some();
    }
}

impl Reader {
    /// Sends as much of `bytes` as the reader takes now; returns how many bytes that was.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(fd) = &self.fd
            && sent < bytes.len()
        {
            match rustix::io::write(&**fd, &bytes[sent..]) {
                // A full pseudo terminal may take nothing and call that a success.
                Ok(0) | Err(Errno::AGAIN) => {
                    self.lagging = true;
                    break;
                }
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                // The reader is gone, whatever the error says. The worker notices by itself and
                // takes the next one in.
                Err(_) => *self = Self::default(),
            }
        }
        sent
    }
}
