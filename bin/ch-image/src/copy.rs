//! Copies the bytes of one disk to another.

use std::io;
use std::path::Path;

use disk::{Disk, Event, Lane, Operation, Request};
use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};

use crate::error::{Error, Result};

/// Bytes of a request, and how many of them are under way at a time.
const PIECE: u64 = 1 << 20;
const DEPTH: u16 = 8;
/// Bytes of memory for what is read of the source. As many follow for the target.
const HALF: u64 = PIECE * DEPTH as u64;
/// Zeros are looked for in units of this size: they are not written, as a new image has them.
const UNIT: usize = 64 << 10;

/// Copies all of `source` to `target` and makes it durable; `progress` gets the bytes that are done and all of them.
/// A target has only zeros, unless it `has_bytes` of its own: then what is the same in both is not written. Gives the number
/// of bytes that were written.
///
/// # Errors
/// If one of both cannot be read or written.
pub(crate) fn copy(
    (source, from): (&dyn Disk, &Path),
    (target, to): (&dyn Disk, &Path),
    has_bytes: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64> {
    let regions = [RegionSpec {
        start: 0,
        size: 2 * HALF,
    }];
    let ram = GuestRam::new(&regions, &RamOptions::default()).map_err(Error::Memory)?;
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    };
    let mut reader = source.lane(DEPTH).map_err(failed("read", from))?;
    // Each piece can be written in as many parts as it has units.
    let mut writer = target.lane(DEPTH).map_err(failed("write", to))?;
    let all = source.capacity();
    let (mut done, mut written) = (0, 0);
    let (mut bytes, mut before) = (vec![0; UNIT], vec![0; UNIT]);
    while done < all {
        progress(done, all);
        let end = all.min(done + HALF);
        let reads = |from| {
            let ram = &ram;
            pieces(done, end, PIECE).map(move |(offset, address, length)| {
                let vectors = vectors(ram, from + address, length)?;
                Ok(Operation::Read { offset, vectors })
            })
        };
        perform(&mut *reader, reads(0)).map_err(failed("read", from))?;
        if has_bytes {
            perform(&mut *writer, reads(HALF)).map_err(failed("read", to))?;
        }
        let units = pieces(done, end, UNIT as u64);
        let mut writes = Vec::new();
        for (offset, address, length) in units {
            let vectors = vectors(&ram, address, length).map_err(failed("write", to))?;
            let count = vectors.copy_to(&mut bytes);
            if has_bytes {
                let there = self::vectors(&ram, HALF + address, length);
                there.map_err(failed("read", to))?.copy_to(&mut before);
            }
            if bytes[..count] == before[..count] {
                continue;
            }
            written += length;
            writes.push(Ok(match bytes[..count].iter().all(|byte| *byte == 0) {
                true => Operation::WriteZeroes {
                    offset,
                    length,
                    unmap: true,
                },
                false => Operation::Write { offset, vectors },
            }));
        }
        perform(&mut *writer, writes.into_iter()).map_err(failed("write", to))?;
        done = end;
    }
    perform(&mut *writer, [Ok(Operation::Flush)].into_iter()).map_err(failed("flush", to))?;
    progress(all, all);
    Ok(written)
}

/// The bytes from `start` to `end` in pieces: offset on the disk, address in memory, length.
fn pieces(start: u64, end: u64, piece: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let length = piece.min(end - at);
        let result = (at, at - start, length);
        at += length;
        (length > 0).then_some(result)
    })
}

fn vectors(ram: &GuestRam, address: u64, length: u64) -> io::Result<IoVectors> {
    let mut vectors = IoVectors::new(ram.clone());
    // At most a piece.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    vectors
        .push(address, length)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(vectors)
}

/// Does all of it, as much at a time as the lane takes.
fn perform(
    lane: &mut dyn Lane,
    operations: impl Iterator<Item = io::Result<Operation>>,
) -> io::Result<()> {
    let mut events = Vec::new();
    let mut result = Ok(());
    for (tag, operation) in (0..).zip(operations) {
        lane.push(Request {
            tag,
            operation: operation?,
        });
        if lane.in_flight() >= usize::from(DEPTH) {
            lane.wait(&mut events)?;
            result = result.and(outcome(&mut events));
        }
    }
    while lane.in_flight() > 0 {
        lane.wait(&mut events)?;
        result = result.and(outcome(&mut events));
    }
    result
}

/// The first failure among what is done.
fn outcome(events: &mut Vec<Event>) -> io::Result<()> {
    let mut result = Ok(());
    for event in events.drain(..) {
        if let Event::Done { result: one, .. } = event {
            result = result.and(one);
        }
    }
    result
}

#[test]
fn pieces_are_all_of_it_and_nothing_else() {
    let all: Vec<_> = pieces(10, 25, 10).collect();
    assert_eq!(all, [(10, 0, 10), (20, 10, 5)]);
    assert_eq!(pieces(10, 10, 10).count(), 0);
}
