//! A disk keeps what was written, discarded and zeroed, over a reset of the machine and over the end of the monitor.
//!
//! Which start of the guest it is the disk itself says, in its last place. The disk is divided in places of 64 KiB; what
//! happens to one follows from its number.

use super::Test;
use crate::boot::Boot;
use crate::devices::block::{DISCARD, Disk, FLUSH, READ, SECTOR, UNMAP, WRITE, WRITE_ZEROES};
use crate::machine;
use crate::memory::{bytes, fill, take, write32, write64};
use crate::virtio::{Device, feature, kind};

pub(super) const TESTS: &[Test] = &[("image", image)];

/// Features of the device (VIRTIO 1.3, 5.2.3): flushes, two queues, discards, zeros.
const FEATURES: u64 = 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14;
const PLACE: u64 = 64 << 10;
/// Requests under way on each queue.
const DEPTH: u64 = 8;
/// What the second start writes of each place.
const PART: u64 = 4096;

/// What the first start does to a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Written,
    Zeroed,
    Discarded,
}

fn fate(place: u64) -> Fate {
    [Fate::Kept, Fate::Written, Fate::Zeroed, Fate::Discarded][(place % 4) as usize]
}

/// What is written to a place. The host's test knows it too.
fn letter(place: u64, start: u64) -> u8 {
    (1 + (place * 7 + start * 3) % 200) as u8
}

/// The disk by its queues, with a buffer for each request.
struct Both {
    queues: [Disk; 2],
    buffers: u64,
}

/// Does what this start of the guest is to do: `behind=` is what the disk has where nothing was written. The first
/// ends with a reset; with `killed=yes` it goes on to write until the monitor is killed.
fn image(boot: &Boot) {
    let Some(mut disk) = Both::start() else {
        return fail!("there is no disk with two queues, flushes, discards and zeros");
    };
    let behind = boot.word("behind").and_then(|word| word.parse().ok());
    let behind = behind.unwrap_or(0);
    let places = disk.queues[0].capacity * SECTOR / PLACE - 1;
    disk.each(places, 1, READ, |_| true);
    let marker = bytes(disk.buffer(0), 1)[0];
    fact!("marker {marker}");
    if marker == behind {
        disk.first(places, behind);
        fact!("flushed {places}");
        match boot.word("killed") {
            None => machine::reset(),
            Some(_) => loop {
                disk.again(places);
            },
        }
    }
    disk.second(places, behind);
}

impl Both {
    fn start() -> Option<Self> {
        let device = Device::find(kind::BLOCK)?;
        let features = device.agree(feature::EVENT_IDX | FEATURES);
        if features & FEATURES != FEATURES || device.queues() < 2 {
            return None;
        }
        let queues = [0, 1].map(|index| Disk::with_queue(&device, index, features));
        device.go();
        Some(Self {
            queues,
            buffers: take(2 * DEPTH * PLACE, 4096),
        })
    }

    /// The buffer of a request: those of the first queue, then those of the second.
    fn buffer(&self, request: u64) -> u64 {
        self.buffers + request * PLACE
    }

    /// Does the same to `count` places from `first` on that are `wanted`, on both queues, many at a time. What is
    /// written is in the buffer of the request: see [`Both::fill`].
    fn each(&mut self, first: u64, count: u64, what: u32, wanted: impl Fn(u64) -> bool) {
        assert!(count <= 2 * DEPTH);
        for place in (first..first + count).filter(|place| wanted(*place)) {
            let buffer = self.buffer(place - first);
            let data = match what {
                READ | WRITE => (buffer, PLACE as u32),
                _ => {
                    // One segment (VIRTIO 1.3, 5.2.6).
                    let unmap = if place % 8 < 4 { UNMAP } else { 0 };
                    write64(buffer, place * PLACE / SECTOR);
                    write32(buffer + 8, (PLACE / SECTOR) as u32);
                    write32(buffer + 12, if what == DISCARD { 0 } else { unmap });
                    (buffer, 16)
                }
            };
            let sector = if what == READ || what == WRITE {
                place * PLACE / SECTOR
            } else {
                0
            };
            let slot = (place - first) / 2;
            self.queues[(place % 2) as usize].submit(slot as u16, what, sector, Some(data));
        }
        self.queues.iter_mut().for_each(|disk| {
            disk.queue.notify();
        });
        for place in (first..first + count).filter(|place| wanted(*place)) {
            let disk = &mut self.queues[(place % 2) as usize];
            let done = disk.queue.wait().is_some();
            expect!(done, "request {what} for place {place} does not end");
        }
        for place in (first..first + count).filter(|place| wanted(*place)) {
            let slot = (place - first) / 2;
            let status = self.queues[(place % 2) as usize].status(slot as u16);
            expect!(
                status == 0,
                "request {what} for place {place}: status {status}"
            );
        }
    }

    fn fill(&self, first: u64, count: u64, start: u64) {
        for place in first..first + count {
            fill(self.buffer(place - first), PLACE, letter(place, start));
        }
    }

    fn flush(&mut self) {
        for disk in &mut self.queues {
            let status = disk.request(FLUSH, 0, None);
            expect!(status == Some(0), "flush: {status:?}");
        }
    }

    /// Calls with each part of the disk: its first place and how many there are.
    fn parts(&mut self, places: u64, mut each: impl FnMut(&mut Self, u64, u64)) {
        for first in (0..places).step_by(2 * DEPTH as usize) {
            each(self, first, (places - first).min(2 * DEPTH));
        }
    }

    fn first(&mut self, places: u64, behind: u8) {
        self.parts(places, |disk, first, count| {
            disk.each(first, count, READ, |_| true);
            for place in first..first + count {
                let is_right = is_all(disk.buffer(place - first), PLACE, behind);
                expect!(is_right, "place {place} is not what is behind it");
            }
            disk.fill(first, count, 0);
            disk.each(first, count, WRITE, |place| fate(place) != Fate::Kept);
            disk.each(first, count, WRITE_ZEROES, |place| {
                fate(place) == Fate::Zeroed
            });
            disk.each(first, count, DISCARD, |place| {
                fate(place) == Fate::Discarded
            });
        });
        fill(self.buffer(0), PLACE, !behind);
        self.each(places, 1, WRITE, |_| true);
        self.flush();
    }

    /// Gives up what was discarded, and writes it again together with what is there, so that tables always change.
    fn again(&mut self, places: u64) {
        self.parts(places, |disk, first, count| {
            let is_written = |place| fate(place) == Fate::Written;
            disk.each(first, count, DISCARD, |place| {
                fate(place) == Fate::Discarded
            });
            disk.fill(first, count, 0);
            disk.each(first, count, WRITE, |place| {
                is_written(place) || fate(place) == Fate::Discarded
            });
        });
        self.flush();
    }

    fn second(&mut self, places: u64, behind: u8) {
        self.parts(places, |disk, first, count| {
            disk.each(first, count, READ, |_| true);
            for place in first..first + count {
                let buffer = disk.buffer(place - first);
                let written = letter(place, 0);
                let is_right = match fate(place) {
                    Fate::Kept => is_all(buffer, PLACE, behind),
                    Fate::Written => is_all(buffer, PLACE, written),
                    Fate::Zeroed => is_all(buffer, PLACE, 0),
                    // Anything, but nothing that lies behind.
                    Fate::Discarded => {
                        let found = bytes(buffer, PLACE);
                        found.iter().all(|byte| *byte == 0 || *byte == written)
                    }
                };
                let found = bytes(buffer, 1)[0];
                expect!(is_right, "place {place} begins with {found:#x}");
            }
        });
        // A part of each place: the rest of it stays.
        for place in 0..places {
            let buffer = self.buffer(0);
            fill(buffer, PART, letter(place, 1));
            let disk = &mut self.queues[(place % 2) as usize];
            let sector = (place * PLACE + 2 * PART) / SECTOR;
            let status = disk.request(WRITE, sector, Some((buffer, PART as u32)));
            expect!(
                status == Some(0),
                "place {place} cannot be written in part: {status:?}"
            );
        }
        self.flush();
    }
}

fn is_all(start: u64, len: u64, value: u8) -> bool {
    bytes(start, len).iter().all(|byte| *byte == value)
}
