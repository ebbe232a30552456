//! Images made by an independent tool, and broken ones.

mod beside;
mod hostile;
mod images;
mod model;
mod refusals;
mod writing;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};
use tempfile::TempDir;

use crate::{Disk, Error, Event, ImageType, OpenOptions, Operation, Request, open};

fn folder() -> TempDir {
    let target = env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target";
    tempfile::tempdir_in(target).unwrap()
}

/// Runs a tool of QEMU; no tests of images where there is none.
fn tool(folder: &Path, line: &str) -> bool {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    match command.args(words).current_dir(folder).output() {
        Ok(output) => {
            assert!(output.status.success(), "{line}: {output:?}");
            true
        }
        Err(error) => {
            println!("SKIPPED: {line}: {error}");
            false
        }
    }
}

fn options(path: &Path) -> OpenOptions {
    OpenOptions {
        read_only: true,
        image_type: ImageType::Qcow2,
        backing_files: true,
        ..OpenOptions::new(path)
    }
}

fn message(options: &OpenOptions) -> String {
    open(options).map(|_| ()).unwrap_err().to_string()
}

/// All bytes of the disk, in pieces of `piece` bytes, several under way at a time.
fn contents(disk: &Arc<dyn Disk>, piece: usize) -> Vec<u8> {
    let size = 16 << 20;
    let regions = [RegionSpec { start: 0, size }];
    let ram = GuestRam::new(&regions, &RamOptions::default()).unwrap();
    let capacity = usize::try_from(disk.capacity()).unwrap();
    let mut lane = disk.lane(4).unwrap();
    let mut bytes = vec![0xee; capacity];
    for round in (0..capacity).step_by(4 * piece) {
        let starts = (round..capacity.min(round + 4 * piece)).step_by(piece);
        for (slot, start) in starts.enumerate() {
            let mut vectors = IoVectors::new(ram.clone());
            let length = piece.min(capacity - start);
            let address = (slot * (piece + 512)) as u64;
            vectors.push(address, length.try_into().unwrap()).unwrap();
            let operation = Operation::Read {
                offset: start as u64,
                vectors,
            };
            let tag = start as u64;
            lane.push(Request { tag, operation });
        }
        let mut events = Vec::new();
        while lane.in_flight() > 0 {
            lane.wait(&mut events).unwrap();
        }
        for event in events {
            let Event::Done {
                tag,
                result,
                vectors: Some(vectors),
            } = event
            else {
                panic!("{event:?}");
            };
            result.unwrap();
            vectors.copy_to(&mut bytes[usize::try_from(tag).unwrap()..]);
        }
    }
    bytes
}

fn refused(path: &Path) -> bool {
    matches!(open(&options(path)), Err(Error::Qcow2 { .. }))
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
