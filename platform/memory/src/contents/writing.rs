//! Writes RAM by several threads at once, a block at a time, with its checksums.
//!
//! A block is copied once, so that what is looked at for zeros, summed up and written is the same, whatever others do.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::blocks::BLOCK;
use crate::{Error, GuestRam, Mapping, Written};

/// What is looked at for zeros at a time: the smallest page of any host.
pub(super) const PAGE: usize = 4096;
/// Blocks that a thread takes at a time.
const BATCH: usize = 16;
/// Blocks that one thread is worth starting for: 16 MiB.
const PER_THREAD: usize = 256;
/// More threads than these wait for memory.
const MOST_THREADS: usize = 8;

/// Does `work` for the numbers below `count`, on as many threads as it is worth. Each has a buffer and a result.
pub(crate) fn share<R: Default + Send>(
    count: usize,
    work: impl Fn(usize, &mut Vec<u8>, &mut R) -> Result<(), Error> + Sync,
) -> Result<Vec<R>, Error> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        let (mut buffer, mut result) = (Vec::new(), R::default());
        while !stop.load(Ordering::Relaxed) {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= count {
                break;
            }
            for number in first..(first + BATCH).min(count) {
                work(number, &mut buffer, &mut result)
                    .inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            }
        }
        Ok(result)
    };
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let others = count
        .div_ceil(PER_THREAD)
        .min(cpus)
        .min(MOST_THREADS)
        .saturating_sub(1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..others)
            .map_while(|number| {
                let thread = thread::Builder::new().name(format!("contents_{number}"));
                // Without it the others do its work.
                thread.spawn_scoped(scope, run).ok()
            })
            .collect();
        let mut results = vec![run()];
        for thread in threads {
            // A panic on the thread is a bug of ours: let it be one here too.
            results.push(
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        results.into_iter().collect()
    })
}

/// Bytes that were written, and checksums.
type Done = (u64, Vec<(u32, u32)>);

/// Writes parts of RAM, which ascend, to a file from `start` on; all other bytes are 0.
pub(crate) fn write(
    ram: &GuestRam,
    file: &File,
    start: u64,
    parts: &[Range<u64>],
    summed: bool,
) -> Result<Written, Error> {
    let failed = |source| Error::Contents {
        act: "write",
        source,
    };
    let size = ram.size();
    let end = start.checked_add(size);
    let end = end.ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EOVERFLOW)))?;
    file.set_len(end).map_err(failed)?;
    let mut blocks: Vec<u64> = Vec::new();
    for part in parts {
        let first = blocks.last().map_or(0, |last| last + 1);
        blocks.extend((part.start / BLOCK).max(first)..part.end.div_ceil(BLOCK));
    }
    let places: Vec<(Arc<Mapping>, u64)> = ram
        .regions()
        .zip(ram.ranges())
        .map(|(region, range)| (Arc::clone(region.mapping()), range.offset))
        .collect();
    let one = |at: usize, buffer: &mut Vec<u8>, done: &mut Done| {
        let span = blocks[at] * BLOCK..((blocks[at] + 1) * BLOCK).min(size);
        buffer.clear();
        buffer.resize(usize::try_from(span.end - span.start).unwrap_or(0), 0);
        gather(&places, parts, &span, buffer);
        write_block(
            file,
            start,
            blocks[at],
            buffer,
            summed.then_some(&mut done.1),
        )
        .map(|written| done.0 += written)
        .map_err(failed)
    };
    let mut written = Written {
        size,
        ..Written::default()
    };
    for (data, sums) in share(blocks.len(), one)? {
        written.data += data;
        written.sums.extend(sums);
    }
    written.sums.sort_unstable();
    Ok(written)
}

/// Copies those bytes of a span that are in the parts.
fn gather(
    places: &[(Arc<Mapping>, u64)],
    parts: &[Range<u64>],
    span: &Range<u64>,
    buffer: &mut [u8],
) {
    let first = parts.partition_point(|part| part.end <= span.start);
    let inside = parts[first..]
        .iter()
        .take_while(|part| part.start < span.end);
    for part in inside {
        for (mapping, offset) in places {
            let start = part.start.max(span.start).max(*offset);
            let end = part.end.min(span.end).min(offset + mapping.size());
            if start >= end {
                continue;
            }
            let at = |position: u64| usize::try_from(position - span.start).unwrap_or(0);
            if let (Some(target), Some(slice)) = (
                buffer.get_mut(at(start)..at(end)),
                mapping.slice(start - offset, at(end) - at(start)),
            ) {
                slice.copy_to(target);
            }
        }
    }
}

/// Writes those pages of a block that are not empty; how many bytes that were.
pub(crate) fn write_block(
    file: &File,
    start: u64,
    block: u64,
    bytes: &[u8],
    sums: Option<&mut Vec<(u32, u32)>>,
) -> io::Result<u64> {
    let mut written = 0;
    for run in filled_runs(bytes) {
        let at = start + block * BLOCK + run.start as u64;
        written += run.len() as u64;
        file.write_all_at(&bytes[run], at)?;
    }
    if let Some(sums) = sums.filter(|_| written > 0) {
        let number = u32::try_from(block).map_err(io::Error::other)?;
        sums.push((number, crc32fast::hash(bytes)));
    }
    Ok(written)
}

/// Runs of pages that are not empty, in bytes from the start.
pub(crate) fn filled_runs(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    let is_empty = |page: &[u8]| page == &ZEROS[..page.len()];
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = |at: usize| bytes.get(at..).unwrap_or_default().chunks(PAGE);
        at += rest(at)
            .take_while(|page| is_empty(page))
            .map(<[u8]>::len)
            .sum::<usize>();
        let start = at;
        at += rest(at)
            .take_while(|page| !is_empty(page))
            .map(<[u8]>::len)
            .sum::<usize>();
        (at > start).then_some(start..at)
    })
}
