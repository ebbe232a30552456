//! The thread that serves all queues and sockets.

use std::io;
use std::ops::ControlFlow;

use reactor::{Interest, Readiness, Sources, Token, Worker};
use virtio::Ring;

use crate::events;
use crate::from_host::Door;
use crate::switch::Switch;
use crate::to_guest::Progress;

const RECEIVE: Token = Token(0);
const TRANSMIT: Token = Token(1);
const EVENT: Token = Token(2);
const DOOR: Token = Token(3);
const SOCKETS: Token = Token(4);
const CLOCK: Token = Token(5);

/// The queues and what they are connected to.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Packets for the guest.
    pub(crate) receive: Ring,
    /// Packets of the guest.
    pub(crate) transmit: Ring,
    /// There if the guest is still to hear that its connections are gone.
    pub(crate) event: Option<Ring>,
    /// The event was told.
    pub(crate) is_told: bool,
    pub(crate) switch: Switch,
    /// Clients are heard at the door.
    is_door_open: bool,
}

impl Engine {
    pub(crate) fn new(receive: Ring, transmit: Ring, event: Option<Ring>, switch: Switch) -> Self {
        Self {
            receive,
            transmit,
            event,
            is_told: false,
            switch,
            is_door_open: true,
        }
    }

    /// Takes the guest's packets and sends it others, up to a limit, so that the worker can be stopped at any time.
    fn work(&mut self) {
        let Self {
            receive,
            transmit,
            switch,
            ..
        } = self;
        receive.silence();
        transmit.silence();
        let was_congested = switch.is_congested();
        let mut more = switch.take_packets(transmit);
        let progress = switch.send_packets(receive);
        receive.notify();
        transmit.notify();
        more |= progress == Progress::More;
        if progress == Progress::Starved {
            more |= receive.listen();
        }
        if switch.is_congested() {
            // The guest's packets wait for buffers to answer them with.
            more |= progress != Progress::Starved;
        } else {
            more |= transmit.listen() || was_congested;
        }
        if more {
            transmit.kick().signal();
        }
    }

    fn announce(&mut self) {
        if let Some(ring) = &mut self.event
            && !self.is_told
        {
            self.is_told = events::transport_reset(ring);
        }
    }

    fn open_door(&mut self, sources: &mut Sources) -> io::Result<()> {
        self.is_door_open = true;
        sources.add(&self.switch.listener.fd, DOOR, Interest::READ)
    }
}

impl Worker for Engine {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        sources.add(self.receive.kick(), RECEIVE, Interest::READ)?;
        sources.add(self.transmit.kick(), TRANSMIT, Interest::READ)?;
        if let Some(ring) = &self.event {
            sources.add(ring.kick(), EVENT, Interest::READ)?;
        }
        sources.add(&self.switch.watch, SOCKETS, Interest::READ)?;
        self.switch.clock.timer = Some(sources.add_timer(CLOCK)?);
        self.switch.clock.arm();
        self.open_door(sources)
    }

    fn ready(
        &mut self,
        token: Token,
        _: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        match token {
            RECEIVE => {
                self.receive.kick().take();
            }
            TRANSMIT => {
                self.transmit.kick().take();
            }
            EVENT => {
                if let Some(ring) = &self.event {
                    ring.kick().take();
                }
                self.announce();
            }
            DOOR => {
                if self.switch.accept() == Door::Shut {
                    self.is_door_open = false;
                    sources.remove(&self.switch.listener.fd)?;
                }
            }
            CLOCK => {
                if let Some(timer) = &self.switch.clock.timer {
                    timer.take();
                }
                self.switch.tick();
                if !self.is_door_open {
                    self.open_door(sources)?;
                }
            }
            _ => self.switch.look(),
        }
        self.work();
        Ok(ControlFlow::Continue(()))
    }
}
