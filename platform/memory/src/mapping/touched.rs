//! Which parts of a mapping can have other contents than zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::Mapping;

/// Bits of an entry of `/proc/self/pagemap` (Documentation/admin-guide/mm/pagemap.rst): in memory, swapped out.
const IN_MEMORY: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// It is a page of a file.
const OF_FILE: u64 = 1 << 61;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Entries that are read at a time.
const ENTRIES: usize = 8192;

impl Mapping {
    /// Parts, in bytes from its start and in order, outside of which all bytes are 0. They are whole pages.
    ///
    /// Private memory: pages that this process has, by the kernel's page map, and what the file below it has. Where
    /// the page map cannot be read (Landlock, no `/proc`), all of it. Memory files: what they have. Huge pages: all.
    pub(crate) fn touched(&self) -> io::Result<Vec<Range<u64>>> {
        let whole = || std::iter::once(0..self.size()).collect();
        match (self.file_offset(), self.base_offset()) {
            (Some(_), _) if self.huge_pages => Ok(whole()),
            (Some(file), _) => data(file.file(), file.start(), self.size()),
            (None, base) => {
                let Ok(map) = File::open("/proc/self/pagemap") else {
                    return Ok(whole());
                };
                let mut parts = self.pages(&map, |bits| bits & (IN_MEMORY | SWAPPED) != 0)?;
                if let Some(base) = base {
                    parts.extend(data(base.file(), base.start(), self.size())?);
                    parts.extend(self.covered());
                }
                Ok(merge(parts))
            }
        }
    }

    /// Pages of private memory that somebody has written to: they are no longer those of the file below.
    pub(super) fn written(&self) -> io::Result<Vec<Range<u64>>> {
        let map = File::open("/proc/self/pagemap")?;
        self.pages(&map, |bits| {
            bits & SWAPPED != 0 || bits & (IN_MEMORY | OF_FILE) == IN_MEMORY
        })
    }

    /// Pages whose entries in the kernel's page map are wanted.
    fn pages(&self, map: &File, wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Range<u64>>> {
        let first = self.address().addr() as u64 / self.page_size;
        let count = self.size() / self.page_size;
        let mut buffer = vec![0; ENTRIES * ENTRY];
        let mut parts = Vec::new();
        let mut page = 0;
        while page < count {
            let most = usize::try_from(count - page).map_or(ENTRIES, |left| left.min(ENTRIES));
            let entries = &mut buffer[..most * ENTRY];
            map.read_exact_at(entries, (first + page) * ENTRY as u64)?;
            for (entry, page) in entries.as_chunks::<ENTRY>().0.iter().zip(page..) {
                if wanted(u64::from_ne_bytes(*entry)) {
                    let start = page * self.page_size;
                    push(&mut parts, start..start + self.page_size);
                }
            }
            page += most as u64;
        }
        Ok(parts)
    }
}

/// Parts of the `size` bytes at `start` of a file that are not holes, from `start` on. A file system that does not know
/// holes has none.
pub(crate) fn data(file: &File, start: u64, size: u64) -> io::Result<Vec<Range<u64>>> {
    let end = start.saturating_add(size);
    let mut parts = Vec::new();
    let mut at = start;
    while at < end {
        let Some(from) = seek(file, at, libc::SEEK_DATA)? else {
            break;
        };
        if from >= end {
            break;
        }
        let to = seek(file, from, libc::SEEK_HOLE)?
            .unwrap_or(end)
            .clamp(from.saturating_add(1), end);
        parts.push(from - start..to - start);
        at = to;
    }
    Ok(parts)
}

/// `lseek(2)`; `None` past the last one.
fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: lseek touches no memory.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Appends a part, or lets it grow the last one.
pub(super) fn push(parts: &mut Vec<Range<u64>>, part: Range<u64>) {
    match parts.last_mut() {
        Some(last) if last.end >= part.start => last.end = last.end.max(part.end),
        _ => parts.push(part),
    }
}

/// The union of parts.
pub(crate) fn merge(mut parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    parts.sort_unstable_by_key(|part| part.start);
    let mut merged = Vec::with_capacity(parts.len());
    for part in parts {
        push(&mut merged, part);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_touch_are_one() {
        let parts = vec![8..12, 0..4, 4..6, 9..10, 20..24];
        assert_eq!(merge(parts), [0..6, 8..12, 20..24]);
    }
}
