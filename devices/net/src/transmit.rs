//! From the guest to the tap (VIRTIO 1.3, 5.1.6.2).

use std::io;
use std::time::{Duration, Instant};

use limiter::Limiter;
use memory::IoVectors;
use tap::{HEADER, Queue};
use virtio::{Chain, Ring};

use crate::shared::Tally;

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The driver has no frame. It rings when it has.
    Idle,
    /// There may be more frames.
    More,
    /// The tap takes no more.
    Blocked,
    /// The limit is reached for so long.
    Limited(Duration),
}

/// What became of a frame.
enum Sent {
    /// The tap has it, with so many bytes, or it is dropped.
    Bytes(u64),
    Dropped,
    /// It has to wait.
    Later(Turn),
}

/// The sending side of a pair.
#[derive(Debug)]
pub(crate) struct Transmit {
    ring: Ring,
    vectors: IoVectors,
    /// The next frame was taken from the limit already.
    paid: bool,
}

impl Transmit {
    pub(crate) fn new(ring: Ring, ram: memory::GuestRam) -> Self {
        Self {
            ring,
            vectors: IoVectors::new(ram),
            paid: false,
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn into_ring(self) -> Ring {
        self.ring
    }

    /// Sends frames, up to a queue full, and tells the driver.
    pub(crate) fn turn(
        &mut self,
        queue: &Queue,
        limit: Option<&Limiter>,
        tally: &mut Tally,
    ) -> Turn {
        self.ring.silence();
        let turn = self.send_all(queue, limit, tally);
        self.ring.notify();
        if turn == Turn::Idle && self.ring.listen() {
            return Turn::More;
        }
        turn
    }

    fn send_all(&mut self, queue: &Queue, limit: Option<&Limiter>, tally: &mut Tally) -> Turn {
        for _ in 0..self.ring.size() {
            let Some(chain) = self.ring.pop() else {
                return Turn::Idle;
            };
            match self.send(&chain, queue, limit) {
                Sent::Bytes(bytes) => {
                    tally.frames += 1;
                    tally.bytes += bytes;
                }
                Sent::Dropped => tally.dropped += 1,
                Sent::Later(turn) => {
                    self.ring.put_back(chain);
                    return turn;
                }
            }
            self.paid = false;
            self.ring.complete(chain, 0);
        }
        Turn::More
    }

    fn send(&mut self, chain: &Chain, queue: &Queue, limit: Option<&Limiter>) -> Sent {
        let length = chain.readable_len() as usize;
        if length <= HEADER {
            return Sent::Dropped;
        }
        let bytes = (length - HEADER) as u64;
        if !self.paid
            && let Some(Err(wait)) = limit.map(|limit| limit.take(bytes, 1, Instant::now()))
        {
            return Sent::Later(Turn::Limited(wait));
        }
        self.paid = true;
        self.vectors.clear();
        if chain.add_readable(&mut self.vectors).is_err() {
            return Sent::Dropped;
        }
        match self.vectors.write_to(queue, None) {
            Ok(_) => Sent::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later(Turn::Blocked),
            // The header makes no sense, the link is down, the frame is too long: a network loses frames.
            Err(_) => Sent::Dropped,
        }
    }
}
