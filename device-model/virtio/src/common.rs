//! The common configuration structure: how driver and device come to terms (VIRTIO 1.3, 3.1 and 4.1.4.3).
//!
//! What a driver says about its queues can change only before `DRIVER_OK`. This is so by type: in
//! [`Phase::Setup`] queues are plain numbers with nothing behind them, in [`Phase::Active`] they are rings made of
//! checked numbers, and nothing leads from one to the other but [`Common::activate`].

mod saved;

use std::sync::Arc;

use memory::GuestRam;
use reactor::Kick;

use crate::line::PciLine;
use crate::ring::RingParts;
use crate::{Error, Line, QueueSetup, Result, Ring, feature};

/// Device status bits (VIRTIO 1.3, 2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
    pub(crate) const FAILED: u8 = 128;
}

/// Offsets of the fields (VIRTIO 1.3, 4.1.4.3).
pub(crate) mod field {
    pub(crate) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(crate) const DEVICE_FEATURE: usize = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(crate) const DRIVER_FEATURE: usize = 12;
    pub(crate) const CONFIG_VECTOR: usize = 16;
    pub(crate) const NUM_QUEUES: usize = 18;
    pub(crate) const DEVICE_STATUS: usize = 20;
    pub(crate) const CONFIG_GENERATION: usize = 21;
    pub(crate) const QUEUE_SELECT: usize = 22;
    pub(crate) const QUEUE_SIZE: usize = 24;
    pub(crate) const QUEUE_VECTOR: usize = 26;
    pub(crate) const QUEUE_ENABLE: usize = 28;
    pub(crate) const QUEUE_NOTIFY_OFF: usize = 30;
    pub(crate) const QUEUE_DESC: usize = 32;
    pub(crate) const QUEUE_DRIVER: usize = 40;
    pub(crate) const QUEUE_DEVICE: usize = 48;
    pub(crate) const QUEUE_RESET: usize = 58;
    pub(crate) const END: usize = 64;
}
use field::*;

/// What the driver's write asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing beyond the fields.
    Nothing,
    /// Everything is forgotten.
    Reset,
    /// The driver is ready: queues are made of what it said.
    Activate,
    /// One queue is taken out of service.
    ResetQueue(u16),
    /// One queue comes back into service.
    EnableQueue(u16),
    /// The driver set `DRIVER_OK` without having agreed on features.
    Misled,
}

/// What driver and device have told each other.
pub(crate) struct Common {
    offered: u64,
    max_sizes: Vec<u16>,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    driver_features: u64,
    status: u8,
    pub(crate) phase: Phase,
}

/// Before and after `DRIVER_OK`.
pub(crate) enum Phase {
    /// The driver sets up; nothing of it is used.
    Setup(Vec<QueueSetup>),
    /// Queues are made. What they were made of is kept for the driver to read.
    Active(Vec<ActiveQueue>),
}

/// A queue after `DRIVER_OK`.
pub(crate) struct ActiveQueue {
    /// What the driver reads back.
    setup: QueueSetup,
    pub(crate) place: Place,
}

/// Where an active queue's ring is.
#[derive(Debug)]
pub(crate) enum Place {
    /// There is none: the driver did not enable the queue, or it was lost.
    Nowhere,
    /// There is none, and the driver may set one up: it has reset this queue.
    Open,
    /// Here: the device does not work.
    Parked(Ring),
    /// With the device.
    Device,
}

/// What a ring is made of besides the driver's wishes.
pub(crate) struct Supplies<'a> {
    pub(crate) ram: &'a GuestRam,
    pub(crate) kicks: &'a [Kick],
    pub(crate) line: &'a Arc<PciLine>,
}

impl Common {
    pub(crate) fn new(offered: u64, max_sizes: Vec<u16>) -> Self {
        let queues = fresh(&max_sizes);
        Self {
            offered,
            max_sizes,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            driver_features: 0,
            status: 0,
            phase: Phase::Setup(queues),
        }
    }

    /// Forgets what the driver said. Rings must have been taken out before.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.offered, std::mem::take(&mut self.max_sizes));
    }

    /// The structure's bytes, as the driver sees them now.
    pub(crate) fn image(&self, line: &PciLine) -> [u8; END] {
        let mut image = [0; END];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(
            DEVICE_FEATURE_SELECT,
            &self.device_feature_select.to_le_bytes(),
        );
        put(
            DEVICE_FEATURE,
            &half(self.offered, self.device_feature_select).to_le_bytes(),
        );
        put(
            DRIVER_FEATURE_SELECT,
            &self.driver_feature_select.to_le_bytes(),
        );
        put(
            DRIVER_FEATURE,
            &half(self.driver_features, self.driver_feature_select).to_le_bytes(),
        );
        put(CONFIG_VECTOR, &line.config_vector().to_le_bytes());
        put(
            NUM_QUEUES,
            &u16::try_from(self.max_sizes.len())
                .unwrap_or(u16::MAX)
                .to_le_bytes(),
        );
        let needs_reset = if line.is_reset_needed() {
            status::NEEDS_RESET
        } else {
            0
        };
        put(DEVICE_STATUS, &[self.status | needs_reset]);
        put(CONFIG_GENERATION, &[line.generation()]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 (VIRTIO 1.3, 4.1.4.3.1).
        let Some(queue) = self.setup(self.queue_select) else {
            return image;
        };
        put(QUEUE_SIZE, &queue.size.to_le_bytes());
        put(
            QUEUE_VECTOR,
            &line.queue_vector(self.queue_select).to_le_bytes(),
        );
        put(QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
        put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
        put(QUEUE_DESC, &queue.descriptors.to_le_bytes());
        put(QUEUE_DRIVER, &queue.available.to_le_bytes());
        put(QUEUE_DEVICE, &queue.used.to_le_bytes());
        image
    }

    /// The driver writes. A field is written as a whole, 64-bit ones also by halves; all else is lost.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8], line: &PciLine) -> Request {
        match (offset, data) {
            (_, &[value]) if offset == DEVICE_STATUS => return self.set_status(value),
            (_, &[a, b]) => return self.write_u16(offset, u16::from_le_bytes([a, b]), line),
            (_, &[a, b, c, d]) => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            (QUEUE_DESC | QUEUE_DRIVER | QUEUE_DEVICE, &[a, b, c, d, e, f, g, h]) => {
                self.write_u32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_u32(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => telemetry::debug!("virtio: {} bytes written to field {offset:#x}", data.len()),
        }
        Request::Nothing
    }

    fn write_u16(&mut self, offset: usize, value: u16, line: &PciLine) -> Request {
        match offset {
            CONFIG_VECTOR => line.set_config_vector(value),
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_VECTOR => line.set_queue_vector(self.queue_select, value),
            QUEUE_SIZE => {
                let max = self
                    .max_sizes
                    .get(usize::from(self.queue_select))
                    .copied()
                    .unwrap_or(0);
                if value.is_power_of_two() && value <= max {
                    self.change_queue(|queue| queue.size = value);
                } else {
                    let error = Error::QueueSize { size: value, max };
                    telemetry::debug!("virtio: {error}");
                }
            }
            // A driver must not disable a queue by writing 0 (VIRTIO 1.3, 4.1.4.3.2).
            QUEUE_ENABLE if value == 1 => {
                let changed = self.change_queue(|queue| queue.enabled = true);
                if changed && matches!(self.phase, Phase::Active(_)) {
                    return Request::EnableQueue(self.queue_select);
                }
            }
            QUEUE_RESET if value == 1 && self.can_reset_queue() => {
                return Request::ResetQueue(self.queue_select);
            }
            _ => telemetry::debug!("virtio: {value:#x} written to field {offset:#x}"),
        }
        Request::Nothing
    }

    fn write_u32(&mut self, offset: usize, value: u32) {
        let low = |field: &mut u64| *field = (*field & !0xffff_ffff) | u64::from(value);
        let high = |field: &mut u64| *field = (*field & 0xffff_ffff) | u64::from(value) << 32;
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE if self.status & status::FEATURES_OK == 0 => {
                match self.driver_feature_select {
                    0 => low(&mut self.driver_features),
                    1 => high(&mut self.driver_features),
                    _ => {}
                }
            }
            _ => {
                self.change_queue(|queue| match offset {
                    QUEUE_DESC => low(&mut queue.descriptors),
                    0x24 => high(&mut queue.descriptors),
                    QUEUE_DRIVER => low(&mut queue.available),
                    0x2c => high(&mut queue.available),
                    QUEUE_DEVICE => low(&mut queue.used),
                    0x34 => high(&mut queue.used),
                    _ => telemetry::debug!("virtio: {value:#x} written to field {offset:#x}"),
                });
            }
        }
    }

    /// The driver writes device status. Bits are only ever added, until a reset.
    fn set_status(&mut self, value: u8) -> Request {
        if value == 0 {
            return Request::Reset;
        }
        let new = value & !self.status;
        self.status |= new & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if new & status::FEATURES_OK != 0 && self.is_agreed() {
            self.status |= status::FEATURES_OK;
        }
        if new & status::DRIVER_OK == 0 {
            return Request::Nothing;
        }
        if self.status & status::FEATURES_OK == 0 {
            return Request::Misled;
        }
        self.status |= status::DRIVER_OK;
        Request::Activate
    }

    /// The driver's features are possible: offered, and with those that this device cannot do without.
    fn is_agreed(&self) -> bool {
        let needed = feature::VERSION_1 | (self.offered & feature::ACCESS_PLATFORM);
        self.driver_features & !self.offered == 0 && self.driver_features & needed == needed
    }

    /// Changes the selected queue, if there is one and it can be changed now. Whether it could.
    fn change_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) -> bool {
        let index = usize::from(self.queue_select);
        let setup = match &mut self.phase {
            Phase::Setup(queues) => queues.get_mut(index),
            Phase::Active(queues) => queues
                .get_mut(index)
                .filter(|queue| matches!(queue.place, Place::Open))
                .map(|queue| &mut queue.setup),
        };
        // Nothing changes between being enabled and being used.
        let Some(setup) = setup.filter(|setup| !setup.enabled) else {
            telemetry::debug!(
                "virtio: the driver changes queue {index}, which is in use or does not exist"
            );
            return false;
        };
        change(setup);
        true
    }

    fn setup(&self, index: u16) -> Option<&QueueSetup> {
        match &self.phase {
            Phase::Setup(queues) => queues.get(usize::from(index)),
            Phase::Active(queues) => queues.get(usize::from(index)).map(|queue| &queue.setup),
        }
    }

    fn can_reset_queue(&self) -> bool {
        matches!(self.phase, Phase::Active(_)) && self.driver_features & feature::RING_RESET != 0
    }

    /// `DRIVER_OK`: makes rings of the enabled queues and parks them.
    ///
    /// # Errors
    /// The rule that the driver broke; there are no rings then.
    pub(crate) fn activate(&mut self, supplies: &Supplies<'_>) -> Result<()> {
        let Phase::Setup(setups) = &self.phase else {
            return Ok(());
        };
        let setups = setups.clone();
        let mut result = Ok(());
        let mut queues: Vec<ActiveQueue> = setups
            .into_iter()
            .map(|setup| ActiveQueue {
                setup,
                place: Place::Nowhere,
            })
            .collect();
        for (index, queue) in (0u16..)
            .zip(&mut queues)
            .filter(|(_, queue)| queue.setup.enabled)
        {
            match self.ring(index, &queue.setup, supplies, (0, 0)) {
                Ok(ring) => queue.place = Place::Parked(ring),
                Err(error) => result = Err(error),
            }
        }
        if result.is_err() {
            queues
                .iter_mut()
                .for_each(|queue| queue.place = Place::Nowhere);
        }
        self.phase = Phase::Active(queues);
        result
    }

    /// Makes the ring of a queue that was set up after it had been reset, and parks it.
    ///
    /// # Errors
    /// The rule that the driver broke; the queue is then out of service.
    pub(crate) fn enable_queue(&mut self, index: u16, supplies: &Supplies<'_>) -> Result<()> {
        let Some(setup) = self.setup(index).copied() else {
            return Ok(());
        };
        let ring = self.ring(index, &setup, supplies, (0, 0));
        let Some(queue) = self.active_mut(index) else {
            return Ok(());
        };
        queue.place = Place::Nowhere;
        queue.place = Place::Parked(ring?);
        Ok(())
    }

    /// Lets the driver set a queue up anew. Its ring must have been taken out before.
    pub(crate) fn open_queue(&mut self, index: u16) {
        let size = self.max_sizes.get(usize::from(index)).copied().unwrap_or(0);
        if let Some(queue) = self.active_mut(index) {
            queue.setup = QueueSetup {
                size,
                ..QueueSetup::default()
            };
            queue.place = Place::Open;
        }
    }

    /// A queue after `DRIVER_OK`.
    pub(crate) fn active_mut(&mut self, index: u16) -> Option<&mut ActiveQueue> {
        match &mut self.phase {
            Phase::Setup(_) => None,
            Phase::Active(queues) => queues.get_mut(usize::from(index)),
        }
    }

    /// The driver has set `DRIVER_OK`.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active(_))
    }

    /// Number of queues.
    pub(crate) fn queue_count(&self) -> u16 {
        u16::try_from(self.max_sizes.len()).unwrap_or(u16::MAX)
    }

    fn ring(
        &self,
        index: u16,
        setup: &QueueSetup,
        supplies: &Supplies<'_>,
        (next_available, next_used): (u16, u16),
    ) -> Result<Ring> {
        let position = usize::from(index);
        let max = self.max_sizes.get(position).copied().unwrap_or(0);
        let addresses = setup.check(max, supplies.ram)?;
        let kick = supplies
            .kicks
            .get(position)
            .ok_or(Error::Design("a queue has no doorbell"))?;
        Ok(Ring::new(RingParts {
            index,
            addresses,
            features: self.driver_features,
            ram: supplies.ram.clone(),
            kick: kick.clone(),
            line: Arc::clone(supplies.line) as Arc<dyn Line>,
            next_available,
            next_used,
        }))
    }
}

/// Queues that no driver has said anything about.
fn fresh(max_sizes: &[u16]) -> Vec<QueueSetup> {
    max_sizes
        .iter()
        .map(|size| QueueSetup {
            size: *size,
            ..QueueSetup::default()
        })
        .collect()
}

/// The half of 64 feature bits that a select register selects; there are no others.
fn half(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}
