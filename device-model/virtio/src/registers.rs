//! BAR 0: the guest-facing side of a device, and the one place from which its queues are started and stopped.

use std::sync::Arc;

use device::Target;
use hypervisor::DoorbellValue;
use memory::GuestRam;
use reactor::Kick;

use crate::common::{Common, Place, Request, Supplies};
use crate::environment::{Attention, Doorbells};
use crate::layout::{
    COMMON_LONG, DEVICE, ISR, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_MULTIPLIER,
};
use crate::line::PciLine;
use crate::state::TransportState;
use crate::{Error, Line, Result, VirtioDevice};

/// A device behind its registers.
pub(crate) struct Registers<D> {
    pub(crate) id: String,
    pub(crate) device: D,
    pub(crate) config_len: u32,
    pub(crate) common: Common,
    pub(crate) line: Arc<PciLine>,
    pub(crate) ram: GuestRam,
    /// One per queue, for its whole life: what is rung while a queue is stopped is served when it starts.
    pub(crate) kicks: Vec<Kick>,
    /// One per queue that works, while BAR 0 is mapped.
    pub(crate) bells: Vec<Option<Box<dyn Send>>>,
    pub(crate) doorbells: Box<dyn Doorbells>,
    pub(crate) attention: Attention,
    /// Where BAR 0 is.
    pub(crate) base: Option<u64>,
    /// The machine lets the device work.
    pub(crate) started: bool,
}

impl<D: VirtioDevice> Registers<D> {
    /// Starts every queue that is ready, and makes doorbells that are missing. On the machine owner's thread.
    pub(crate) fn bring_up(&mut self) {
        if !self.started {
            return;
        }
        for index in 0..self.common.queue_count() {
            let Some(queue) = self.common.active_mut(index) else {
                return;
            };
            match std::mem::replace(&mut queue.place, Place::Device) {
                Place::Parked(ring) => {
                    // The driver may have rung when nobody listened.
                    ring.kick().signal();
                    if let Err(error) = self.device.start(index, ring) {
                        let why = telemetry::chain(&error).join(": ");
                        telemetry::error!("{}: queue {index} cannot start: {why}", self.id);
                        self.lose(index);
                        continue;
                    }
                    self.make_bell(index);
                }
                Place::Device => self.make_bell(index),
                other @ (Place::Nowhere | Place::Open) => queue.place = other,
            }
        }
    }

    /// Stops every queue. Rings are kept.
    pub(crate) fn bring_down(&mut self) {
        for index in 0..self.common.queue_count() {
            self.stop_queue(index);
        }
    }

    fn stop_queue(&mut self, index: u16) {
        self.drop_bell(index);
        let Some(queue) = self.common.active_mut(index) else {
            return;
        };
        if !matches!(queue.place, Place::Device) {
            return;
        }
        match self.device.stop(index) {
            Some(ring) => queue.place = Place::Parked(ring),
            None => self.lose(index),
        }
    }

    /// A queue's ring is gone, by a fault of ours: only a reset helps.
    fn lose(&mut self, index: u16) {
        if let Some(queue) = self.common.active_mut(index) {
            queue.place = Place::Nowhere;
        }
        self.line.needs_reset();
    }

    fn make_bell(&mut self, index: u16) {
        let position = usize::from(index);
        let (Some(base), Some(kick)) = (self.base, self.kicks.get(position)) else {
            return;
        };
        let Some(bell @ None) = self.bells.get_mut(position) else {
            return;
        };
        let address = base + NOTIFY.offset + u64::from(index) * NOTIFY_MULTIPLIER;
        match self.doorbells.doorbell(address, DoorbellValue::Any, kick) {
            Ok(made) => *bell = made,
            Err(error) => {
                let why = telemetry::chain(&error).join(": ");
                telemetry::warn!(
                    "{}: doorbell {index} goes through the monitor: {why}",
                    self.id
                );
            }
        }
    }

    fn drop_bell(&mut self, index: u16) {
        if let Some(bell) = self.bells.get_mut(usize::from(index)) {
            *bell = None;
        }
    }

    /// BAR 0 is here from now on. Doorbells follow with the owner's attention; until then the guest's writes come
    /// to [`Target::write`].
    pub(crate) fn moved(&mut self, base: Option<u64>) {
        if self.base != base {
            self.base = base;
            self.bells.fill_with(|| None);
            if self.started && base.is_some() {
                self.attention.request();
            }
        }
    }

    /// Its state. No queue is started.
    pub(crate) fn save(&self) -> TransportState {
        self.common.save(&self.line)
    }

    /// The common structure in a saved state, for [`Registers::put`].
    pub(crate) fn check(&self, state: &TransportState) -> Result<Common> {
        self.common.restored(state, &self.supplies())
    }

    /// Puts a checked state back.
    pub(crate) fn put(&mut self, common: Common, state: &TransportState) {
        self.common = common;
        state.restore_line(&self.line);
    }

    fn supplies(&self) -> Supplies<'_> {
        Supplies {
            ram: &self.ram,
            kicks: &self.kicks,
            line: &self.line,
        }
    }

    fn act(&mut self, request: Request) {
        let supplies = Supplies {
            ram: &self.ram,
            kicks: &self.kicks,
            line: &self.line,
        };
        let done = match request {
            Request::Nothing => return,
            Request::Reset => return self.reset(),
            Request::Misled => Err(Error::NotNegotiated),
            Request::Activate => {
                telemetry::event!("virtio-device", "activated", id = self.id);
                self.line.set_live();
                self.common.activate(&supplies)
            }
            Request::EnableQueue(index) => self.common.enable_queue(index, &supplies),
            Request::ResetQueue(index) => {
                self.stop_queue(index);
                self.common.open_queue(index);
                return;
            }
        };
        match done {
            Ok(()) if self.started => self.attention.request(),
            Ok(()) => {}
            Err(error) => {
                telemetry::warn!("{}: the device stops until it is reset: {error}", self.id);
                self.line.needs_reset();
            }
        }
    }

    /// The driver resets the device. It is reset when this returns.
    fn reset(&mut self) {
        let was_active = self.common.is_active();
        self.bring_down();
        self.common.reset();
        self.line.reset();
        for kick in &self.kicks {
            kick.take();
        }
        self.device.reset();
        // Drivers begin with a reset, which is none.
        if was_active {
            telemetry::event!("virtio-device", "reset", id = self.id);
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // What is not there reads as 0, as fields do that a feature would bring.
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        let Some(left) = self.config_len.checked_sub(offset) else {
            return;
        };
        let len = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if len > 0 {
            self.device.read_config(offset, &mut data[..len]);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let end = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let Ok(offset) = u32::try_from(offset)
            && end <= self.config_len.into()
        {
            self.device.write_config(offset, data);
        }
    }
}

impl<D: VirtioDevice> Target for Registers<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let len = data.len();
        if let Some(at) = COMMON_LONG.within(offset, len) {
            let image = self.common.image(&self.line);
            if let Ok(at) = usize::try_from(at) {
                data.copy_from_slice(&image[at..at + len]);
            }
        } else if ISR.within(offset, len).is_some() {
            data.fill(self.line.take_isr());
        } else if let Some(at) = DEVICE.within(offset, len) {
            self.read_config(at, data);
        } else if let Some(at) = MSIX_TABLE.within(offset, len) {
            self.line.msix.read_table(at, data);
        } else if let Some(at) = MSIX_PENDING.within(offset, len) {
            self.line.msix.read_pending(at, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let len = data.len();
        if let Some(at) = NOTIFY.within(offset, len) {
            let index = usize::try_from(at / NOTIFY_MULTIPLIER).unwrap_or(usize::MAX);
            if let Some(kick) = self.kicks.get(index) {
                kick.signal();
            }
        } else if let Some(at) = COMMON_LONG.within(offset, len) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let request = self.common.write(at, data, &self.line);
            self.act(request);
        } else if let Some(at) = DEVICE.within(offset, len) {
            self.write_config(at, data);
        } else if let Some(at) = MSIX_TABLE.within(offset, len) {
            self.line.msix.write_table(at, data);
        }
    }
}
