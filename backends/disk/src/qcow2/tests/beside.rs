//! What is done while another thread flushes: it does not wait, and a power cut finds the image in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use std::{io, iter};

use super::model::{Random, any_options, report};
use crate::qcow2::check::{check, read_header};
use crate::qcow2::create::{CreateOptions, create};
use crate::qcow2::map::Map;
use crate::qcow2::owner::Writer;
use crate::qcow2::read::Qcow2;
use crate::qcow2::write::Clear;
use crate::storage::Storage;
use crate::storage::simulator::Simulator;

/// A file whose syncs take as long as the test wants.
struct Slow {
    file: Arc<dyn Storage>,
    /// Syncs wait as long as this is set.
    closed: Mutex<bool>,
    opened: Condvar,
    /// How long each one takes then.
    pause: Duration,
    waits: AtomicBool,
}

impl Slow {
    fn new(file: Arc<dyn Storage>, pause: Duration) -> Arc<Self> {
        Arc::new(Self {
            file,
            closed: Mutex::new(false),
            opened: Condvar::new(),
            pause,
            waits: AtomicBool::new(false),
        })
    }

    fn close(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }
}

impl Storage for Slow {
    fn length(&self) -> u64 {
        self.file.length()
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write(offset, bytes)
    }

    fn flush(&self) -> io::Result<()> {
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            self.waits.store(true, Ordering::SeqCst);
            closed = self.opened.wait(closed).unwrap();
        }
        drop(closed);
        thread::sleep(self.pause);
        self.file.flush()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.file.punch(offset, length)
    }
}

/// An image of these options, on such a file.
fn image(options: &CreateOptions, pause: Duration) -> (Qcow2, Arc<Slow>, Arc<Simulator>) {
    let blank = Simulator::new(vec![Vec::new()]);
    create(&*blank.file(0), options).unwrap();
    let simulator = Simulator::new(blank.contents());
    let slow = Slow::new(simulator.file(0), pause);
    (open(&slow), slow, simulator)
}

fn open(file: &Arc<Slow>) -> Qcow2 {
    let file: Arc<dyn Storage> = Arc::<Slow>::clone(file);
    let map = Map::new(read_header(&*file).unwrap(), Arc::clone(&file));
    let mut image = Qcow2::new(map, Arc::clone(&file), Arc::clone(&file), None);
    image.writer = Some(Writer::open(image.map(), &file, true).unwrap());
    image
}

#[test]
fn nobody_waits_for_a_sync_of_somebody_else() {
    let options = CreateOptions {
        version: 3,
        size: 4 << 20,
        cluster_bits: 16,
        refcount_order: 4,
        extended_l2: false,
        external_data: None,
        backing: None,
    };
    let (image, slow, _) = image(&options, Duration::ZERO);
    let cluster = 1 << 16;
    image.write(0, &[1; 512]).unwrap();
    image.write(cluster, &[1; 512]).unwrap();
    image.flush().unwrap();
    // What is known of the clusters is forgotten.
    drop(image);
    let image = open(&slow);
    image.write(2 * cluster, &[1; 512]).unwrap();
    slow.close(true);
    thread::scope(|scope| {
        let flush = scope.spawn(|| image.flush());
        while !slow.waits.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let (told, done) = mpsc::channel();
        scope.spawn(|| {
            let told = told;
            // An allocated cluster, for the first time; one that has no room yet; zeros; and a read.
            image.write(0, &[2; 512]).unwrap();
            image.write(5 * cluster, &[3; 512]).unwrap();
            image
                .clear(cluster, cluster, Clear::Zero { unmap: true })
                .unwrap();
            let mut bytes = [9; 1];
            image.read(5 * cluster, &mut bytes).unwrap();
            told.send(bytes[0]).unwrap();
        });
        let seen = done.recv_timeout(Duration::from_secs(20));
        slow.close(false);
        assert_eq!(seen, Ok(3), "others waited for the sync");
        flush.join().unwrap().unwrap();
    });
    image.settle().unwrap();
    drop(image);
    let mut bytes = [9; 1];
    for (at, value) in [(0, 2), (cluster, 0), (2 * cluster, 1), (5 * cluster, 3)] {
        open(&slow).read(at, &mut bytes).unwrap();
        assert_eq!(bytes, [value], "at {at:#x}");
    }
}

/// What the first half of a disk held at a flush, and how many steps were made by then.
struct Flushed {
    steps: usize,
    bytes: Vec<u8>,
}

/// Writes and discards anywhere in `sectors` from `first` on, until it is told to end.
fn scribble(image: &Qcow2, seed: u64, first: u64, sectors: u64, ends: &AtomicBool) {
    let mut random = Random(seed);
    let cluster = image.map().header().cluster();
    let part = image.map().header().part();
    while !ends.load(Ordering::SeqCst) {
        let at = (first + random.below(sectors)) * 512;
        let room = (cluster - at % cluster).min((first + sectors) * 512 - at);
        if random.below(4) > 0 {
            let byte = random.below(255).to_le_bytes()[0] + 1;
            let count = usize::try_from(room).unwrap();
            image.write(at, &vec![byte; count]).unwrap();
        } else if at.is_multiple_of(part) && room >= part {
            image.clear(at, room / part * part, Clear::Discard).unwrap();
        }
    }
}

/// One thread writes to the first half of a disk and flushes, another one writes to the second half and does not.
fn run(seed: u64) -> (Arc<Simulator>, Vec<Flushed>) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let options = CreateOptions {
        external_data: None,
        backing: None,
        ..any_options(&mut random)
    };
    let options = CreateOptions {
        size: options.size.max(512 * 64),
        ..options
    };
    let (image, _slow, simulator) = image(&options, Duration::from_micros(300));
    let sectors = options.size / 512;
    let cluster_sectors = image.map().header().cluster() / 512;
    // No cluster belongs to both.
    let half = (sectors / 2 / cluster_sectors * cluster_sectors).max(cluster_sectors.min(sectors));
    let mut bytes = vec![0; usize::try_from(half * 512).unwrap()];
    let mut flushed = vec![Flushed {
        steps: 0,
        bytes: bytes.clone(),
    }];
    let ends = AtomicBool::new(false);
    // Each write has a byte of its own.
    let mut byte = 0;
    thread::scope(|scope| {
        if half < sectors {
            scope.spawn(|| scribble(&image, seed | 1, half, sectors - half, &ends));
        }
        for _ in 0..6 {
            for _ in 0..1 + random.below(4) {
                let at = random.below(half) * 512;
                let cluster = image.map().header().cluster();
                let count = usize::try_from((cluster - at % cluster).min(half * 512 - at)).unwrap();
                byte += 1;
                let start = usize::try_from(at).unwrap();
                bytes[start..start + count].fill(byte);
                image.write(at, &vec![byte; count]).unwrap();
            }
            image.flush().unwrap();
            flushed.push(Flushed {
                steps: simulator.steps(),
                bytes: bytes.clone(),
            });
        }
        ends.store(true, Ordering::SeqCst);
    });
    image.settle().unwrap();
    let found = report(&simulator);
    assert_eq!(
        (found.errors, found.leaks),
        (0, 0),
        "seed {seed}: {found:?}"
    );
    (simulator, flushed)
}

#[test]
fn power_cuts_while_one_flushes_and_another_changes() {
    for seed in 1..=12 {
        let (simulator, flushed) = run(seed);
        let mut random = Random(seed.wrapping_mul(77) | 1);
        let points = iter::repeat_with(|| random.below(simulator.steps() as u64 + 1));
        for steps in points.take(12).collect::<Vec<_>>() {
            let steps = usize::try_from(steps).unwrap();
            let weight = random.below(5);
            let files = simulator.cut(steps, || random.below(4) < weight);
            let after = Simulator::new(files);
            let what = format!("seed {seed}, {steps} steps");
            let found = check(&after.file(0), false).unwrap();
            assert_eq!(found.errors, 0, "{what}: {found:?}");
            // Each sector is what it was at the last flush before, or what was written for the next one.
            let index = flushed.iter().rposition(|it| it.steps <= steps).unwrap();
            let image = open(&Slow::new(after.file(0), Duration::ZERO));
            let mut now = vec![0; flushed[0].bytes.len()];
            image.read(0, &mut now).unwrap();
            for (sector, bytes) in now.chunks(512).enumerate() {
                let range = sector * 512..sector * 512 + bytes.len();
                let is = |at: usize| {
                    flushed
                        .get(at)
                        .is_some_and(|it| it.bytes[range.clone()] == *bytes)
                };
                // What was overwritten before the flush may be seen too, so only what was not changed is looked at.
                let same = flushed.get(index + 1).is_none_or(|next| {
                    next.bytes[range.clone()] == flushed[index].bytes[range.clone()]
                });
                assert!(is(index) || !same, "{what}: sector {sector}");
            }
        }
    }
}
