//! What the threads of a device share.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use limiter::{Limiter, RateLimiterConfig};
use memory::GuestRam;
use reactor::Kick;
use tap::Tap;
use virtio::ConfigChange;

use crate::times::Times;
use crate::{MacAddress, feature};

/// Status: the link is up; the driver is asked to announce itself (VIRTIO 1.3, 5.1.4).
pub(crate) const LINK_UP: u16 = 1;
pub(crate) const ANNOUNCE: u16 = 2;

/// What a reset of the guest leaves as it is.
#[derive(Debug)]
pub struct HostEnd {
    pub(crate) tap: Tap,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: Option<u16>,
    /// On which of its queues the host sends.
    attached: Mutex<Vec<bool>>,
}

impl HostEnd {
    /// A tap whose queues are all attached.
    pub(crate) fn new(tap: Tap, mac: MacAddress, mtu: Option<u16>) -> Self {
        let attached = Mutex::new(vec![true; tap.queues().len()]);
        Self {
            tap,
            mac,
            mtu,
            attached,
        }
    }
}

/// Shared by the threads of a device's queues.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) host: Arc<HostEnd>,
    /// The guest's memory.
    pub(crate) ram: GuestRam,
    /// Features that the driver agreed to.
    pub(crate) features: AtomicU64,
    /// Offloads that the driver chose, or [`NOT_CHOSEN`].
    offloads: AtomicU64,
    /// How many pairs the host sends on.
    active: AtomicU16,
    status: AtomicU16,
    pub(crate) counters: Counters,
    /// One for each pair.
    pub(crate) times: Vec<Times>,
    pub(crate) receive_limit: Option<Limiter>,
    pub(crate) transmit_limit: Option<Limiter>,
    /// One for each pair: there is something to look at for its worker.
    pub(crate) bells: Vec<Kick>,
    pub(crate) change: OnceLock<ConfigChange>,
}

const NOT_CHOSEN: u64 = u64::MAX;

impl Shared {
    pub(crate) fn new(
        host: Arc<HostEnd>,
        ram: GuestRam,
        limits: Option<&RateLimiterConfig>,
    ) -> io::Result<Self> {
        let limits = limits.filter(|limits| limits.is_limit());
        let limiter = || limits.map(|limits| Limiter::new(limits, Instant::now()));
        let bell = |_| Kick::new();
        let bells = host
            .tap
            .queues()
            .iter()
            .map(bell)
            .collect::<io::Result<_>>()?;
        let times = host.tap.queues().iter().map(|_| Times::default());
        let times: Vec<_> = times.collect();
        Ok(Self {
            host,
            ram,
            features: AtomicU64::new(0),
            offloads: AtomicU64::new(NOT_CHOSEN),
            active: AtomicU16::new(1),
            status: AtomicU16::new(LINK_UP),
            counters: Counters::default(),
            times,
            receive_limit: limiter(),
            transmit_limit: limiter(),
            bells,
            change: OnceLock::new(),
        })
    }

    /// Most pairs.
    pub(crate) fn pairs(&self) -> u16 {
        u16::try_from(self.bells.len()).unwrap_or(u16::MAX)
    }

    /// How many pairs the driver uses.
    pub(crate) fn active(&self) -> u16 {
        self.active.load(Ordering::Acquire)
    }

    /// The driver uses so many pairs from now on. They may be applied later.
    pub(crate) fn note_pairs(&self, pairs: u16) {
        self.active.store(pairs, Ordering::Release);
    }

    /// Lets the host send on the first `pairs` queues only.
    pub(crate) fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        let mut attached = self.attached();
        // Workers of queues that go do not take their error for the end of the tap, and those of queues that come
        // begin when they are there.
        self.active.fetch_min(pairs, Ordering::AcqRel);
        for (index, queue) in self.host.tap.queues().iter().enumerate().skip(1) {
            let wanted = index < usize::from(pairs);
            if attached[index] != wanted {
                queue.set_attached(wanted)?;
                attached[index] = wanted;
            }
        }
        self.active.store(pairs, Ordering::Release);
        drop(attached);
        for bell in &self.bells {
            bell.signal();
        }
        Ok(())
    }

    /// Does something while no queue is attached or detached. Whether queue `index` is attached is told.
    pub(crate) fn while_settled<R>(&self, index: usize, act: impl FnOnce(bool) -> R) -> R {
        let attached = self.attached();
        act(attached.get(index).copied().unwrap_or(false))
    }

    fn attached(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        let attached = &self.host.attached;
        attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offloads that the driver chose at run time.
    pub(crate) fn chosen_offloads(&self) -> Option<u64> {
        let chosen = self.offloads.load(Ordering::Acquire);
        (chosen != NOT_CHOSEN).then_some(chosen)
    }

    pub(crate) fn note_offloads(&self, chosen: Option<u64>) {
        let chosen = chosen.unwrap_or(NOT_CHOSEN);
        self.offloads.store(chosen, Ordering::Release);
    }

    /// Tells the tap what frames may have.
    pub(crate) fn apply_offloads(&self, features: u64) -> io::Result<()> {
        match self.host.tap.queues().first() {
            Some(queue) => queue.set_offloads(feature::offloads(features)),
            None => Ok(()),
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.status.load(Ordering::Acquire)
    }

    /// Sets and clears bits of the status; the driver hears of it if anything changed.
    pub(crate) fn change_status(&self, set: u16, clear: u16) {
        let change = |status: u16| Some((status & !clear) | set);
        let (order, load) = (Ordering::AcqRel, Ordering::Acquire);
        let before = self.status.fetch_update(order, load, change);
        let before = before.unwrap_or_else(|status| status);
        if before != (before & !clear) | set
            && let Some(line) = self.change.get()
        {
            line.announce();
        }
    }

    /// Sets or clears the wish for an announcement, without a word to the driver.
    pub(crate) fn note_announce(&self, wanted: bool) {
        if wanted {
            self.status.fetch_or(ANNOUNCE, Ordering::AcqRel);
        } else {
            self.status.fetch_and(!ANNOUNCE, Ordering::AcqRel);
        }
    }
}

/// What was counted since the device was built. Frames without the header of offloads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) receive: Direction,
    pub(crate) transmit: Direction,
}

/// One direction's part.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    bytes: AtomicU64,
    frames: AtomicU64,
    dropped: AtomicU64,
}

/// What one turn of a worker adds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    pub(crate) frames: u64,
    pub(crate) dropped: u64,
}

impl Direction {
    pub(crate) fn add(&self, tally: Tally) {
        self.bytes.fetch_add(tally.bytes, Ordering::Relaxed);
        self.frames.fetch_add(tally.frames, Ordering::Relaxed);
        if tally.dropped > 0 {
            self.dropped.fetch_add(tally.dropped, Ordering::Relaxed);
        }
    }
}

impl Counters {
    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("rx_bytes", of(&self.receive.bytes)),
            ("rx_frames", of(&self.receive.frames)),
            ("tx_bytes", of(&self.transmit.bytes)),
            ("tx_frames", of(&self.transmit.frames)),
            ("rx_dropped", of(&self.receive.dropped)),
            ("tx_dropped", of(&self.transmit.dropped)),
        ]
    }
}
