//! Random operations on images of any geometry, compared with an array of bytes; and with the power cut.

use std::ops::RangeInclusive;
use std::process::Command;
use std::sync::Arc;

use crate::qcow2::check::{check, read_header};
use crate::qcow2::create::{CreateOptions, create};
use crate::qcow2::header::BackingName;
use crate::qcow2::map::Map;
use crate::qcow2::owner::Writer;
use crate::qcow2::read::{Layer, Qcow2};
use crate::qcow2::write::Clear;
use crate::storage::Storage;
use crate::storage::simulator::Simulator;
use crate::tools::Findings;

/// The number of the image among the files of the simulator, of its data file, and of its backing file.
const IMAGE: usize = 0;
const DATA: usize = 1;
const BACKING: usize = 2;

/// Numbers that look random and come again with the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// An image like most could be.
pub(super) fn any_options(random: &mut Random) -> CreateOptions {
    let version = if random.below(4) == 0 { 2 } else { 3 };
    let extended_l2 = version == 3 && random.below(3) == 0;
    let external = version == 3 && random.below(6) == 0;
    let backing = random.chance() && !external;
    let cluster_bits = match extended_l2 {
        true => 14 + random.below(2),
        false => 9 + random.below(5),
    };
    CreateOptions {
        version,
        size: 512 * (1 + random.below(800)),
        cluster_bits: u32::try_from(cluster_bits).unwrap(),
        refcount_order: match version {
            2 => 4,
            _ => u32::try_from(random.below(7)).unwrap(),
        },
        extended_l2,
        external_data: external.then(|| "data".to_owned()),
        backing: backing.then(|| BackingName {
            name: "base".to_owned(),
            format: Some("raw".to_owned()),
        }),
    }
}

/// The image in the files of a simulator.
pub(super) fn open(
    simulator: &Arc<Simulator>,
    writes: bool,
) -> Result<(Qcow2, Arc<dyn Storage>), String> {
    let file = simulator.file(IMAGE);
    let header = read_header(&*file)?;
    let data = match header.external_data {
        None => Arc::clone(&file),
        Some(_) => simulator.file(DATA),
    };
    let backing = header
        .backing
        .is_some()
        .then(|| Layer::Raw(simulator.file(BACKING)));
    let map = Map::new(header, Arc::clone(&file));
    let mut image = Qcow2::new(map, Arc::clone(&file), data, backing);
    if writes {
        image.writer = Some(Writer::open(image.map(), &file, true)?);
    }
    Ok((image, file))
}

pub(super) fn report(simulator: &Arc<Simulator>) -> Findings {
    check(&simulator.file(IMAGE), false).unwrap()
}

/// An image and what its disk should hold.
struct Run {
    simulator: Arc<Simulator>,
    image: Qcow2,
    model: Vec<u8>,
    random: Random,
    /// What the disk held at each flush.
    flushed: Vec<Flushed>,
    /// All changes.
    changes: Vec<Change>,
}

struct Flushed {
    /// Steps of the simulator, and changes, that were done by then.
    steps: usize,
    changes: usize,
    model: Vec<u8>,
}

/// What some bytes of the disk were after a change.
struct Change {
    /// Steps of the simulator before it.
    steps: usize,
    start: usize,
    bytes: Vec<u8>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let options = any_options(&mut random);
        let base: Vec<u8> = (0..random.below(options.size + 5000))
            .map(|at| (at / 512).to_le_bytes()[0] | 1)
            .collect();
        let blank = Simulator::new(vec![Vec::new(), Vec::new(), base.clone()]);
        create(&*blank.file(IMAGE), &options).unwrap();
        let simulator = Simulator::new(blank.contents());
        let (image, _) = open(&simulator, true).unwrap();
        let size = usize::try_from(options.size).unwrap();
        let mut model = match options.backing {
            Some(_) => base,
            None => Vec::new(),
        };
        model.resize(size, 0);
        Self {
            flushed: vec![Flushed {
                steps: 0,
                changes: 0,
                model: model.clone(),
            }],
            changes: Vec::new(),
            simulator,
            image,
            model,
            random,
        }
    }

    /// A range of sectors.
    fn range(&mut self) -> (usize, usize) {
        let sectors = self.model.len() as u64 / 512;
        let first = self.random.below(sectors);
        let most = if self.random.chance() { 8 } else { sectors };
        let count = 1 + self.random.below(most.min(sectors - first));
        let narrow = |number: u64| usize::try_from(number * 512).unwrap();
        (narrow(first), narrow(count))
    }

    fn write(&mut self) {
        let (start, length) = self.range();
        let length = length.min(20_000);
        let length = length / 512 * 512;
        let fill = self.random.below(256);
        for (at, byte) in self.model[start..start + length].iter_mut().enumerate() {
            *byte = (fill + at as u64 / 7).to_le_bytes()[0];
        }
        let steps = self.simulator.steps();
        let cluster = usize::try_from(self.image.map().header().cluster()).unwrap();
        let mut at = start;
        while at < start + length {
            let count = (cluster - at % cluster).min(start + length - at);
            self.image
                .write(at as u64, &self.model[at..at + count])
                .unwrap();
            at += count;
        }
        self.changed(steps, start, length);
    }

    fn changed(&mut self, steps: usize, start: usize, length: usize) {
        self.changes.push(Change {
            steps,
            start,
            bytes: self.model[start..start + length].to_vec(),
        });
    }

    /// As a lane does it.
    fn clear(&mut self, how: Clear) {
        let (start, length) = self.range();
        let part = self.image.map().header().part();
        let end = (start + length) as u64;
        let whole = match end == self.image.map().size() {
            true => end,
            false => end / part * part,
        };
        let mut at = (start as u64).next_multiple_of(part);
        let steps = self.simulator.steps();
        if at >= whole {
            return;
        }
        let first = usize::try_from(at).unwrap();
        while at < whole {
            at += self.image.clear(at, whole - at, how).unwrap();
        }
        assert_eq!(at, whole);
        let cleared = first..usize::try_from(whole).unwrap();
        match how {
            Clear::Zero { .. } => self.model[cleared.clone()].fill(0),
            // Anything that is not somebody else's: what it was, or zeros.
            Clear::Discard => {
                let mut now = vec![0; cleared.len()];
                self.image.read(first as u64, &mut now).unwrap();
                for (old, new) in self.model[cleared.clone()].iter_mut().zip(&now) {
                    assert!(*new == *old || *new == 0, "{new} after a discard of {old}");
                    *old = *new;
                }
            }
        }
        self.changed(steps, first, cleared.len());
    }

    fn flush(&mut self) {
        self.image.flush().unwrap();
        self.flushed.push(Flushed {
            steps: self.simulator.steps(),
            changes: self.changes.len(),
            model: self.model.clone(),
        });
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..6 => self.write(),
            6 => self.clear(Clear::Discard),
            7 => self.clear(Clear::Zero { unmap: true }),
            8 => self.clear(Clear::Zero { unmap: false }),
            9 => self.flush(),
            10 if self.random.below(4) == 0 => self.reopen(),
            10 if self.random.below(4) == 0 => self.resize(),
            _ => self.compare(),
        }
    }

    fn resize(&mut self) {
        let steps = self.simulator.steps();
        let old = self.model.len();
        let size = match self.random.below(3) {
            0 => 512 * (1 + self.random.below(old as u64 / 512)),
            1 => old as u64 / 512 * 512 + 512 * (1 + self.random.below(600)),
            _ => 512 * (1 + self.random.below(6000)),
        };
        self.image.resize(size).unwrap();
        let size = usize::try_from(size).unwrap();
        self.model.resize(size, 0);
        let mut bytes = self.model.clone();
        bytes.resize(size.max(old), 0);
        self.changes.push(Change {
            steps,
            start: 0,
            bytes,
        });
        self.flush();
    }

    fn reopen(&mut self) {
        self.image.settle().unwrap();
        let found = report(&self.simulator);
        assert_eq!((found.errors, found.leaks), (0, 0), "{found:?}");
        self.image = open(&self.simulator, true).unwrap().0;
        self.flush();
    }

    fn compare(&mut self) {
        let mut now = vec![1; self.model.len()];
        self.image.read(0, &mut now).unwrap();
        let differ = now.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differ, None, "{:?}", self.image.map().header());
    }
}

#[test]
fn random_operations() {
    operate(1..=15);
}

/// The long form, with `cargo xtask test --full`.
#[test]
#[ignore = "takes minutes"]
fn random_operations_for_long() {
    operate(16..=2000);
}

fn operate(seeds: RangeInclusive<u64>) {
    for seed in seeds {
        let mut run = Run::new(seed);
        for _ in 0..80 {
            run.step();
        }
        run.compare();
        run.reopen();
        run.compare();
    }
}

/// The image as it may be after the power failed opens, has no errors, and holds what was flushed.
fn look(run: &Run, files: Vec<Vec<u8>>, steps: usize, what: &str) {
    let simulator = Simulator::new(files);
    let (image, file) = open(&simulator, true).unwrap();
    let found = check(&file, false).unwrap();
    assert_eq!(found.errors, 0, "{what}: {found:?}");
    // A repair leaves nothing, and changes nothing of the disk.
    let repaired = check(&file, true).unwrap();
    assert_eq!(
        (repaired.errors, repaired.leaks),
        (0, 0),
        "{what}: {repaired:?}"
    );
    let found = check(&file, false).unwrap();
    assert_eq!((found.errors, found.leaks), (0, 0), "{what}: {found:?}");
    let flushed = run.flushed.iter().rfind(|flushed| flushed.steps <= steps);
    let flushed = flushed.unwrap();
    let mut now = vec![0; flushed.model.len()];
    image.read(0, &mut now).unwrap();
    let changes = &run.changes[flushed.changes..];
    for (sector, bytes) in now.chunks(512).enumerate() {
        let start = sector * 512;
        let range = start..start + bytes.len();
        let may_be = |change: &Change| {
            let bytes_then = start
                .checked_sub(change.start)
                .and_then(|from| change.bytes.get(from..from + bytes.len()));
            change.steps < steps && bytes_then == Some(bytes)
        };
        let is_right = flushed.model[range] == *bytes || changes.iter().any(may_be);
        assert!(is_right, "{what}: sector {sector} is {:?}", &bytes[..4]);
    }
}

/// An independent tool finds no error in the image either, only clusters that count as used and are not.
fn judge(files: &[Vec<u8>], what: &str) {
    let folder = super::folder();
    // As the images of these tests name what belongs to them.
    for (name, bytes) in ["a.qcow2", "data", "base"].iter().zip(files) {
        super::write(&folder, name, bytes);
    }
    let mut tool = Command::new("qemu-img");
    tool.args(["check", "-f", "qcow2", "a.qcow2"]);
    match tool.current_dir(folder.path()).output() {
        // 3 says that there are leaks, and nothing else.
        Ok(output) => assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{what}: {output:?}"
        ),
        Err(error) => println!("SKIPPED: qemu-img check: {error}"),
    }
}

#[test]
fn power_cuts() {
    cut(1..=12, 1);
}

/// The long form, with `cargo xtask test --full`.
#[test]
#[ignore = "takes minutes"]
fn power_cuts_for_long() {
    cut(13..=2000, 10);
}

/// Cuts the power at ten points of each run. Of so many of them `qemu-img` sees what is left.
fn cut(seeds: RangeInclusive<u64>, judged: usize) {
    for seed in seeds {
        let mut run = Run::new(seed + 1000);
        for _ in 0..40 {
            run.step();
        }
        run.flush();
        for number in 0..10 {
            let steps =
                usize::try_from(run.random.below(run.simulator.steps() as u64 + 1)).unwrap();
            let weight = run.random.below(5);
            let mut dice = Random(run.random.0 ^ 0x5555);
            let files = run.simulator.cut(steps, || dice.below(4) < weight);
            let what = format!("seed {seed}, {steps} steps");
            if number < judged {
                judge(&files, &what);
            }
            look(&run, files, steps, &what);
        }
    }
}
