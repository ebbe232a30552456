//! The device as the transport sees it.

use std::any::Any;
use std::fmt;
use std::io;
use std::time::Duration;

use device::{Kind, Result, Saved};
use memory::GuestRam;
use reactor::Task;
use sandbox::Filter;
use virtio::{Class, Identity, Ring, VirtioDevice, feature};

use crate::engine::Engine;
use crate::listener::Listener;
use crate::state::{VERSION, VsockState};
use crate::switch::{FIRST_PORT, Switch};
use crate::{Vsock, events};

/// Device type (VIRTIO 1.3, chapter 5).
const SOCKET: u16 = 19;
/// Queues (VIRTIO 1.3, 5.10.2): packets for the guest, packets of the guest, events.
#[cfg(test)]
pub(crate) const RECEIVE: u16 = 0;
#[cfg(test)]
pub(crate) const TRANSMIT: u16 = 1;
pub(crate) const EVENT: u16 = 2;
const QUEUES: usize = 3;
const QUEUE_SIZE: u16 = 256;
/// Configuration fields: the guest's context id (VIRTIO 1.3, 5.10.4).
const CONFIG_LEN: u32 = 8;

/// The device.
///
/// One thread serves all queues, while it has both of those for packets. It is stopped for whatever changes which
/// queues it has.
pub struct Sockets {
    name: String,
    rules: Filter,
    cid: u32,
    /// Those that the thread does not have.
    rings: [Option<Ring>; QUEUES],
    /// There while the thread does not run, unless it failed.
    switch: Option<Switch>,
    task: Option<Task<Engine>>,
    /// The guest is still to hear that its connections are gone.
    owes_event: bool,
}

impl Sockets {
    /// A device for the guest `cid` with this way in. Its thread will have this name and these rules. Connections that
    /// cannot last are looked at every `tick`.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn new(
        cid: u32,
        listener: Listener,
        ram: GuestRam,
        thread: &str,
        rules: Filter,
        tick: Duration,
    ) -> Result<Self> {
        Ok(Self {
            name: thread.to_owned(),
            rules,
            cid,
            rings: [None, None, None],
            switch: Some(Switch::new(cid.into(), listener, ram, tick)?),
            task: None,
            owes_event: false,
        })
    }

    /// The connections, while the thread does not run.
    #[cfg(test)]
    pub(crate) fn switch_for_tests(&mut self) -> &mut Switch {
        self.switch.as_mut().expect("it is stopped")
    }

    fn worker_failed(&self, source: io::Error) -> device::Error {
        device::Error::Worker {
            name: self.name.clone(),
            source,
        }
    }

    /// Starts the thread, if there is enough for it to do.
    fn launch(&mut self) -> Result<()> {
        let [Some(_), Some(_), _] = &self.rings else {
            return Ok(());
        };
        let Some(switch) = self.switch.take() else {
            let source = io::Error::other("its connections are gone");
            return Err(self.worker_failed(source));
        };
        let [receive, transmit, event] = &mut self.rings;
        let (Some(receive), Some(transmit)) = (receive.take(), transmit.take()) else {
            return Ok(());
        };
        let event = if self.owes_event { event.take() } else { None };
        let engine = Engine::new(receive, transmit, event, switch);
        // Those that wait in a queue are looked at.
        engine.transmit.kick().signal();
        let task = Task::spawn(&self.name, self.rules.clone(), engine);
        self.task = Some(task.map_err(|source| self.worker_failed(source))?);
        Ok(())
    }

    /// Stops the thread and takes back what it has. If it failed its queues are lost; the log then says why.
    fn halt(&mut self) {
        let Some(task) = self.task.take() else { return };
        match task.stop() {
            Ok(engine) => {
                self.owes_event &= !engine.is_told;
                let mut switch = engine.switch;
                switch.clock.timer = None;
                self.switch = Some(switch);
                let [receive, transmit, event] = &mut self.rings;
                *receive = Some(engine.receive);
                *transmit = Some(engine.transmit);
                *event = engine.event.or_else(|| event.take());
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.name, telemetry::chain(&error).join(": "));
            }
        }
    }
}

impl VirtioDevice for Sockets {
    fn identity(&self) -> Identity {
        Identity {
            device_type: SOCKET,
            class: Class::OTHER,
            features: feature::IN_ORDER,
            queue_sizes: vec![QUEUE_SIZE; QUEUES],
            config_len: CONFIG_LEN,
        }
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let fields = u64::from(self.cid).to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (value, field) in out.iter_mut().zip(fields.iter().skip(offset)) {
            *value = *field;
        }
    }

    fn start(&mut self, index: u16, mut ring: Ring) -> Result<()> {
        if index == EVENT {
            self.owes_event = self.owes_event && !events::transport_reset(&mut ring);
        }
        // The event queue is idle but for an event that has no buffer yet.
        if index != EVENT || self.owes_event {
            self.halt();
        }
        if let Some(place) = self.rings.get_mut(usize::from(index)) {
            *place = Some(ring);
        }
        if self.task.is_some() {
            return Ok(());
        }
        self.launch()
    }

    fn stop(&mut self, index: u16) -> Option<Ring> {
        self.halt();
        self.rings.get_mut(usize::from(index))?.take()
    }

    fn reset(&mut self) {
        self.owes_event = false;
        if let Some(switch) = &mut self.switch {
            switch.clear();
        }
    }

    fn save(&self) -> Result<Saved> {
        let next_port = self.switch.as_ref().map(|switch| switch.next_port);
        let state = VsockState {
            next_port: next_port.unwrap_or(FIRST_PORT),
        };
        Saved::new(Vsock::NAMES.kind, VERSION, &state)
    }

    /// Connections were not saved: the guest will hear that they are gone.
    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: VsockState = saved.read(Vsock::NAMES.kind, VERSION)?;
        if !(FIRST_PORT..2 * FIRST_PORT).contains(&state.next_port) {
            return Err(device::Error::BadState {
                kind: Vsock::NAMES.kind,
                why: format!("{} is not a port for the host's side", state.next_port),
            });
        }
        if let Some(switch) = &mut self.switch {
            switch.clear();
            switch.next_port = state.next_port;
        }
        self.owes_event = true;
        Ok(())
    }

    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(self.switch.take()?.listener))
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets")
            .field("cid", &self.cid)
            .field("running", &self.task.is_some())
            .finish_non_exhaustive()
    }
}
