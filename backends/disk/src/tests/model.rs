//! Random operations from several lanes at once, compared with an array of bytes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use memory::{GuestRam, IoVectors};
use proptest::prelude::*;

use super::*;
use crate::raw::open_with_blocks;

const SIZE: usize = 1 << 20;
const SECTOR: usize = 512;
const DEPTH: u16 = 16;

/// Numbers that look random and come again with the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// Guest memory of a read, to be compared.
type Parts = Option<Vec<(u64, u32)>>;

/// One lane, the parts of the disk that only it writes, and what they should hold.
struct Writer {
    lane: Box<dyn Lane>,
    chunks: Vec<Range<usize>>,
    model: Vec<u8>,
    random: Random,
    ram: GuestRam,
    under_way: Vec<(Range<usize>, Parts)>,
}

impl Writer {
    fn work(mut self) -> Self {
        for round in 0..120 {
            let tag = round % u64::from(DEPTH);
            let chunk = self.chunks[self.random.below(self.chunks.len())].clone();
            let sectors = chunk.len() / SECTOR;
            let first = self.random.below(sectors);
            let count = 1 + self.random.below(sectors - first);
            let start = chunk.start + first * SECTOR;
            let range = start..start + count * SECTOR;
            let overlaps =
                |(other, _): &(Range<usize>, _)| other.start < range.end && range.start < other.end;
            if tag == 0 || self.under_way.iter().any(overlaps) {
                self.finish();
            }
            self.begin(tag, range);
            if self.random.below(3) == 0 {
                self.begin(tag + 100, 0..0);
            }
        }
        self.finish();
        self
    }

    /// Guest memory for a transfer: its own part for each tag, in pieces, not always at round addresses.
    fn parts(&mut self, tag: u64, length: usize) -> Vec<(u64, u32)> {
        let mut address = tag * (128 << 10) + [0, 0, 512, 4, 1][self.random.below(5)];
        let mut parts = Vec::new();
        let mut left = length;
        while left > 0 {
            let whole = self.random.below(2) == 0;
            let limit = if whole { left } else { left.min(4096) };
            let count = if parts.len() < 6 && !whole {
                1 + self.random.below(limit)
            } else {
                left
            };
            parts.push((address, u32::try_from(count).unwrap()));
            address += count as u64 + [0, 512, 3][self.random.below(3)];
            left -= count;
        }
        parts
    }

    fn begin(&mut self, tag: u64, range: Range<usize>) {
        let (offset, length) = (range.start as u64, range.len() as u64);
        let mut check = None;
        let operation = match self.random.below(8) {
            _ if range.is_empty() => Operation::Flush,
            0..3 => {
                let parts = self.parts(tag, range.len());
                let operation = read(offset, vectors(&self.ram, &parts));
                check = Some(parts);
                operation
            }
            3..7 => {
                let parts = self.parts(tag, range.len());
                let vectors = vectors(&self.ram, &parts);
                let fill = self.random.below(256);
                for (at, byte) in self.model[range.clone()].iter_mut().enumerate() {
                    *byte = low_byte(fill + at * 3 + at / 512);
                }
                vectors.copy_from(&self.model[range.clone()]);
                write(offset, vectors)
            }
            _ => {
                self.model[range.clone()].fill(0);
                let unmap = self.random.below(2) == 0;
                Operation::WriteZeroes {
                    offset,
                    length,
                    unmap,
                }
            }
        };
        push(&mut *self.lane, tag, operation);
        self.under_way.push((range, check));
    }

    fn finish(&mut self) {
        let mut events = Vec::new();
        if self.random.below(2) == 0 {
            self.lane.drain(&mut events).unwrap();
        } else {
            while self.lane.in_flight() > 0 {
                self.lane.wait(&mut events).unwrap();
            }
        }
        assert_eq!(
            (events.len(), self.lane.in_flight()),
            (self.under_way.len(), 0)
        );
        for event in events {
            let Event::Done { result, .. } = event else {
                panic!("{event:?}");
            };
            result.unwrap();
        }
        for (range, check) in self.under_way.drain(..) {
            if let Some(parts) = check {
                let mut bytes = vec![0; range.len()];
                vectors(&self.ram, &parts).copy_to(&mut bytes);
                assert!(bytes == self.model[range.clone()], "{range:?}");
            }
        }
    }
}

fn chunks(random: &mut Random, size: usize, lanes: usize) -> Vec<Vec<Range<usize>>> {
    let mut shares = vec![Vec::new(); lanes];
    let mut at = 0;
    while at < size {
        let length = ((1 + random.below(150)) * SECTOR).min(size - at);
        shares[random.below(lanes)].push(at..at + length);
        at += length;
    }
    for share in &mut shares {
        if share.is_empty() {
            share.push(0..0);
        }
    }
    shares.retain(|share| !share[0].is_empty());
    shares
}

/// Several lanes work at once on parts that are mixed finely; afterwards the file is what they wrote.
pub(super) fn exercise(disk: &Arc<dyn Disk>, path: &Path, before: &[u8], seed: u64) {
    let mut random = Random(seed | 1);
    let size = before.len() / SECTOR * SECTOR;
    let shares = chunks(&mut random, size, 3);
    let workers: Vec<_> = shares
        .into_iter()
        .map(|chunks| {
            let writer = Writer {
                lane: disk.lane(2 * DEPTH).unwrap(),
                chunks,
                model: before.to_vec(),
                random: Random(random.below(1 << 30) as u64 | 1),
                ram: ram(),
                under_way: Vec::new(),
            };
            thread::spawn(|| writer.work())
        })
        .collect();
    let mut expected = before.to_vec();
    for worker in workers {
        let writer = worker.join().unwrap();
        for chunk in &writer.chunks {
            expected[chunk.clone()].copy_from_slice(&writer.model[chunk.clone()]);
        }
    }
    let after = std::fs::read(path).unwrap();
    assert_eq!(after.len(), expected.len());
    let differ = after.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differ, None, "first byte that differs");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn through_the_page_cache(seed in any::<u64>(), sparse in any::<bool>(), odd in 0_usize..2) {
        for engine in ENGINES {
            let size = SIZE + odd * 1111;
            let (_folder, path) = image(size);
            let options = OpenOptions { sparse, ..options(&path, engine) };
            let Some(disk) = open_for(&options, engine) else { continue };
            exercise(&disk, &path, &pattern(size), seed);
        }
    }

    #[test]
    fn around_the_page_cache(seed in any::<u64>(), sparse in any::<bool>()) {
        for engine in ENGINES {
            let (_folder, path) = image(SIZE);
            let options = OpenOptions { direct: true, sparse, ..options(&path, engine) };
            let Some(disk) = open_for(&options, engine) else { continue };
            exercise(&disk, &path, &pattern(SIZE), seed);
        }
    }

    /// Writes that are not of whole blocks, beside others to the same blocks; the last block is not whole.
    #[test]
    fn in_blocks_that_are_larger_than_sectors(seed in any::<u64>(), tail in 0_usize..8, shift in 12_u32..16) {
        for engine in ENGINES {
            let size = SIZE + tail * SECTOR;
            let (_folder, path) = image(size);
            let options = OpenOptions { direct: true, ..options(&path, engine) };
            let Some(_) = open_for(&options, engine) else { continue };
            let disk = open_with_blocks(&options, 1 << shift);
            exercise(&disk, &path, &pattern(size), seed);
        }
    }
}

#[test]
fn on_a_memory_file_system_without_zero_range() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("disk.raw");
    for engine in ENGINES {
        std::fs::write(&path, pattern(SIZE)).unwrap();
        let options = OpenOptions {
            sparse: false,
            ..options(&path, engine)
        };
        let Some(disk) = open_for(&options, engine) else {
            continue;
        };
        exercise(&disk, &path, &pattern(SIZE), 4711);
    }
}

#[test]
fn many_vectors_and_long_transfers() {
    let ram = ram();
    for engine in ENGINES {
        for direct in [false, true] {
            let (_folder, path) = image(SIZE);
            let options = OpenOptions {
                direct,
                ..options(&path, engine)
            };
            let Some(disk) = open_for(&options, engine) else {
                continue;
            };
            let mut lane = disk.lane(4).unwrap();
            // More than one system call takes, one of them aligned and one not.
            for (at, step, length) in [(0_u64, 1024_u64, 512_u32), (1, 300, 128)] {
                let count = 2000 * 512 / u64::from(length) / 2 * 2;
                let count = count.min(4000);
                let parts: Vec<_> = (0..count).map(|n| (at + n * step, length)).collect();
                let all: IoVectors = vectors(&ram, &parts);
                let total = all.len();
                perform(&mut *lane, read(512, all)).unwrap();
                let mut bytes = vec![0; total];
                let again = vectors(&ram, &parts);
                again.copy_to(&mut bytes);
                assert!(bytes == pattern(SIZE)[512..512 + total]);
                perform(&mut *lane, write(0, again)).unwrap();
                assert!(std::fs::read(&path).unwrap()[..total] == bytes);
                std::fs::write(&path, pattern(SIZE)).unwrap();
            }
        }
    }
}
