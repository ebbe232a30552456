//! Data of the guest on its way to a program of the host.
//!
//! Packets of one connection that follow each other are held until another comes or there are no more, and written by
//! one system call: a program that sends little at a time would else cost one each.

use std::io;

use virtio::{Chain, Ring};

use crate::conn::Phase;
use crate::packet::{Header, shutdown};
use crate::payload::{self, MANY_VECTORS};
use crate::switch::Switch;

/// Most bytes that are held for one system call. Where packets are as large as that each goes its way at once, so
/// that both sides have work at the same time.
const MOST_HELD: usize = 64 << 10;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// All is done.
    Whole,
    /// Its data waits for more. Its chain is given back when that is written.
    Held,
}

impl Switch {
    /// The host's program takes the data of this packet, and the guest may send it.
    pub(crate) fn takes_data(&mut self, at: usize, header: &Header) -> bool {
        header.len > 0
            && self.table.get_mut(at).is_some_and(|conn| {
                conn.phase == Phase::Open
                    && conn.writing
                    && conn.guest_shut & shutdown::SEND == 0
                    && conn.credit.allows(header.len)
            })
    }

    /// Holds a packet that [`Switch::takes_data`] is true of.
    pub(crate) fn hold(
        &mut self,
        at: usize,
        header: &Header,
        chain: &Chain,
        ring: &mut Ring,
    ) -> Taken {
        let is_enough =
            self.vectors.len() >= MOST_HELD || self.vectors.as_raw().len() >= MANY_VECTORS;
        if self.held != Some(at) || is_enough {
            self.write_held(ring);
            self.vectors.clear();
        }
        let before = self.vectors.len();
        if let Err(error) = payload::add(chain.readable(), header.len, &mut self.vectors) {
            telemetry::warn!("vsock: a packet is not in memory: {error}");
            self.vectors.truncate(before);
            self.write_held(ring);
            self.abort(at, header);
            return Taken::Whole;
        }
        if let Some(conn) = self.table.get_mut(at) {
            conn.learn(header);
            // It was asked before whether it may be.
            let _ = conn.credit.received(header.len);
        }
        self.held = Some(at);
        Taken::Held
    }

    /// Writes what is held, and gives its chains back.
    pub(crate) fn write_held(&mut self, ring: &mut Ring) {
        let Some(at) = self.held.take() else { return };
        self.deliver(at);
        while let Some(chain) = self.gathered.pop_front() {
            ring.complete(chain, 0);
        }
        self.wake(at);
    }

    /// Writes what is in the vectors. What the socket does not take now goes to the backlog.
    fn deliver(&mut self, at: usize) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        let vectors = &mut self.vectors;
        let all = vectors.len();
        let was_clear = conn.backlog.is_empty();
        if was_clear {
            match vectors.write_to(&conn.fd, None) {
                Ok(count) => vectors.skip(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    conn.forwarded(count(all));
                    return conn.end_of_writing();
                }
            }
        }
        let left = vectors.len();
        conn.forwarded(count(all - left));
        if left > 0 {
            conn.backlog.push(vectors);
            if was_clear {
                self.watch.hear_writable(&conn.fd, at, true);
            }
        }
    }
}

/// Bytes as packets count them. Credit does not permit more.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
