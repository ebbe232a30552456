//! The thread that hears pings and watches the clock.

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use device::{Power, PowerEvent};
use reactor::{Interest, Readiness, Sources, Timer, Token, Worker};
use virtio::Ring;

const KICK: Token = Token(0);
const CLOCK: Token = Token(1);
/// What a ping comes back with.
const ALIVE: u8 = 1;

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pings: AtomicU64,
    resets: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        vec![
            ("pings", value(&self.pings)),
            ("resets", value(&self.resets)),
        ]
    }
}

/// The worker.
pub(crate) struct Guard {
    /// There while the queue runs.
    pub(crate) ring: Option<Ring>,
    timeout: Duration,
    /// Time until the reset, from `since` on; none before the first ping, and after the reset was asked for.
    pub(crate) left: Option<Duration>,
    since: Instant,
    timer: Option<Timer>,
    power: Power,
    counts: Arc<Counts>,
}

impl Guard {
    pub(crate) fn new(timeout: Duration, power: Power, counts: Arc<Counts>) -> Self {
        Self {
            ring: None,
            timeout,
            left: None,
            since: Instant::now(),
            timer: None,
            power,
            counts,
        }
    }

    /// Stops the clock and gives the ring back. After the thread has ended.
    pub(crate) fn pause(&mut self) -> Option<Ring> {
        self.timer = None;
        self.left = self
            .left
            .map(|left| left.saturating_sub(self.since.elapsed()));
        self.ring.take()
    }

    /// Gives back the pings that are there, no more than a queue full at a time, so that a driver that never stops
    /// does not keep the worker from being stopped. Whether there were any.
    fn hear(&mut self) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        ring.kick().take();
        ring.silence();
        let mut pings = 0;
        while pings < ring.size()
            && let Some(mut chain) = ring.pop()
        {
            let mut writer = chain.writer();
            // No room is no mistake: nothing says that there must be.
            let written = writer.write(&[ALIVE]).map_or(0, |_| writer.written());
            ring.complete(chain, written);
            pings += 1;
        }
        ring.notify();
        if ring.listen() {
            ring.kick().signal();
        }
        self.counts.pings.fetch_add(pings.into(), Ordering::Relaxed);
        pings > 0
    }

    /// Sets the timer to what is left from now on.
    fn set(&mut self) -> io::Result<()> {
        self.since = Instant::now();
        match (&self.timer, self.left) {
            (Some(timer), Some(left)) => timer.set(left),
            _ => Ok(()),
        }
    }

    /// Whether the guest has been silent for too long.
    fn is_over(&self) -> bool {
        self.left.is_some_and(|left| self.since.elapsed() >= left)
    }

    fn reset(&mut self) {
        self.left = None;
        self.counts.resets.fetch_add(1, Ordering::Relaxed);
        telemetry::warn!(
            "watchdog: the guest has not pinged for {:?}: the machine is reset",
            self.timeout
        );
        self.power.request(PowerEvent::Reset);
    }
}

impl Worker for Guard {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        if let Some(ring) = &self.ring {
            sources.add(ring.kick(), KICK, Interest::READ)?;
        }
        self.timer = Some(sources.add_timer(CLOCK)?);
        self.set()
    }

    fn ready(
        &mut self,
        token: Token,
        _: Readiness,
        _: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        if token == CLOCK
            && let Some(timer) = &self.timer
        {
            timer.take();
        }
        // Pings come first: one may be in the queue when the time is over, after a pause for instance.
        if self.hear() {
            self.left = Some(self.timeout);
            self.set()?;
        } else if self.is_over() {
            self.reset();
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("timeout", &self.timeout)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
