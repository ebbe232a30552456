//! Packets for the guest.

use std::collections::VecDeque;
use std::io::{self, Write};

use memory::IoVectors;
use virtio::{Chain, Ring};

use crate::packet::{HEADER_LEN, Header, op};
use crate::payload::{self, MANY_VECTORS};
use crate::switch::Switch;

/// Turns per call: the worker looks at everything else in between.
const TURNS: usize = 64;
/// The most buffers of the guest that are filled by one system call, each with a packet of its own.
const MOST_BURST: usize = 16;
/// How far sending came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All is sent.
    Idle,
    /// The guest has no more buffers.
    Starved,
    /// There is more to do.
    More,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Done,
    Again,
    Starved,
}

impl Switch {
    /// Sends what there is, connection by connection.
    pub(crate) fn send_packets(&mut self, ring: &mut Ring) -> Progress {
        for _ in 0..TURNS {
            if let Some(header) = self.resets.front() {
                if !send(ring, header) {
                    return Progress::Starved;
                }
                self.resets.pop_front();
                continue;
            }
            let Some(at) = self.table.next() else {
                return Progress::Idle;
            };
            match self.turn(at, ring) {
                Turn::Done => {}
                Turn::Again => self.table.queue(at),
                Turn::Starved => {
                    self.table.queue_first(at);
                    return Progress::Starved;
                }
            }
        }
        Progress::More
    }

    /// One connection's turn.
    fn turn(&mut self, at: usize, ring: &mut Ring) -> Turn {
        let Some(conn) = self.table.get_mut(at) else {
            return Turn::Done;
        };
        while let Some(op) = conn.due.first() {
            if !send(ring, &conn.header(self.guest_cid, op)) {
                return Turn::Starved;
            }
            conn.due.done(op);
            if op == op::RST {
                self.remove(at);
                return Turn::Done;
            }
        }
        if !conn.wants_to_read() {
            self.await_end(at);
            return Turn::Done;
        }
        if conn.credit.room() == 0 {
            if std::mem::replace(&mut conn.asked, true) {
                return Turn::Done;
            }
            conn.due.add(op::CREDIT_REQUEST);
            return Turn::Again;
        }
        self.send_data(at, ring)
    }

    /// Reads from the host's program straight into the guest's buffers, several if there is much.
    fn send_data(&mut self, at: usize, ring: &mut Ring) -> Turn {
        let Some(conn) = self.table.get_mut(at) else {
            return Turn::Done;
        };
        let room = conn.credit.room();
        self.vectors.clear();
        let gathered = gather(
            ring,
            &mut self.vectors,
            &mut self.gathered,
            room,
            conn.burst,
        );
        if let Err(error) = gathered {
            put_back(ring, &mut self.gathered);
            ring.fail(&error);
            return Turn::Starved;
        }
        if self.gathered.is_empty() {
            return Turn::Starved;
        }
        let count = match self.vectors.read_from(&conn.fd, None) {
            Ok(0) => {
                conn.end_of_stream();
                0
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.readable = false;
                0
            }
            // Closed with something unread.
            Err(_) => {
                conn.gone = true;
                conn.end_of_stream();
                0
            }
        };
        let is_full = count == self.vectors.len();
        // Whoever stops sending is not heard of again: read to the end.
        conn.readable &= is_full || conn.hung_up;
        conn.burst = if is_full {
            (conn.burst * 2).min(MOST_BURST)
        } else {
            1
        };
        let mut left = u32::try_from(count).unwrap_or(u32::MAX);
        while left > 0
            && let Some(mut chain) = self.gathered.pop_front()
        {
            let mut header = conn.header(self.guest_cid, op::RW);
            header.len = room_in(&chain).min(left);
            left -= header.len;
            conn.credit.sent(header.len);
            put_header(&mut chain, &header);
            ring.complete(chain, HEADER_LEN + header.len);
        }
        put_back(ring, &mut self.gathered);
        if conn.has_work() || conn.wants_to_read() {
            return Turn::Again;
        }
        self.await_end(at);
        Turn::Done
    }
}

/// Bytes of data that there is room for.
fn room_in(chain: &Chain) -> u32 {
    chain.writable_len().saturating_sub(HEADER_LEN)
}

/// Takes up to `most` buffers of the guest, and adds their room for data to `vectors`, up to `room` bytes in all.
fn gather(
    ring: &mut Ring,
    vectors: &mut IoVectors,
    gathered: &mut VecDeque<Chain>,
    room: u32,
    most: usize,
) -> virtio::Result<()> {
    let mut left = room;
    while left > 0 && gathered.len() < most && vectors.as_raw().len() < MANY_VECTORS {
        let Some(chain) = ring.pop() else { break };
        let len = room_in(&chain).min(left);
        let added = payload::add(chain.writable(), len, vectors);
        gathered.push_back(chain);
        if len == 0 {
            return Err(TOO_SMALL);
        }
        added.map_err(|_| virtio::Error::Request("a receive buffer is not in memory"))?;
        left -= len;
    }
    Ok(())
}

/// Puts buffers back that were not needed.
fn put_back(ring: &mut Ring, gathered: &mut VecDeque<Chain>) {
    while let Some(chain) = gathered.pop_back() {
        ring.put_back(chain);
    }
}

const TOO_SMALL: virtio::Error =
    virtio::Error::Request("a receive buffer has no room for a packet");

/// Sends a packet without data. False if the guest has no buffer for it.
fn send(ring: &mut Ring, header: &Header) -> bool {
    let Some(mut chain) = ring.pop() else {
        return false;
    };
    if chain.writable_len() < HEADER_LEN {
        ring.complete(chain, 0);
        ring.fail(&TOO_SMALL);
        return false;
    }
    put_header(&mut chain, header);
    ring.complete(chain, HEADER_LEN);
    true
}

/// Writes a header. There is room for it.
fn put_header(chain: &mut Chain, header: &Header) {
    if let Err(error) = chain.writer().write_all(&header.to_bytes()) {
        telemetry::warn!("vsock: a packet is lost: {error}");
    }
}
