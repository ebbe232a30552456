//! From a device to its driver: interrupts, and the request to be reset.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use pci::Msix;

/// What a device can tell its driver, whatever the transport. Callable from any thread.
pub trait Line: Send + Sync {
    /// There are used buffers in a queue.
    fn used(&self, queue: u16);
    /// Configuration fields have changed.
    fn config_changed(&self);
    /// The device cannot go on until it is reset.
    fn needs_reset(&self);
}

/// Tells the driver that configuration fields have changed. A device gets one in
/// [`VirtioDevice::attach`](crate::VirtioDevice::attach). Cheap to clone, callable from any thread.
#[derive(Clone)]
pub struct ConfigChange(Arc<dyn Line>);

impl ConfigChange {
    /// Announces changes over `line`.
    #[must_use]
    pub fn new(line: Arc<dyn Line>) -> Self {
        Self(line)
    }

    /// Announces that fields have changed; they must have their new values already.
    pub fn announce(&self) {
        self.0.config_changed();
    }
}

impl fmt::Debug for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigChange").finish_non_exhaustive()
    }
}

/// No vector: events of this kind send no interrupt (VIRTIO 1.3, 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;
/// ISR status: used buffers, changed configuration (VIRTIO 1.3, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The line of a PCI device: MSI-X vectors as the driver assigned them, and the ISR status byte for drivers
/// that poll.
pub(crate) struct PciLine {
    pub(crate) msix: Arc<Msix>,
    isr: AtomicU8,
    generation: AtomicU8,
    needs_reset: AtomicBool,
    /// The driver has set `DRIVER_OK`: before, it hears nothing (VIRTIO 1.3, 3.1.1).
    live: AtomicBool,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
}

impl PciLine {
    pub(crate) fn new(msix: Arc<Msix>, queues: usize) -> Self {
        Self {
            msix,
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
            live: AtomicBool::new(false),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    /// Forgets what the driver assigned and what waits to be told.
    pub(crate) fn reset(&self) {
        self.live.store(false, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
        self.isr.store(0, Ordering::Release);
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
    }

    pub(crate) fn set_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The ISR status byte. Not taken by this.
    pub(crate) fn isr(&self) -> u8 {
        self.isr.load(Ordering::Acquire)
    }

    /// The driver reads the ISR status byte, which clears it.
    pub(crate) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    pub(crate) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    /// Assigns a vector. One that does not exist reads back as none.
    pub(crate) fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.existing(vector), Ordering::Release);
    }

    pub(crate) fn queue_vector(&self, queue: u16) -> u16 {
        let vector = self.queue_vectors.get(usize::from(queue));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// Assigns a vector. One that does not exist reads back as none.
    pub(crate) fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(place) = self.queue_vectors.get(usize::from(queue)) {
            place.store(self.existing(vector), Ordering::Release);
        }
    }

    /// Puts saved values back.
    pub(crate) fn restore(&self, isr: u8, generation: u8, needs_reset: bool, live: bool) {
        self.isr.store(isr, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
        self.needs_reset.store(needs_reset, Ordering::Release);
        self.live.store(live, Ordering::Release);
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.count() {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn notify_config(&self) {
        if self.live.load(Ordering::Acquire) {
            // With MSI-X too (VIRTIO 1.3, 4.1.4.5.1).
            self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
            self.msix.trigger(self.config_vector());
        }
    }
}

impl Line for PciLine {
    fn used(&self, queue: u16) {
        if self.msix.is_enabled() {
            self.msix.trigger(self.queue_vector(queue));
        } else {
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        }
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.notify_config();
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.notify_config();
    }
}
