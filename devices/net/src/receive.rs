//! From the tap to the guest (VIRTIO 1.3, 5.1.6.3 and 5.1.6.4).
//!
//! A frame goes from the kernel straight into the driver's buffers, by one readv(2). How long it is shows only then,
//! so there is room for the longest one before. Where the driver merges buffers (`MRG_RXBUF`) this takes many small
//! ones, of which most frames use one or two; the others stay at hand, with their list of vectors, for the next.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use limiter::Limiter;
use memory::{IoVectors, MOST_VECTORS};
use tap::{HEADER, Queue};
use virtio::{Chain, Error, Ring};

use crate::feature::{GUEST_SEGMENTS, MRG_RXBUF};
use crate::shared::Tally;

/// Place in the header of the number of chains that a frame takes (VIRTIO 1.3, 5.1.6).
const NUM_BUFFERS: usize = 10;
/// Most bytes of a frame that is not cut into packets, with its header (VIRTIO 1.3, 5.1.6.3.1).
const LONGEST: usize = HEADER + 65550;
/// Bytes of an Ethernet header, and of a VLAN's tag.
const ETHERNET: usize = 14;
const VLAN: usize = 4;
/// The least that a driver must have room for (VIRTIO 1.3, 5.1.6.3.1).
const LEAST: usize = HEADER + ETHERNET + 1500;
/// The most frames of one turn: then other sources of the worker have theirs.
const BUDGET: usize = 256;
/// How long a driver that has given some buffers, and not enough for the longest frame, is given to add more. After
/// that what there is has to do.
const PATIENCE: Duration = Duration::from_millis(1);

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The tap has no frame.
    Empty,
    /// The driver has no buffers. It rings when it has.
    Hungry,
    /// The driver has buffers, but not for the longest frame. It rings when it has more; this long is waited.
    Short(Duration),
    /// There may be more frames.
    More,
    /// The limit is reached for so long.
    Limited(Duration),
    /// The queue is not connected to its tap.
    Detached,
}

/// The receiving side of a pair.
#[derive(Debug)]
pub(crate) struct Receive {
    ring: Ring,
    /// Chains that were popped, for the frames that come.
    pool: VecDeque<Chain>,
    /// Their buffers; without merging those of the first only.
    vectors: IoVectors,
    merge: bool,
    /// Room for the longest frame.
    need: usize,
    /// Bytes of a frame that was received and not yet taken from the limit.
    owed: Option<u64>,
    /// The driver is given time to add buffers.
    short: bool,
    /// It had its time, and added none since.
    impatient: bool,
    /// Those that a frame took, for a moment.
    used: Vec<(Chain, u32)>,
}

impl Receive {
    /// Receives into `ring`; `mtu` is the tap's.
    pub(crate) fn new(ring: Ring, ram: memory::GuestRam, mtu: usize) -> Self {
        let merge = ring.has(MRG_RXBUF);
        let need = if ring.features() & GUEST_SEGMENTS != 0 {
            LONGEST
        } else {
            // Without merging this is what buffers are measured by: not more than a driver must give.
            LEAST.max(HEADER + ETHERNET + mtu) + if merge { VLAN } else { 0 }
        };
        Self {
            ring,
            pool: VecDeque::new(),
            vectors: IoVectors::new(ram),
            merge,
            need,
            owed: None,
            short: false,
            impatient: false,
            used: Vec::new(),
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The ring, with all chains that no frame took in it.
    pub(crate) fn into_ring(mut self) -> Ring {
        while let Some(chain) = self.pool.pop_back() {
            self.ring.put_back(chain);
        }
        self.ring
    }

    /// What there is has to do.
    pub(crate) fn lose_patience(&mut self) {
        self.impatient = self.short;
    }

    /// Receives frames, and tells the driver.
    pub(crate) fn turn(
        &mut self,
        queue: &Queue,
        limit: Option<&Limiter>,
        tally: &mut Tally,
    ) -> Turn {
        self.ring.silence();
        let turn = self.receive(queue, limit, tally);
        self.ring.notify();
        turn
    }

    fn receive(&mut self, queue: &Queue, limit: Option<&Limiter>, tally: &mut Tally) -> Turn {
        for _ in 0..BUDGET {
            if let Some(bytes) = self.owed {
                let now = Instant::now();
                if let Some(Err(wait)) = limit.map(|limit| limit.take(bytes, 1, now)) {
                    return Turn::Limited(wait);
                }
                self.owed = None;
            }
            if let Some(turn) = self.make_room() {
                return turn;
            }
            match self.vectors.read_from(queue, None) {
                Ok(length) => self.deliver(length, limit.is_some(), tally),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Empty,
                Err(error) if is_detached(&error) => return Turn::Detached,
                Err(error) => {
                    // The kernel could not describe the frame, or could not get at a buffer: the frame is gone.
                    telemetry::warn!("net: a frame is lost: {error}");
                    tally.dropped += 1;
                }
            }
        }
        Turn::More
    }

    /// Pops chains until the longest frame fits. If it does not: why nothing can be received now.
    fn make_room(&mut self) -> Option<Turn> {
        self.short = false;
        loop {
            if !self.merge && !self.pool.is_empty() || self.vectors.len() >= self.need {
                return None;
            }
            match self.ring.pop() {
                Some(chain) => {
                    if !self.add(chain) {
                        return (self.pool.is_empty()).then_some(Turn::Hungry);
                    }
                }
                None if self.ring.listen() => {}
                None => break,
            }
        }
        if self.pool.is_empty() || self.ring.is_broken() {
            return Some(Turn::Hungry);
        }
        self.short = true;
        let all = self.pool.len() >= usize::from(self.ring.size());
        if all || self.impatient {
            return None;
        }
        Some(Turn::Short(PATIENCE))
    }

    /// Adds a chain to the pool. False if there is no place for it.
    fn add(&mut self, chain: Chain) -> bool {
        let vectors = self.vectors.as_raw().len() + chain.writable().len();
        if vectors > MOST_VECTORS && !self.pool.is_empty() {
            self.ring.put_back(chain);
            return false;
        }
        let why = if (chain.writable_len() as usize) < HEADER {
            "a receive buffer is shorter than the header"
        } else if vectors > MOST_VECTORS || chain.add_writable(&mut self.vectors).is_err() {
            "a receive buffer has more parts than the kernel takes"
        } else {
            self.pool.push_back(chain);
            self.impatient = false;
            return true;
        };
        self.ring.put_back(chain);
        self.ring.fail(&Error::Request(why));
        false
    }

    /// Gives the driver a frame that is in the first `length` bytes of the pool.
    fn deliver(&mut self, length: usize, limited: bool, tally: &mut Tally) {
        let room = self.vectors.len();
        // A frame that fills all there is was cut, unless there was enough for any.
        if length < HEADER || length == room && room < self.need {
            tally.dropped += 1;
            return;
        }
        let mut left = length;
        let mut taken = 0;
        while left > 0
            && let Some(chain) = self.pool.pop_front()
        {
            let capacity = chain.writable_len();
            let written = capacity.min(u32::try_from(left).unwrap_or(u32::MAX));
            left -= written as usize;
            taken += capacity as usize;
            self.used.push((chain, written));
        }
        if self.merge {
            self.vectors.skip(taken);
        } else {
            self.vectors.clear();
        }
        let count = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
        if let Some((first, _)) = self.used.first() {
            put(first, NUM_BUFFERS, count.to_le_bytes());
        }
        if self.used.len() == 1
            && let Some((chain, written)) = self.used.pop()
        {
            self.ring.complete(chain, written);
        } else {
            self.ring.complete_together(self.used.drain(..));
        }
        let bytes = (length - HEADER) as u64;
        tally.frames += 1;
        tally.bytes += bytes;
        if limited {
            self.owed = Some(bytes);
        }
    }
}

/// The file is not connected to an interface: the queue was detached, or the interface removed.
pub(crate) fn is_detached(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EIO))
}

/// Writes two bytes at `offset` of a chain's writable ones, wherever its parts end.
fn put(chain: &Chain, offset: usize, bytes: [u8; 2]) {
    let mut offset = offset as u64;
    let mut bytes = bytes.as_slice();
    for buffer in chain.writable() {
        let length = u64::from(buffer.len);
        if offset >= length {
            offset -= length;
            continue;
        }
        let count = bytes
            .len()
            .min(usize::try_from(length - offset).unwrap_or(usize::MAX));
        let (here, rest) = bytes.split_at(count);
        if let Err(error) = chain.ram().write(buffer.address + offset, here) {
            telemetry::warn!("net: cannot write the header of a frame: {error}");
        }
        (offset, bytes) = (0, rest);
        if bytes.is_empty() {
            return;
        }
    }
}
