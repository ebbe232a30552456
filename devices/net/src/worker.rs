//! The thread of a pair of queues: waits for doorbells, for the tap and for the time that limits set.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use reactor::{Interest, Readiness, Sources, Timer, Token, Worker};
use tap::{Batch, Queue};
use virtio::Ring;

use crate::receive::{self, Receive};
use crate::shared::{LINK_UP, Shared, Tally};
use crate::transmit::{self, Transmit};

/// One of the two queues of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Receive,
    Transmit,
}

/// What a worker is asked to do, by its pair's bell.
#[derive(Debug)]
pub(crate) enum Order {
    /// Serve this queue too.
    Take(Side, Ring),
    /// Give a queue back.
    Give(Side, SyncSender<Ring>),
}

const BELL: Token = Token(0);
const RECEIVE_KICK: Token = Token(1);
const TRANSMIT_KICK: Token = Token(2);
const TAP: Token = Token(3);
const RECEIVE_TIMER: Token = Token(4);
const TRANSMIT_TIMER: Token = Token(5);

/// The worker of a pair.
#[derive(Debug)]
pub(crate) struct PairWorker {
    index: usize,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    orders: Receiver<Order>,
    receive: Option<Receive>,
    transmit: Option<Transmit>,
    batch: Batch,
    /// Frames that come can be received.
    receiving: bool,
    /// Frames that the tap did not take wait for it.
    blocked: bool,
    /// Since when.
    blocked_since: Option<Instant>,
    /// The interface was removed.
    gone: bool,
    /// What the tap is watched for.
    watched: Option<Interest>,
    receive_timer: Option<Timer>,
    transmit_timer: Option<Timer>,
}

impl PairWorker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        orders: Receiver<Order>,
    ) -> Self {
        Self {
            index,
            batch: Batch::new(&shared.ram),
            shared,
            queue,
            orders,
            receive: None,
            transmit: None,
            receiving: false,
            blocked: false,
            blocked_since: None,
            gone: false,
            watched: None,
            receive_timer: None,
            transmit_timer: None,
        }
    }

    /// Takes a queue, before it runs.
    pub(crate) fn take(&mut self, side: Side, ring: Ring, ram: memory::GuestRam) {
        match side {
            Side::Receive => {
                let mtu = self.shared.host.mtu.map_or(1500, usize::from);
                self.receive = Some(Receive::new(ring, ram, mtu));
            }
            Side::Transmit => self.transmit = Some(Transmit::new(ring)),
        }
    }

    /// Gives a queue back, when it does not run any more.
    pub(crate) fn give(&mut self, side: Side) -> Option<Ring> {
        match side {
            Side::Receive => self.receive.take().map(Receive::into_ring),
            Side::Transmit => self.transmit.take().map(Transmit::into_ring),
        }
    }

    /// Takes queues that it was given and did not get to before it was stopped.
    pub(crate) fn obey_last(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Take(side, ring) = order {
                let ram = self.shared.ram.clone();
                self.take(side, ring, ram);
            }
        }
    }

    fn watch_kick(&self, side: Side, sources: &mut Sources) -> io::Result<()> {
        let (ring, token) = match side {
            Side::Receive => (self.receive.as_ref().map(Receive::ring), RECEIVE_KICK),
            Side::Transmit => (self.transmit.as_ref().map(Transmit::ring), TRANSMIT_KICK),
        };
        ring.map_or(Ok(()), |ring| {
            sources.add(ring.kick(), token, Interest::READ)
        })
    }

    fn obey(&mut self, sources: &mut Sources) -> io::Result<()> {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Take(side, ring) => {
                    let ram = self.shared.ram.clone();
                    self.take(side, ring, ram);
                    self.watch_kick(side, sources)?;
                }
                Order::Give(side, answer) => {
                    let Some(ring) = self.give(side) else {
                        continue;
                    };
                    sources.remove(ring.kick())?;
                    match side {
                        Side::Receive => self.receiving = false,
                        Side::Transmit => (self.blocked, self.blocked_since) = (false, None),
                    }
                    // Whoever asked waits for it.
                    let _ = answer.send(ring);
                }
            }
        }
        // The driver may use this pair since, or not any more.
        self.receive(sources)
    }

    /// The host sends on this queue.
    fn is_attached(&self) -> bool {
        !self.gone && self.index < usize::from(self.shared.active())
    }

    fn receive(&mut self, sources: &mut Sources) -> io::Result<()> {
        let attached = self.is_attached();
        let Some(receive) = self.receive.as_mut().filter(|_| attached) else {
            self.receiving = false;
            return self.watch_tap(sources);
        };
        let mut tally = Tally::default();
        let begin = Instant::now();
        let limit = self.shared.receive_limit.as_ref();
        let mut turn = receive.turn(&self.queue, limit, &mut tally);
        if turn == receive::Turn::Detached {
            // Once more while nobody attaches or detaches: now it means that there is no interface.
            let queue = &self.queue;
            turn = self.shared.while_settled(self.index, |attached| {
                if attached {
                    receive.turn(queue, limit, &mut tally)
                } else {
                    receive::Turn::Hungry
                }
            });
        }
        self.shared.counters.receive.add(tally);
        let times = &self.shared.times[self.index];
        times.receive.count(tally.frames, begin);
        self.receiving = matches!(turn, receive::Turn::Empty | receive::Turn::More);
        match turn {
            receive::Turn::Short(wait) | receive::Turn::Limited(wait) => {
                set(&mut self.receive_timer, RECEIVE_TIMER, wait, sources)?;
            }
            receive::Turn::Detached => self.lose_tap(),
            receive::Turn::Empty | receive::Turn::Hungry | receive::Turn::More => {}
        }
        self.watch_tap(sources)
    }

    fn transmit(&mut self, sources: &mut Sources) -> io::Result<()> {
        let Some(transmit) = &mut self.transmit else {
            return Ok(());
        };
        let mut tally = Tally::default();
        let begin = self.blocked_since.take().unwrap_or_else(Instant::now);
        let limit = self.shared.transmit_limit.as_ref();
        let turn = transmit.turn(&mut self.batch, &self.queue, limit, &mut tally);
        self.shared.counters.transmit.add(tally);
        let times = &self.shared.times[self.index];
        times.transmit.count(tally.frames, begin);
        match turn {
            transmit::Turn::Idle | transmit::Turn::Blocked => {}
            transmit::Turn::More => transmit.ring().kick().signal(),
            transmit::Turn::Limited(wait) => {
                set(&mut self.transmit_timer, TRANSMIT_TIMER, wait, sources)?;
            }
        }
        self.blocked = turn == transmit::Turn::Blocked;
        if self.blocked {
            // Frames that the tap did not take at once wait since then.
            let since = if tally.frames == 0 {
                begin
            } else {
                Instant::now()
            };
            self.blocked_since = Some(since);
        }
        self.watch_tap(sources)
    }

    /// Watches the tap for what there is to do with it, and not at all if there is nothing: a queue that is detached
    /// would report an error without end.
    fn watch_tap(&mut self, sources: &mut Sources) -> io::Result<()> {
        let interest = Interest {
            read: self.receiving,
            write: self.blocked,
        };
        let wanted = (interest != Interest::NONE && self.is_attached()).then_some(interest);
        match (self.watched, wanted) {
            (before, now) if before == now => {}
            (None, Some(interest)) => sources.add(&*self.queue, TAP, interest)?,
            (Some(_), Some(interest)) => sources.modify(&*self.queue, TAP, interest)?,
            (_, None) => sources.remove(&*self.queue)?,
        }
        self.watched = wanted;
        Ok(())
    }

    /// The interface was removed. The guest sees the link go down; what it sends is lost.
    fn lose_tap(&mut self) {
        if !self.gone {
            telemetry::warn!(
                "net: interface {} was removed: the guest's link is down",
                self.shared.host.tap.name()
            );
            self.gone = true;
            self.shared.change_status(0, LINK_UP);
        }
    }
}

/// Rings `token` after a while.
fn set(
    timer: &mut Option<Timer>,
    token: Token,
    wait: Duration,
    sources: &mut Sources,
) -> io::Result<()> {
    match timer {
        Some(timer) => timer.set(wait),
        None => timer.insert(sources.add_timer(token)?).set(wait),
    }
}

impl Worker for PairWorker {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        (self.watched, self.receive_timer, self.transmit_timer) = (None, None, None);
        sources.add(&self.shared.bells[self.index], BELL, Interest::READ)?;
        self.watch_kick(Side::Receive, sources)?;
        self.watch_kick(Side::Transmit, sources)
    }

    fn ready(
        &mut self,
        token: Token,
        readiness: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        match token {
            BELL => {
                self.shared.bells[self.index].take();
                self.obey(sources)?;
            }
            RECEIVE_KICK => {
                if let Some(receive) = &self.receive {
                    receive.ring().kick().take();
                }
                self.receive(sources)?;
            }
            TRANSMIT_KICK => {
                if let Some(transmit) = &self.transmit {
                    transmit.ring().kick().take();
                }
                // What waits for the tap or for the limit waits on.
                if !self.blocked {
                    self.transmit(sources)?;
                }
            }
            RECEIVE_TIMER => {
                if let Some(timer) = &self.receive_timer {
                    timer.take();
                }
                if let Some(receive) = &mut self.receive {
                    receive.lose_patience();
                }
                self.receive(sources)?;
            }
            TRANSMIT_TIMER => {
                if let Some(timer) = &self.transmit_timer {
                    timer.take();
                }
                self.transmit(sources)?;
            }
            _ => {
                if readiness.read || readiness.error {
                    self.receive(sources)?;
                }
                if readiness.write || readiness.error {
                    self.transmit(sources)?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
