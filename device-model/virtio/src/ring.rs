//! A split virtqueue at work (VIRTIO 1.3, 2.7).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memory::GuestRam;
use reactor::Kick;

use crate::chain::{Buffer, Chain};
use crate::queue::QueueAddresses;
use crate::walk::walk;
use crate::{Error, Line, Result, feature};

#[cfg(test)]
mod tests;

/// Available ring flag: the driver wants no interrupts (VIRTIO 1.3, 2.7.6).
const NO_INTERRUPT: u16 = 1;
/// Used ring flag: the device wants no doorbells (VIRTIO 1.3, 2.7.8).
const NO_NOTIFY: u16 = 1;

/// What a ring is made of.
pub struct RingParts {
    /// The queue's index in its device.
    pub index: u16,
    /// Its place in memory.
    pub addresses: QueueAddresses,
    /// Features that driver and device agreed on.
    pub features: u64,
    /// The guest's memory.
    pub ram: GuestRam,
    /// What the driver rings.
    pub kick: Kick,
    /// What the driver hears.
    pub line: Arc<dyn Line>,
    /// Where to go on in the available ring; 0 for a new queue.
    pub next_available: u16,
    /// Where to go on in the used ring; 0 for a new queue.
    pub next_used: u16,
}

/// A queue that a device works on: it owns its position, its doorbell and its interrupt, so that whoever has it
/// needs nothing else, and nobody else can work on the queue.
///
/// If the driver breaks the rules the ring says so in the log, asks for a reset of the device, and is empty from
/// then on.
pub struct Ring {
    index: u16,
    addresses: QueueAddresses,
    features: u64,
    ram: GuestRam,
    kick: Kick,
    line: Arc<dyn Line>,
    next_available: u16,
    next_used: u16,
    /// The used index when the driver was told last.
    told: u16,
    in_flight: u16,
    broken: bool,
    /// Lists of completed chains, to be used again: nothing is allocated per request in the long run.
    spare: Vec<Vec<Buffer>>,
}

impl Ring {
    /// Puts a ring together.
    #[must_use]
    pub fn new(parts: RingParts) -> Self {
        let RingParts {
            index,
            addresses,
            features,
            ram,
            kick,
            line,
            next_available,
            next_used,
        } = parts;
        Self {
            index,
            addresses,
            features,
            ram,
            kick,
            line,
            next_available,
            next_used,
            told: next_used,
            in_flight: 0,
            broken: false,
            spare: Vec::new(),
        }
    }

    /// The queue's index in its device.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors: the most chains there can be at a time.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.addresses.size
    }

    /// Features that driver and device agreed on.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether a feature, given as its mask, was agreed on.
    #[must_use]
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// What the driver rings when it made chains available.
    #[must_use]
    pub fn kick(&self) -> &Kick {
        &self.kick
    }

    /// Chains that were popped and not completed.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The driver broke the rules: there will be no more chains.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Position in the available ring: the chain that comes next.
    #[must_use]
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Position in the used ring.
    #[must_use]
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Whether the driver has made chains available that were not popped. Cheap: for those who look again and again.
    #[must_use]
    pub fn has_more(&self) -> bool {
        let available = self.load(QueueAddresses::AVAILABLE_INDEX, Ordering::Acquire);
        !self.broken && available.is_ok_and(|available| available != self.next_available)
    }

    /// The next chain that the driver made available, if there is one.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.broken {
            return None;
        }
        self.try_pop().unwrap_or_else(|error| {
            self.fail(&error);
            None
        })
    }

    /// Puts back the chain that was popped last: it comes again. For a chain that cannot be used yet.
    pub fn put_back(&mut self, chain: Chain) {
        self.next_available = self.next_available.wrapping_sub(1);
        self.retire(chain);
    }

    /// Gives a chain back to the driver, with the number of bytes that were written to it, from the start. The
    /// driver hears of it with the next [`Ring::notify`].
    pub fn complete(&mut self, chain: Chain, written: u32) {
        let head = chain.head;
        let written = written.min(chain.writable_len);
        self.retire(chain);
        if self.broken {
            return;
        }
        if let Err(error) = self.put_used(head, written).and_then(|()| self.publish()) {
            self.fail(&error);
        }
    }

    /// Gives chains back, each with the number of bytes that were written to it, in such a way that the driver sees
    /// all of them or none: a frame that takes several chains (VIRTIO 1.3, 5.1.6.4). Otherwise as [`Ring::complete`].
    pub fn complete_together(&mut self, chains: impl IntoIterator<Item = (Chain, u32)>) {
        let mut put = Ok(());
        for (chain, written) in chains {
            let head = chain.head;
            let written = written.min(chain.writable_len);
            self.retire(chain);
            if !self.broken && put.is_ok() {
                put = self.put_used(head, written);
            }
        }
        if self.broken {
            return;
        }
        if let Err(error) = put.and_then(|()| self.publish()) {
            self.fail(&error);
        }
    }

    /// Interrupts the driver, if there are used chains that it does not know of and wants to.
    pub fn notify(&mut self) {
        match self.wants_interrupt() {
            Ok(true) => self.line.used(self.index),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Asks the driver to ring from now on. True if there are chains already, for which it may not ring.
    pub fn listen(&mut self) -> bool {
        self.try_listen().unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    /// Asks the driver not to ring for now, because the ring is being looked at anyway.
    pub fn silence(&mut self) {
        if !self.has(feature::EVENT_IDX)
            && let Err(error) = self.store(0, NO_NOTIFY, Ordering::Relaxed)
        {
            self.fail(&error);
        }
    }

    /// The driver broke a rule: the ring is dead and the device asks for a reset. What the driver did is told in the
    /// log. For devices that find nonsense in a chain.
    pub fn fail(&mut self, why: &Error) {
        if !self.broken {
            telemetry::warn!(
                "virtio: queue {} is dead until its device is reset: {why}",
                self.index
            );
            self.broken = true;
            self.line.needs_reset();
        }
    }

    pub(crate) fn try_pop(&mut self) -> Result<Option<Chain>> {
        let size = self.addresses.size;
        let available = self.load(QueueAddresses::AVAILABLE_INDEX, Ordering::Acquire)?;
        let waiting = available.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        // Descriptors of chains in flight are not the driver's to use again.
        if waiting > size || self.in_flight >= size {
            let waiting = waiting.saturating_add(self.in_flight);
            return Err(Error::TooManyAvailable { waiting, size });
        }
        let element = self.addresses.available_element(self.next_available);
        let head = self.load(element, Ordering::Relaxed)?;
        let mut buffers = self.spare.pop().unwrap_or_default();
        let indirect = self.has(feature::INDIRECT_DESC);
        let shape = walk(&self.ram, &self.addresses, indirect, head, &mut buffers)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.in_flight += 1;
        Ok(Some(Chain {
            head,
            buffers,
            readable: shape.readable,
            readable_len: shape.readable_len,
            writable_len: shape.writable_len,
            ram: self.ram.clone(),
        }))
    }

    fn retire(&mut self, chain: Chain) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let mut buffers = chain.buffers;
        buffers.clear();
        self.spare.push(buffers);
    }

    /// Puts an element into the used ring, which the driver does not see yet.
    fn put_used(&mut self, head: u16, written: u32) -> Result<()> {
        let [h0, h1] = head.to_le_bytes();
        let [w0, w1, w2, w3] = written.to_le_bytes();
        let at = self.addresses.used_element(self.next_used);
        let element = [h0, h1, 0, 0, w0, w1, w2, w3];
        self.addresses
            .used
            .view()
            .write(at, element)
            .ok_or(BEYOND)?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver what was put into the used ring.
    fn publish(&self) -> Result<()> {
        // The driver sees the element, and what was written to the buffers, before the index.
        self.store(
            QueueAddresses::USED_INDEX,
            self.next_used,
            Ordering::Release,
        )
    }

    fn wants_interrupt(&mut self) -> Result<bool> {
        let (before, now) = (self.told, self.next_used);
        if before == now || self.broken {
            return Ok(false);
        }
        self.told = now;
        // What was used is visible before it is asked whether the driver waits for it.
        fence(Ordering::SeqCst);
        if self.has(feature::EVENT_IDX) {
            let event = self.load(self.addresses.used_event(), Ordering::Relaxed)?;
            // Whether the step past `event` is among those since the driver was told (VIRTIO 1.3, 2.7.7).
            let since_event = now.wrapping_sub(event).wrapping_sub(1);
            return Ok(since_event < now.wrapping_sub(before));
        }
        let flags = self.load(0, Ordering::Relaxed)?;
        Ok(flags & NO_INTERRUPT == 0)
    }

    fn try_listen(&mut self) -> Result<bool> {
        if self.broken {
            return Ok(false);
        }
        if self.has(feature::EVENT_IDX) {
            self.store(
                self.addresses.available_event(),
                self.next_available,
                Ordering::Relaxed,
            )?;
        } else {
            self.store(0, 0, Ordering::Relaxed)?;
        }
        // The driver sees the wish before its index is looked at once more.
        fence(Ordering::SeqCst);
        let available = self.load(QueueAddresses::AVAILABLE_INDEX, Ordering::Acquire)?;
        Ok(available != self.next_available)
    }

    /// Reads what the driver has written, at this place of the available ring.
    fn load(&self, offset: u64, order: Ordering) -> Result<u16> {
        let ring = self.addresses.available.view();
        ring.load(offset, order).ok_or(BEYOND)
    }

    /// Writes for the driver, at this place of the used ring.
    fn store(&self, offset: u64, value: u16, order: Ordering) -> Result<()> {
        let ring = self.addresses.used.view();
        ring.store(offset, value, order).ok_or(BEYOND)
    }
}

/// The places in a ring are computed from its size, and its parts were checked to be that long.
const BEYOND: Error = Error::Design("a place in a ring is beyond its end");

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("index", &self.index)
            .field("addresses", &self.addresses)
            .field("next_available", &self.next_available)
            .field("next_used", &self.next_used)
            .field("in_flight", &self.in_flight)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
