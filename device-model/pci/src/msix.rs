//! Message signalled interrupts with a table (PCI Local Bus specification 3.0, 6.8.2).
//!
//! The guest writes into the table where each vector's message goes, and masks and unmasks vectors. A vector
//! that is masked when the device signals it becomes *pending*, and is sent when it is unmasked. Device threads
//! signal while vCPU threads mask: each vector has a small lock of its own, so that none of the two is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hypervisor::{Msi, MsiMessage, Vm};
use serde::{Deserialize, Serialize};

use crate::{Capability, Error, Result};

#[cfg(test)]
mod tests;

/// Bytes of a table entry: message address, message data, vector control.
const ENTRY: u64 = 16;
/// The most vectors that the capability can express.
const MAX_VECTORS: usize = 2048;
/// Vector control: masked.
const MASKED: u32 = 1;
/// Message control, upper byte: enabled, and all vectors masked.
const ENABLE: u8 = 1 << 7;
const FUNCTION_MASK: u8 = 1 << 6;

/// An interrupt that the hypervisor delivers: [`hypervisor::Msi`], or a stand-in in tests.
pub trait Vector: Send + Sync {
    /// Sets what it delivers.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    fn set(&self, message: Option<MsiMessage>) -> hypervisor::Result<()>;
    /// Delivers it once.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    fn trigger(&self) -> hypervisor::Result<()>;
}

impl Vector for Msi {
    fn set(&self, message: Option<MsiMessage>) -> hypervisor::Result<()> {
        Self::set(self, message)
    }

    fn trigger(&self) -> hypervisor::Result<()> {
        Self::trigger(self)
    }
}

/// Makes interrupt vectors: a machine, or a stand-in in tests.
pub trait Interrupts: Send + Sync {
    /// One more vector.
    ///
    /// # Errors
    /// If the hypervisor has none left.
    fn vector(&self) -> hypervisor::Result<Box<dyn Vector>>;
}

impl Interrupts for Arc<dyn Vm> {
    fn vector(&self) -> hypervisor::Result<Box<dyn Vector>> {
        Ok(Box::new(self.msi()?))
    }
}

/// The table and the pending bits of one function. Shared by the configuration space, which has the switch for
/// all of it, the BAR that has the table, and the threads that signal.
pub struct Msix {
    vectors: Vec<Mutex<Entry>>,
    enabled: AtomicBool,
    function_mask: AtomicBool,
}

struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
    line: Box<dyn Vector>,
    /// What the hypervisor was told last: it is told only what is new, because telling it is slow.
    told: Option<MsiMessage>,
}

/// The state of a table at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    /// The function uses message signalled interrupts.
    pub enabled: bool,
    /// All vectors are masked.
    pub function_mask: bool,
    /// The vectors, in order.
    pub vectors: Vec<VectorState>,
}

/// The state of one vector at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorState {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// It is masked.
    pub masked: bool,
    /// It was signalled while it was masked.
    pub pending: bool,
}

impl Msix {
    /// Bits of message control that the guest can write.
    pub(crate) const CONTROL_WRITABLE: [u8; 2] = [0, ENABLE | FUNCTION_MASK];

    /// A table of `count` vectors, 1 to 2048, all masked.
    ///
    /// # Errors
    /// [`Error::Vector`] if the hypervisor has not enough of them, [`Error::Design`] for another count.
    pub fn new(count: u16, interrupts: &dyn Interrupts) -> Result<Self> {
        if count == 0 || usize::from(count) > MAX_VECTORS {
            return Err(Error::Design("a function has 1 to 2048 MSI-X vectors"));
        }
        let entry = |_| {
            let line = interrupts.vector().map_err(Error::Vector)?;
            let (address, data, told) = (0, 0, None);
            Ok(Mutex::new(Entry {
                address,
                data,
                masked: true,
                pending: false,
                line,
                told,
            }))
        };
        Ok(Self {
            vectors: (0..count).map(entry).collect::<Result<_>>()?,
            enabled: AtomicBool::new(false),
            function_mask: AtomicBool::new(false),
        })
    }

    /// Number of vectors.
    #[must_use]
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// The guest has turned it on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Signals a vector. A vector that does not exist, and any vector while the function does not use MSI-X,
    /// goes nowhere.
    pub fn trigger(&self, vector: u16) {
        let Some(mut entry) = self.entry(vector.into()) else {
            return;
        };
        if self.is_enabled() {
            entry.pending = true;
            self.settle(&mut entry);
        }
    }

    /// A guest's read of the table, `offset` bytes from its start. Aligned accesses of 4 and 8 bytes only;
    /// for others `data` stays as it is.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let Some((index, field)) = place(offset, data.len()) else {
            return;
        };
        let Some(entry) = self.entry(index) else {
            return;
        };
        data.copy_from_slice(&entry.bytes()[field..field + data.len()]);
    }

    /// A guest's write to the table. Aligned accesses of 4 and 8 bytes only; others are lost.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let Some((index, field)) = place(offset, data.len()) else {
            return;
        };
        let Some(mut entry) = self.entry(index) else {
            return;
        };
        let mut bytes = entry.bytes();
        bytes[field..field + data.len()].copy_from_slice(data);
        entry.put(&bytes);
        self.settle(&mut entry);
    }

    /// A guest's read of the pending bits. Aligned accesses of 4 and 8 bytes only. They cannot be written.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        if !is_aligned(offset, data.len()) {
            return;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().enumerate() {
            let first = start.saturating_add(byte).saturating_mul(8);
            *value = (0..8).fold(0, |bits, bit| {
                let pending = self
                    .entry(first.saturating_add(bit))
                    .is_some_and(|entry| entry.pending);
                bits | u8::from(pending) << bit
            });
        }
    }

    /// The two bytes of message control.
    pub(crate) fn control(&self) -> [u8; 2] {
        let [low, mut high] = u16::try_from(self.vectors.len() - 1)
            .unwrap_or(0)
            .to_le_bytes();
        if self.is_enabled() {
            high |= ENABLE;
        }
        if self.function_mask.load(Ordering::Acquire) {
            high |= FUNCTION_MASK;
        }
        [low, high]
    }

    fn set_control(&self, high: u8) {
        self.enabled.store(high & ENABLE != 0, Ordering::Release);
        self.function_mask
            .store(high & FUNCTION_MASK != 0, Ordering::Release);
        for vector in &self.vectors {
            self.settle(&mut lock(vector));
        }
    }

    /// Takes the table back to what it is after a reset.
    pub fn reset(&self) {
        self.set_control(0);
        for vector in &self.vectors {
            let mut entry = lock(vector);
            (entry.address, entry.data, entry.masked, entry.pending) = (0, 0, true, false);
        }
    }

    /// Its state, for [`Msix::restore`].
    #[must_use]
    pub fn save(&self) -> MsixState {
        let state = |vector: &Mutex<Entry>| {
            let entry = lock(vector);
            let Entry {
                address,
                data,
                masked,
                pending,
                ..
            } = *entry;
            VectorState {
                address,
                data,
                masked,
                pending,
            }
        };
        MsixState {
            enabled: self.is_enabled(),
            function_mask: self.function_mask.load(Ordering::Acquire),
            vectors: self.vectors.iter().map(state).collect(),
        }
    }

    /// Puts a state back.
    ///
    /// # Errors
    /// [`Error::State`] if it is of a table of another size; nothing has changed then.
    pub fn restore(&self, state: &MsixState) -> Result<()> {
        if state.vectors.len() != self.vectors.len() {
            let (there, here) = (state.vectors.len(), self.vectors.len());
            return Err(Error::State(format!(
                "it has {there} vectors instead of {here}"
            )));
        }
        self.enabled.store(state.enabled, Ordering::Release);
        self.function_mask
            .store(state.function_mask, Ordering::Release);
        for (vector, state) in self.vectors.iter().zip(&state.vectors) {
            let mut entry = lock(vector);
            entry.address = state.address & !3;
            (entry.data, entry.masked, entry.pending) = (state.data, state.masked, state.pending);
            self.settle(&mut entry);
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Option<MutexGuard<'_, Entry>> {
        Some(lock(self.vectors.get(index)?))
    }

    fn is_open(&self, entry: &Entry) -> bool {
        self.is_enabled() && !self.function_mask.load(Ordering::Acquire) && !entry.masked
    }

    /// An open vector gets its message if that is new, and sends what waits. Called with the entry's lock held
    /// since its change, so that a signal comes before the change or after, not in between.
    fn settle(&self, entry: &mut Entry) {
        if !self.is_open(entry) {
            return;
        }
        let message = MsiMessage {
            address: entry.address,
            data: entry.data,
        };
        if entry.told != Some(message) {
            entry.told = Some(message);
            if let Err(error) = entry.line.set(entry.told) {
                entry.told = None;
                telemetry::error!(
                    "cannot route an interrupt: {}",
                    telemetry::chain(&error).join(": ")
                );
            }
        }
        if entry.pending {
            entry.send();
        }
    }
}

impl Entry {
    fn send(&mut self) {
        self.pending = false;
        if let Err(error) = self.line.trigger() {
            telemetry::error!(
                "an interrupt is lost: {}",
                telemetry::chain(&error).join(": ")
            );
        }
    }

    /// As the guest sees it.
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.data.to_le_bytes());
        bytes[12..].copy_from_slice(&(u32::from(self.masked) * MASKED).to_le_bytes());
        bytes
    }

    fn put(&mut self, bytes: &[u8; 16]) {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, control, ..] = *bytes;
        // Messages are written to whole words: the lowest two bits are 0 whatever is written.
        self.address = u64::from_le_bytes([a0 & !3, a1, a2, a3, a4, a5, a6, a7]);
        self.data = u32::from_le_bytes([d0, d1, d2, d3]);
        self.masked = u32::from(control) & MASKED != 0;
    }
}

fn lock(vector: &Mutex<Entry>) -> MutexGuard<'_, Entry> {
    vector.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_aligned(offset: u64, len: usize) -> bool {
    matches!((len, offset % 8), (4, 0 | 4) | (8, 0))
}

/// Entry and byte in it of an access to the table.
fn place(offset: u64, len: usize) -> Option<(usize, usize)> {
    let index = usize::try_from(offset / ENTRY).ok()?;
    let field = usize::try_from(offset % ENTRY).ok()?;
    is_aligned(offset, len).then_some((index, field))
}

/// The capability in configuration space.
pub(crate) struct MsixCapability(pub(crate) Arc<Msix>);

/// Offset of message control's upper byte in the capability.
const CONTROL_HIGH: usize = 3;

impl Capability for MsixCapability {
    fn reading(&mut self, bytes: &mut [u8], _offset: usize, _len: usize) {
        bytes[CONTROL_HIGH - 1..=CONTROL_HIGH].copy_from_slice(&self.0.control());
    }

    fn written(&mut self, bytes: &mut [u8], offset: usize, len: usize) {
        if (offset..offset + len).contains(&CONTROL_HIGH) {
            self.0.set_control(bytes[CONTROL_HIGH]);
        }
    }
}
