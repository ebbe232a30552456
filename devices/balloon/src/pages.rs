//! The worker: gives the host what the guest's driver does not need.

use std::io::{self, Read};
use std::ops::ControlFlow;

use memory::GuestRam;
use reactor::{Interest, Readiness, Sources, Token, Worker};
use virtio::{Chain, Error, Result, Ring};

use crate::PAGE_SHIFT;
use crate::ranges::Ranges;

/// Queues (VIRTIO 1.3, 5.5.2). The third is for reporting: those that the specification has between belong to
/// features that are not offered, and drivers count the queues that there are.
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const QUEUES: usize = 3;

const PAGE: u64 = 1 << PAGE_SHIFT;
/// A page number in a chain.
const NUMBER: usize = 4;
/// The most page numbers of a chain; drivers send 256.
const MOST_NUMBERS: usize = 16 << 10;
/// Ranges that are dropped until the worker looks whether it is to stop.
const ROUND: usize = 64 << 10;

/// All queues of a balloon, on one thread: drivers wait for each chain to be done before they send the next.
#[derive(Debug)]
pub(crate) struct Pages {
    rings: [Option<Ring>; QUEUES],
    drop: Dropper,
}

/// Drops what a chain names. Its lists are used again for the next chain.
#[derive(Debug)]
struct Dropper {
    ram: GuestRam,
    numbers: Vec<u8>,
    ranges: Ranges,
}

impl Pages {
    pub(crate) fn new(ram: GuestRam) -> Self {
        let drop = Dropper {
            ram,
            numbers: Vec::new(),
            ranges: Ranges::default(),
        };
        Self {
            rings: [const { None }; QUEUES],
            drop,
        }
    }

    /// The place of a queue's ring; `None` for a queue that no balloon has.
    pub(crate) fn ring(&mut self, index: u16) -> Option<&mut Option<Ring>> {
        self.rings.get_mut(usize::from(index))
    }

    /// Serves what is in a queue, but no more than a round.
    fn serve(&mut self, index: u16) {
        let Some(Some(ring)) = self.rings.get_mut(usize::from(index)) else {
            return;
        };
        ring.kick().take();
        ring.silence();
        let mut work = 0;
        for _ in 0..ring.size() {
            if work >= ROUND {
                break;
            }
            let Some(chain) = ring.pop() else {
                break;
            };
            let done = match index {
                INFLATE => self.drop.inflate(&chain),
                // Pages that leave the balloon come back to life when the guest touches them.
                DEFLATE => Ok(0),
                _ => self.drop.report(&chain),
            };
            match done {
                Ok(ranges) => work += ranges,
                Err(error) => ring.fail(&error),
            }
            ring.complete(chain, 0);
        }
        ring.notify();
        if ring.listen() {
            ring.kick().signal();
        }
    }
}

impl Dropper {
    /// Drops the pages whose numbers are in a chain (VIRTIO 1.3, 5.5.6). How many ranges that were.
    fn inflate(&mut self, chain: &Chain) -> Result<usize> {
        let length = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
        if !length.is_multiple_of(NUMBER) {
            return Err(Error::Request(
                "a balloon's list of pages is not made of 32-bit numbers",
            ));
        }
        if length > MOST_NUMBERS * NUMBER {
            return Err(Error::Request(
                "a balloon's list of pages has more than 16384 of them",
            ));
        }
        self.numbers.clear();
        let mut reader = chain.reader();
        reader
            .read_to_end(&mut self.numbers)
            .map_err(|_| Error::Request("a balloon's list of pages cannot be read"))?;
        self.ranges.clear();
        for number in self.numbers.chunks_exact(NUMBER) {
            let number = number
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte));
            self.ranges.push(number << PAGE_SHIFT, PAGE);
        }
        self.drop_ranges()
    }

    /// Drops the ranges that a chain is made of (VIRTIO 1.3, 5.5.6.7).
    fn report(&mut self, chain: &Chain) -> Result<usize> {
        self.ranges.clear();
        for buffer in chain.writable() {
            self.ranges.push(buffer.address, buffer.len.into());
        }
        self.drop_ranges()
    }

    /// Drops all ranges, or none if one of them is not RAM.
    fn drop_ranges(&mut self) -> Result<usize> {
        if let Some((address, len)) = self
            .ranges
            .merged()
            .find(|(address, len)| !self.ram.contains(*address, *len))
        {
            let part = "balloon";
            return Err(Error::NotRam { part, address, len });
        }
        let mut count = 0;
        for (address, length) in self.ranges.merged() {
            count += 1;
            // The guest goes without the pages all the same; only the host does not get them.
            if let Err(error) = self.ram.discard(address, length) {
                telemetry::warn!("balloon: {}", telemetry::chain(&error).join(": "));
            }
        }
        Ok(count)
    }
}

impl Worker for Pages {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        for (index, ring) in (0..).zip(&self.rings) {
            if let Some(ring) = ring {
                sources.add(ring.kick(), Token(index), Interest::READ)?;
            }
        }
        Ok(())
    }

    fn ready(
        &mut self,
        queue: Token,
        _: Readiness,
        _: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        self.serve(u16::try_from(queue.0).unwrap_or(u16::MAX));
        Ok(ControlFlow::Continue(()))
    }
}
