//! What lanes write to images of `qemu-img` is what `qemu-img` reads, and it finds nothing wrong with them.

use std::ops::Range;
use std::thread;

use super::model::Random;
use super::*;
use crate::Lane;

const SIZE: usize = 3 << 20;
/// The disk is cut into pieces of this size, which belong to the lanes in turns: clusters have several owners.
const CHUNK: usize = 24 << 10;

/// A lane, and what the disk holds where nobody else writes.
struct Writer {
    lane: Box<dyn Lane>,
    ram: GuestRam,
    random: Random,
    chunks: Vec<Range<usize>>,
    model: Vec<u8>,
}

fn below(random: &mut Random, limit: usize) -> usize {
    usize::try_from(random.below(limit as u64)).unwrap()
}

fn ram() -> GuestRam {
    let size = 4 << 20;
    let regions = [RegionSpec { start: 0, size }];
    GuestRam::new(&regions, &RamOptions::default()).unwrap()
}

impl Writer {
    fn vectors(&self, slot: usize, length: usize) -> IoVectors {
        let mut vectors = IoVectors::new(self.ram.clone());
        let address = (slot * (CHUNK + 512)) as u64;
        vectors.push(address, 512).unwrap();
        if length > 512 {
            let rest = u32::try_from(length - 512).unwrap();
            vectors.push(address + 1024, rest).unwrap();
        }
        vectors
    }

    fn work(mut self, rounds: usize) -> Vec<u8> {
        for _ in 0..rounds {
            let first = below(&mut self.random, self.chunks.len());
            let many = 1 + below(&mut self.random, 4);
            let mut discarded = Vec::new();
            for slot in 0..many {
                let chunk = self.chunks[(first + slot * 3) % self.chunks.len()].clone();
                self.begin(slot, chunk, &mut discarded);
            }
            self.finish();
            for range in discarded {
                self.take_over(range);
            }
        }
        self.lane.push(Request {
            tag: 9,
            operation: Operation::Flush,
        });
        self.finish();
        self.model
    }

    fn begin(&mut self, slot: usize, chunk: Range<usize>, discarded: &mut Vec<Range<usize>>) {
        let sectors = chunk.len() / 512;
        let (mut from, mut count) = (0, sectors);
        if self.random.below(3) > 0 {
            from = below(&mut self.random, sectors);
            count = 1 + below(&mut self.random, sectors - from);
        }
        let range = chunk.start + from * 512..chunk.start + (from + count) * 512;
        let (offset, length) = (range.start as u64, range.len() as u64);
        let operation = match self.random.below(10) {
            0..7 => {
                let vectors = self.vectors(slot, range.len());
                let fill = self.random.below(256);
                for (at, byte) in self.model[range.clone()].iter_mut().enumerate() {
                    *byte = (fill + at as u64 / 5).to_le_bytes()[0];
                }
                vectors.copy_from(&self.model[range]);
                Operation::Write { offset, vectors }
            }
            7 => {
                discarded.push(range);
                Operation::Discard { offset, length }
            }
            unmap => {
                self.model[range].fill(0);
                let unmap = unmap == 8;
                Operation::WriteZeroes {
                    offset,
                    length,
                    unmap,
                }
            }
        };
        let tag = slot as u64;
        self.lane.push(Request { tag, operation });
        if slot == 2 {
            let (tag, operation) = (9, Operation::Flush);
            self.lane.push(Request { tag, operation });
        }
    }

    fn finish(&mut self) -> Vec<Option<IoVectors>> {
        let mut events = Vec::new();
        while self.lane.in_flight() > 0 {
            self.lane.wait(&mut events).unwrap();
        }
        let done = events.into_iter().map(|event| match event {
            Event::Done {
                result, vectors, ..
            } => {
                result.unwrap();
                vectors
            }
            Event::Ready { .. } => panic!("nothing is watched"),
        });
        done.collect()
    }

    /// What was discarded is what it was, or zeros.
    fn take_over(&mut self, range: Range<usize>) {
        let vectors = self.vectors(0, range.len());
        let offset = range.start as u64;
        let operation = Operation::Read { offset, vectors };
        self.lane.push(Request { tag: 0, operation });
        let vectors = self.finish().pop().unwrap().unwrap();
        let mut now = vec![0; range.len()];
        vectors.copy_to(&mut now);
        for (old, new) in self.model[range].iter_mut().zip(&now) {
            assert!(*new == *old || *new == 0);
            *old = *new;
        }
    }
}

fn raw(folder: &Path, rest: &str) -> Vec<u8> {
    let line = format!("qemu-img convert -O raw {rest} expected.raw");
    assert!(tool(folder, &line));
    std::fs::read(folder.join("expected.raw")).unwrap()
}

/// Several lanes write at once, with engine `number`.
fn scribble(path: &Path, before: &[u8], number: usize) -> Vec<u8> {
    let options = OpenOptions {
        read_only: false,
        disable_io_uring: !number.is_multiple_of(3),
        disable_aio: number % 3 > 1,
        ..options(path)
    };
    let disk = open(&options).unwrap();
    assert!(disk.can_write_zeroes() && disk.can_discard() && !disk.is_read_only());
    let chunks = |own: usize| -> Vec<Range<usize>> {
        let starts = (0..before.len()).step_by(CHUNK).skip(own).step_by(3);
        starts.map(|at| at..before.len().min(at + CHUNK)).collect()
    };
    let writers = (0..3).map(|own| Writer {
        lane: disk.lane(8).unwrap(),
        ram: ram(),
        random: Random(0x1234_5678 + 1000 * number as u64 + own as u64),
        chunks: chunks(own),
        model: before.to_vec(),
    });
    let threads: Vec<_> = writers
        .map(|it| thread::spawn(move || it.work(25)))
        .collect();
    let mut after = before.to_vec();
    for (own, thread) in threads.into_iter().enumerate() {
        let model = thread.join().unwrap();
        for chunk in chunks(own) {
            after[chunk.clone()].copy_from_slice(&model[chunk]);
        }
    }
    let now = contents(&disk, 100 << 10);
    let differ = now.iter().zip(&after).position(|(a, b)| a != b);
    assert_eq!(differ, None, "{}", path.display());
    after
}

fn compare(folder: &Path, after: &[u8], what: &str) {
    tool(folder, "qemu-img check -q a.qcow2");
    let now = raw(folder, "-f qcow2 a.qcow2");
    let differ = now.iter().zip(after).position(|(a, b)| a != b);
    assert_eq!((now.len(), differ), (after.len(), None), "{what}");
}

/// Writes to an image, has the tool write to it, and writes again.
fn exercise(folder: &Path, number: usize, what: &str) {
    let before = raw(folder, "-f qcow2 a.qcow2");
    let path = folder.join("a.qcow2");
    let after = scribble(&path, &before, number);
    compare(folder, &after, what);
    super::images::fill(folder, "a.qcow2");
    let before = raw(folder, "-f qcow2 a.qcow2");
    let after = scribble(&path, &before, number + 1);
    compare(folder, &after, what);
}

#[test]
fn images_with_every_option() {
    for (number, options) in [
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=512,compat=0.10",
        "cluster_size=4096,refcount_bits=1",
        "cluster_size=1024,refcount_bits=8",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=65536,refcount_bits=64,lazy_refcounts=on",
        "cluster_size=2097152",
        "extended_l2=on,cluster_size=16384",
        "extended_l2=on,cluster_size=131072",
        "preallocation=metadata",
        "preallocation=falloc",
        "data_file=other.raw",
        "data_file=other.raw,data_file_raw=on",
        "data_file=other.raw,extended_l2=on",
    ]
    .into_iter()
    .enumerate()
    {
        let folder = folder();
        let line = format!("qemu-img create -q -f qcow2 -o {options} a.qcow2 5M");
        if !tool(folder.path(), &line) {
            return;
        }
        exercise(folder.path(), number, options);
        if options.contains("data_file_raw") {
            let now = raw(folder.path(), "-f qcow2 a.qcow2");
            assert!(now == std::fs::read(folder.path().join("other.raw")).unwrap());
        }
    }
}

#[test]
fn compressed_images_with_snapshots_over_a_base() {
    for (number, options) in [
        "cluster_size=512",
        "cluster_size=65536",
        "compat=0.10",
        "extended_l2=on,cluster_size=16384",
    ]
    .into_iter()
    .enumerate()
    {
        let folder = folder();
        let folder = folder.path();
        let bytes: Vec<u8> = (0..SIZE).map(|at| at.to_le_bytes()[1] | 1).collect();
        std::fs::write(folder.join("base.raw"), &bytes).unwrap();
        let line = format!("qemu-img convert -c -f raw -O qcow2 -o {options} base.raw base.qcow2");
        if !tool(folder, &line) {
            return;
        }
        // Some of it is compressed here, the rest in the base.
        let line =
            format!("qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 -o {options} a.qcow2 5M");
        tool(folder, &line);
        super::images::fill(folder, "a.qcow2");
        let output = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "write -c -P 7 1M 512k", "a.qcow2"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        tool(folder, "qemu-img snapshot -c first a.qcow2");
        let first = raw(folder, "-f qcow2 -l first a.qcow2");
        exercise(folder, number, options);
        tool(folder, "qemu-img snapshot -c second a.qcow2");
        let second = raw(folder, "-f qcow2 a.qcow2");
        exercise(folder, number + 2, options);
        assert!(raw(folder, "-f qcow2 -l first a.qcow2") == first);
        assert!(raw(folder, "-f qcow2 -l second a.qcow2") == second);
        tool(folder, "qemu-img snapshot -d first a.qcow2");
        exercise(folder, number + 4, options);
    }
}

#[test]
fn both_ends_of_sixty_terabytes() {
    let folder = folder();
    let folder = folder.path();
    if !tool(folder, "qemu-img create -q -f qcow2 a.qcow2 60T") {
        return;
    }
    let options = OpenOptions {
        read_only: false,
        ..options(&folder.join("a.qcow2"))
    };
    let disk = open(&options).unwrap();
    assert_eq!(disk.capacity(), 60 << 40);
    let mut lane = disk.lane(4).unwrap();
    let ram = ram();
    for (tag, offset) in [0, (60 << 40) - 4096].into_iter().enumerate() {
        let mut vectors = IoVectors::new(ram.clone());
        vectors.push(0, 4096).unwrap();
        vectors.copy_from(&[7; 4096]);
        let operation = Operation::Write { offset, vectors };
        let tag = tag as u64;
        lane.push(Request { tag, operation });
    }
    let mut events = Vec::new();
    lane.drain(&mut events).unwrap();
    for event in events {
        assert!(
            matches!(event, Event::Done { result: Ok(()), .. }),
            "{event:?}"
        );
    }
    drop((lane, disk));
    tool(folder, "qemu-img check -q a.qcow2");
    for offset in ["0", "65970697662464"] {
        let command = format!("read -P 7 {offset} 4096");
        let output = Command::new("qemu-io")
            .args(["-r", "-f", "qcow2", "-c", &command, "a.qcow2"])
            .current_dir(folder)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && !text.contains("failed"),
            "{text}"
        );
    }
}

#[test]
fn another_size_while_lanes_are_open() {
    for options in [
        "cluster_size=512",
        "cluster_size=65536",
        "compat=0.10",
        "extended_l2=on,cluster_size=16384",
        "data_file=other.raw,data_file_raw=on",
    ] {
        let folder = folder();
        let folder = folder.path();
        let line = format!("qemu-img create -q -f qcow2 -o {options} a.qcow2 5M");
        if !tool(folder, &line) {
            return;
        }
        super::images::fill(folder, "a.qcow2");
        let before = raw(folder, "-f qcow2 a.qcow2");
        let writable = OpenOptions {
            read_only: false,
            ..super::options(&folder.join("a.qcow2"))
        };
        let disk = open(&writable).unwrap();
        let lane = disk.lane(4).unwrap();
        for size in [3 << 20, 9 << 20, (2 << 20) + 512, 40 << 20] {
            disk.resize(size).unwrap();
            assert_eq!(disk.capacity(), size);
        }
        assert!(disk.resize(0).is_err() && disk.resize(1000).is_err());
        assert!(disk.resize(1 << 62).is_err());
        drop((lane, disk));
        let mut after = before[..(2 << 20) + 512].to_vec();
        after.resize(40 << 20, 0);
        compare(folder, &after, options);
    }
}

/// A lane that has met a cluster learns of it when another one gives it up.
#[test]
fn lanes_forget_what_another_one_gives_up() {
    let folder = folder();
    if !tool(folder.path(), "qemu-img create -q -f qcow2 a.qcow2 5M") {
        return;
    }
    let path = folder.path().join("a.qcow2");
    let options = OpenOptions {
        read_only: false,
        ..options(&path)
    };
    let disk = open(&options).unwrap();
    let ram = ram();
    let [mut one, mut other] = [(); 2].map(|()| disk.lane(4).unwrap());
    let run = |lane: &mut Box<dyn Lane>, operation: Operation| {
        lane.push(Request { tag: 1, operation });
        let mut events = Vec::new();
        lane.drain(&mut events).unwrap();
        match events.pop() {
            Some(Event::Done {
                result: Ok(()),
                vectors,
                ..
            }) => vectors,
            other => panic!("{other:?}"),
        }
    };
    let filled = |byte: u8| {
        let mut vectors = IoVectors::new(ram.clone());
        vectors.push(0, 512).unwrap();
        vectors.copy_from(&[byte; 512]);
        vectors
    };
    let offset = 512;
    for unmap in [false, true] {
        for byte in [1, 2] {
            let vectors = filled(byte);
            run(&mut one, Operation::Write { offset, vectors });
        }
        let (offset, length) = (0, 64 << 10);
        let clear = Operation::WriteZeroes {
            offset,
            length,
            unmap,
        };
        run(&mut other, clear);
        // Its place may be somebody else's by now.
        run(&mut other, Operation::Flush);
        let offset = 512;
        let vectors = filled(9);
        let read = run(&mut one, Operation::Read { offset, vectors });
        let mut seen = [8; 512];
        read.unwrap().copy_to(&mut seen);
        assert_eq!(seen, [0; 512], "unmap {unmap}");
        let vectors = filled(3);
        run(&mut one, Operation::Write { offset, vectors });
        run(&mut one, Operation::Flush);
        let vectors = filled(9);
        let read = run(&mut other, Operation::Read { offset, vectors });
        read.unwrap().copy_to(&mut seen);
        assert_eq!(seen, [3; 512], "unmap {unmap}");
    }
    drop((one, other, disk));
    assert!(raw(folder.path(), "-f qcow2 a.qcow2")[512..1024] == [3; 512]);
    tool(folder.path(), "qemu-img check -q a.qcow2");
}
