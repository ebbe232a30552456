//! Small files do not make much memory, and bytes that make no sense end.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// A file that keeps in mind how much was asked for at a time: memory is made for what is read.
struct Watched {
    below: Arc<dyn Storage>,
    most: Arc<AtomicUsize>,
}

impl Storage for Watched {
    fn length(&self) -> u64 {
        self.below.length()
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.most.fetch_max(bytes.len(), Ordering::Relaxed);
        self.below.read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.most.fetch_max(bytes.len(), Ordering::Relaxed);
        self.below.write(offset, bytes)
    }

    fn flush(&self) -> io::Result<()> {
        self.below.flush()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.below.set_length(length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.below.punch(offset, length)
    }
}

/// Opens the bytes as each format, for reading and for writing, looks here and there, and gives the largest piece that
/// was read or written.
fn look(bytes: &[u8]) -> usize {
    let most = Arc::new(AtomicUsize::new(0));
    for format in [Format::Vhd, Format::Vhdx] {
        for read_only in [true, false] {
            let file: Arc<dyn Storage> = Arc::new(Watched {
                below: Simulator::new(vec![bytes.to_vec()]).file(0),
                most: Arc::clone(&most),
            });
            if let Ok(image) = format.open(Arc::clone(&file), read_only) {
                let size = image.capacity();
                let last = size.saturating_sub(512);
                for offset in [0, 1 << 20, size / 2, last, size, u64::MAX] {
                    // Either is right; what counts is that it ends.
                    let _ = image.find(offset, 1 << 20);
                    if !read_only {
                        let _ = image.allocate(offset, 512);
                    }
                }
            }
            let _ = format.check(&file, !read_only);
        }
    }
    most.load(Ordering::Relaxed)
}

/// Images of both formats, as small as can be.
fn seeds() -> Vec<Vec<u8>> {
    let make = |format: Format| {
        let simulator = Simulator::new(vec![Vec::new()]);
        format.create(&*simulator.file(0), 4 << 20);
        simulator.contents().remove(0)
    };
    vec![make(Format::Vhd), make(Format::Vhdx)]
}

#[test]
fn small_files_do_not_ask_for_much() {
    for length in [0, 1, 64, 511, 512] {
        for fill in [0, 0xff] {
            let mut bytes = vec![fill; length];
            assert!(look(&bytes) <= 64 << 10);
            for signature in [&b"vhdxfile"[..], b"conectix", b"cxsparse"] {
                let count = signature.len().min(length);
                bytes[..count].copy_from_slice(&signature[..count]);
                assert!(look(&bytes) <= 64 << 10, "{length} {signature:?}");
            }
        }
    }
    // Heads of real images, without what they speak of.
    for seed in seeds() {
        for length in [64, 512, 1024, 1536, 64 << 10, 200 << 10, 400 << 10] {
            let length = length.min(seed.len());
            let most = look(&seed[..length]);
            assert!(most <= 64 << 10, "{length}: {most}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_that_make_no_sense_end(
        which in 0..2_usize,
        changes in prop::collection::vec((any::<u32>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = seeds().swap_remove(which);
        // Where the structures are, in both formats.
        let areas = [0..4096, 64 << 10..66 << 10, 192 << 10..194 << 10, 2 << 20..(2 << 20) + 4096, 3 << 20..(3 << 20) + 64];
        for (place, byte) in changes {
            let area = &areas[place as usize % areas.len()];
            let at = area.start + (place as usize >> 3) % area.len();
            if let Some(there) = bytes.get_mut(at) {
                *there = byte;
            }
        }
        prop_assert!(look(&bytes) <= 2 << 20);
    }
}
