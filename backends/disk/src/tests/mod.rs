//! Disks as whoever serves them to a guest uses them.

mod devices;
mod errors;
mod lanes;
mod locks;
mod model;
mod opening;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};
use tempfile::TempDir;

use crate::{Disk, Engine, Event, ImageType, Lane, OpenOptions, Operation, Request, open};

const ENGINES: [Engine; 3] = [Engine::IoUring, Engine::Aio, Engine::Sync];

/// Options for one engine. What the host does not have is not tested, and said.
pub(crate) fn options(path: &Path, engine: Engine) -> OpenOptions {
    OpenOptions {
        image_type: ImageType::Raw,
        disable_io_uring: engine != Engine::IoUring,
        disable_aio: engine == Engine::Sync,
        ..OpenOptions::new(path)
    }
}

pub(crate) fn open_for(options: &OpenOptions, engine: Engine) -> Option<Arc<dyn Disk>> {
    let disk = open(options).unwrap();
    if disk.engine() != engine {
        println!("SKIPPED: {engine:?}: {:?}", disk.passed_over());
        return None;
    }
    Some(disk)
}

/// A folder with a file of this size in it, of a pattern that differs from sector to sector.
fn image(size: usize) -> (TempDir, PathBuf) {
    // Not in memory: O_DIRECT is to be real where it can be.
    let folder =
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target").unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, pattern(size)).unwrap();
    (folder, path)
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn pattern(size: usize) -> Vec<u8> {
    let byte = |at: usize| low_byte(at / 512 * 7 + at % 512);
    (0..size).map(byte).collect()
}

pub(crate) fn ram() -> GuestRam {
    let regions = [RegionSpec {
        start: 0,
        size: 16 << 20,
    }];
    GuestRam::new(&regions, &RamOptions::default()).unwrap()
}

fn vectors(ram: &GuestRam, parts: &[(u64, u32)]) -> IoVectors {
    let mut vectors = IoVectors::new(ram.clone());
    for (address, length) in parts {
        vectors.push(*address, *length).unwrap();
    }
    vectors
}

fn read(offset: u64, vectors: IoVectors) -> Operation {
    Operation::Read { offset, vectors }
}

fn write(offset: u64, vectors: IoVectors) -> Operation {
    Operation::Write { offset, vectors }
}

fn push(lane: &mut dyn Lane, tag: u64, operation: Operation) {
    lane.push(Request { tag, operation });
}

/// Does one operation and waits for it.
pub(crate) fn perform(lane: &mut dyn Lane, operation: Operation) -> io::Result<()> {
    push(lane, 77, operation);
    let mut events = Vec::new();
    loop {
        lane.wait(&mut events).unwrap();
        for event in events.drain(..) {
            if let Event::Done {
                tag: 77, result, ..
            } = event
            {
                return result;
            }
        }
    }
}

pub(crate) fn write_bytes(
    lane: &mut dyn Lane,
    ram: &GuestRam,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    let vectors = vectors(ram, &[(0x1000, u32::try_from(bytes.len()).unwrap())]);
    vectors.copy_from(bytes);
    perform(lane, write(offset, vectors))
}

pub(crate) fn read_bytes(
    lane: &mut dyn Lane,
    ram: &GuestRam,
    offset: u64,
    length: usize,
) -> io::Result<Vec<u8>> {
    let parts = [(0x1000, u32::try_from(length).unwrap())];
    perform(lane, read(offset, vectors(ram, &parts)))?;
    let mut bytes = vec![0; length];
    vectors(ram, &parts).copy_to(&mut bytes);
    Ok(bytes)
}
