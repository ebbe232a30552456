//! What connects the guest's sockets with the host's: all connections and the way in. It knows nothing of threads and
//! keeps no queue, so that it stays as it is while the device is paused.

use std::collections::VecDeque;
use std::time::Duration;

use memory::{GuestRam, IoVectors};
use reactor::Timer;
use virtio::Chain;

use crate::Error;
use crate::conn::{Conn, Due, Key, Phase};
use crate::listener::Listener;
use crate::packet::{Header, op};
use crate::table::Table;
use crate::watch::Watch;

/// Resets of connections that nobody knows, before the guest's packets have to wait (VIRTIO 1.3, 5.10.6.1).
pub(crate) const MOST_RESETS: usize = 256;
/// Programs of the host that have not said yet whom they want.
pub(crate) const MOST_GREETINGS: usize = 128;
/// Host ports of connections that the host begins: from here on, as many again.
pub(crate) const FIRST_PORT: u32 = 1 << 30;

/// How often connections that cannot last are looked at. Time counts only while the device works.
pub const TICK: Duration = Duration::from_secs(1);
/// Ticks that the guest has to answer a request, or to confirm an end (Linux's sockets wait 8 s).
pub(crate) const ANSWER_TICKS: u8 = 9;
/// Ticks for a program of the host to say whom it wants, or to take something of what the guest sent last.
pub(crate) const HOST_TICKS: u8 = 31;

/// The switch.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) guest_cid: u64,
    pub(crate) listener: Listener,
    pub(crate) watch: Watch,
    pub(crate) table: Table,
    /// For packets that belong to no connection.
    pub(crate) resets: VecDeque<Header>,
    pub(crate) next_port: u32,
    /// Connections that are [`Phase::Greeting`].
    pub(crate) greetings: usize,
    /// Parts of the guest's memory for one system call.
    pub(crate) vectors: IoVectors,
    /// Buffers of the guest for one system call, which are given back after it.
    pub(crate) gathered: VecDeque<Chain>,
    /// The connection whose data waits in the vectors for more.
    pub(crate) held: Option<usize>,
    pub(crate) clock: Clock,
}

/// Ticks, while somebody waits for one.
#[derive(Debug)]
pub(crate) struct Clock {
    pub(crate) period: Duration,
    /// There while the worker runs.
    pub(crate) timer: Option<Timer>,
    pub(crate) running: bool,
}

impl Clock {
    /// Ticks from now on.
    pub(crate) fn run(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            self.arm();
        }
    }

    /// Sets a new timer as it should be.
    pub(crate) fn arm(&self) {
        let Some(timer) = &self.timer else { return };
        let set = if self.running {
            timer.set_periodic(self.period)
        } else {
            timer.cancel()
        };
        if let Err(error) = set {
            telemetry::warn!("vsock: connections have no time limit: {error}");
        }
    }
}

impl Switch {
    pub(crate) fn new(
        guest_cid: u64,
        listener: Listener,
        ram: GuestRam,
        period: Duration,
    ) -> Result<Self, Error> {
        Ok(Self {
            guest_cid,
            listener,
            watch: Watch::new().map_err(Error::Events)?,
            table: Table::default(),
            resets: VecDeque::with_capacity(MOST_RESETS),
            next_port: FIRST_PORT,
            greetings: 0,
            vectors: IoVectors::new(ram),
            gathered: VecDeque::new(),
            held: None,
            clock: Clock {
                period,
                timer: None,
                running: false,
            },
        })
    }

    /// Ends all connections. The way in stays.
    pub(crate) fn clear(&mut self) {
        self.table.clear();
        self.resets.clear();
        self.greetings = 0;
        self.clock.running = false;
    }

    /// A host port for a connection with this port of the guest.
    pub(crate) fn take_port(&mut self, peer: u32) -> u32 {
        loop {
            let local = self.next_port;
            self.next_port = FIRST_PORT | local.wrapping_add(1) & (FIRST_PORT - 1);
            // There are far more ports than connections.
            if self.table.find(Key { local, peer }).is_none() {
                return local;
            }
        }
    }

    /// Gives the connection a turn if it has something for the guest.
    pub(crate) fn wake(&mut self, at: usize) {
        if self.table.get_mut(at).is_some_and(|conn| conn.has_work()) {
            self.table.queue(at);
        }
    }

    /// Ends a connection and closes its socket.
    pub(crate) fn remove(&mut self, at: usize) {
        if let Some(Conn {
            phase: Phase::Greeting,
            ..
        }) = self.table.remove(at)
        {
            self.greetings = self.greetings.saturating_sub(1);
        }
    }

    /// Says that there is no such connection.
    pub(crate) fn refuse(&mut self, header: &Header) {
        // A reset that is answered with a reset would go on for ever.
        if header.op != op::RST {
            self.resets.push_back(header.reset());
        }
    }

    /// Ends a connection that the guest has broken the rules of.
    pub(crate) fn abort(&mut self, at: usize, header: &Header) {
        self.remove(at);
        self.refuse(header);
    }

    /// Ends a connection, and lets the guest know.
    pub(crate) fn end(&mut self, at: usize) {
        if let Some(conn) = self.table.get_mut(at) {
            conn.phase = Phase::Ending;
            conn.due = Due::only(op::RST);
            conn.backlog.clear();
            conn.ticks = 0;
            self.table.queue(at);
        }
    }

    /// Ends the connection after so many ticks without progress.
    pub(crate) fn limit(&mut self, at: usize, ticks: u8) {
        if let Some(conn) = self.table.get_mut(at) {
            conn.ticks = ticks;
            self.clock.run();
        }
    }

    /// A tick.
    pub(crate) fn tick(&mut self) {
        let mut waiting = false;
        for at in self.table.places() {
            let Some(conn) = self.table.get_mut(at).filter(|conn| conn.ticks > 0) else {
                continue;
            };
            conn.ticks -= 1;
            if conn.ticks > 0 {
                waiting = true;
            } else {
                self.expire(at);
            }
        }
        self.clock.running = waiting;
        if !waiting {
            self.clock.arm();
        }
    }

    fn expire(&mut self, at: usize) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        match conn.phase {
            Phase::Greeting | Phase::Draining => self.remove(at),
            // The guest never heard of it.
            Phase::Requested if conn.due.has(op::REQUEST) => self.remove(at),
            Phase::Requested | Phase::Open => self.end(at),
            Phase::Ending => {}
        }
    }
}
