//! All of RAM in a file, and back.
//!
//! The file has the regions one after the other, lowest address first, byte for byte. Empty pages are holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

use crate::mapping::data;
use crate::{Error, GuestRam, Mapping};

/// What is looked at for zeros at a time: the smallest page of any host.
const PAGE: usize = 4096;
/// The most that is written by one system call.
const MOST: usize = 4 << 20;

/// Where a range of RAM is in a file of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeInFile {
    /// First guest address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Offset in the file.
    pub offset: u64,
}

/// What was written of RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes that it takes in the file: the size of RAM.
    pub size: u64,
    /// Bytes of it that are not holes.
    pub data: u64,
}

impl GuestRam {
    /// Where each region is in a file of all of RAM, lowest address first.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInFile> {
        let mut offset = 0;
        self.regions()
            .map(|region| {
                let range = RangeInFile {
                    start: region.start(),
                    size: region.size(),
                    offset,
                };
                offset += region.size();
                range
            })
            .collect()
    }

    /// Writes all of RAM to an empty file, which has the size of RAM afterwards. Nobody may write to RAM meanwhile, or
    /// the file has some old and some new bytes.
    ///
    /// # Errors
    /// [`Error::Contents`] if the file cannot be written, as when its file system is full.
    pub fn write_contents(&self, file: &File) -> Result<Written, Error> {
        self.write_contents_at(file, 0)
    }

    /// As [`GuestRam::write_contents`], to a part of the file that is empty yet: from `start` on to the file's end.
    ///
    /// # Errors
    /// As there.
    pub fn write_contents_at(&self, file: &File, start: u64) -> Result<Written, Error> {
        let failed = |source| Error::Contents {
            act: "write",
            source,
        };
        let size = self.size();
        let end = start.checked_add(size);
        let end = end.ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EOVERFLOW)))?;
        file.set_len(end).map_err(failed)?;
        let mut data = 0;
        for (region, range) in self.regions().zip(self.ranges()) {
            let mapping = region.mapping();
            for part in mapping.touched().map_err(failed)? {
                let base = start + range.offset;
                data += write_part(mapping, part, file, base).map_err(failed)?;
            }
        }
        Ok(Written { size, data })
    }

    /// Guest addresses of pages of 4 KiB whose first bytes are `wanted`, lowest first, `most` at the most. Pages that
    /// nobody has touched are not looked at.
    ///
    /// # Errors
    /// [`Error::Contents`] if the host does not say which pages these are.
    pub fn pages_with<const N: usize>(
        &self,
        wanted: impl Fn(&[u8; N]) -> bool,
        most: usize,
    ) -> Result<Vec<u64>, Error> {
        let failed = |source| Error::Contents {
            act: "look through",
            source,
        };
        let mut found = Vec::new();
        let mut bytes = [0; N];
        for region in self.regions() {
            for part in region.mapping().touched().map_err(failed)? {
                let pages = part.start.next_multiple_of(PAGE as u64)..part.end;
                for offset in pages.step_by(PAGE) {
                    if found.len() == most {
                        return Ok(found);
                    }
                    let address = region.start() + offset;
                    if self.read(address, &mut bytes).is_ok() && wanted(&bytes) {
                        found.push(address);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Fills RAM that is empty yet with what [`GuestRam::write_contents`] wrote: copies what is not a hole.
    ///
    /// # Errors
    /// [`Error::ContentsSize`] if the file has another size than RAM; [`Error::Contents`], [`Error::File`] or
    /// [`Error::FileEnd`] if it cannot be read.
    pub fn read_contents(&self, file: &File) -> Result<(), Error> {
        check_size(file, self.size())?;
        for range in self.ranges() {
            let parts = data(file, range.offset, range.size);
            let parts = parts.map_err(|source| Error::Contents {
                act: "look through",
                source,
            })?;
            for Range { start, end } in parts {
                let offset = range.offset + start;
                self.read_from_file(file, offset, range.start + start, end - start)?;
            }
        }
        Ok(())
    }
}

/// Checks that a file has the size of RAM.
pub(crate) fn check_size(file: &File, wanted: u64) -> Result<(), Error> {
    let about = file.metadata().map_err(|source| Error::Contents {
        act: "look through",
        source,
    })?;
    if about.len() == wanted {
        return Ok(());
    }
    Err(Error::ContentsSize {
        found: about.len(),
        wanted,
    })
}

/// Writes all of a part of a mapping to this place of a file.
pub(crate) fn write_whole(
    mapping: &Mapping,
    part: Range<u64>,
    file: &File,
    at: u64,
) -> io::Result<()> {
    let beyond = || io::Error::from_raw_os_error(libc::EOVERFLOW);
    let length = usize::try_from(part.end - part.start).map_err(|_| beyond())?;
    let whole = mapping.slice(part.start, length).ok_or_else(beyond)?;
    write_at(file, at, &whole)
}

/// Writes the pages of a part of a mapping that are not empty; how many bytes that were. `base` is where the mapping
/// begins in the file.
fn write_part(mapping: &Mapping, part: Range<u64>, file: &File, base: u64) -> io::Result<u64> {
    let beyond = || io::Error::from_raw_os_error(libc::EOVERFLOW);
    let length = usize::try_from(part.end - part.start).map_err(|_| beyond())?;
    let whole = mapping.slice(part.start, length).ok_or_else(beyond)?;
    let mut written = 0;
    let mut at = 0;
    while at < length {
        let mut end = at;
        while end < length && end - at < MOST && !is_empty(&page(&whole, end)?) {
            end = (end + PAGE).min(length);
        }
        if end == at {
            at = (at + PAGE).min(length);
            continue;
        }
        let run = whole.subslice(at, end - at).map_err(io::Error::other)?;
        write_at(file, base + part.start + at as u64, &run)?;
        written += (end - at) as u64;
        at = end;
    }
    Ok(written)
}

fn page<'a>(whole: &VolatileSlice<'a>, at: usize) -> io::Result<VolatileSlice<'a>> {
    let size = PAGE.min(whole.len() - at);
    whole.subslice(at, size).map_err(io::Error::other)
}

/// Whether all bytes are 0. It stops at the first that is not.
fn is_empty(slice: &VolatileSlice<'_>) -> bool {
    let guard = slice.ptr_guard();
    let first = guard.as_ptr();
    let words = slice.len() / size_of::<u64>();
    if !first.cast::<u64>().is_aligned() || !slice.len().is_multiple_of(size_of::<u64>()) {
        return false;
    }
    (0..words).all(|index| {
        // SAFETY: the word is within the slice, whose bytes are mapped as long as it lives.
        let word = unsafe { first.cast::<u64>().add(index) };
        // SAFETY: as above; it is aligned, and read as a whole whatever others write.
        unsafe { word.read_volatile() == 0 }
    })
}

/// `pwrite(2)` of all of a slice.
fn write_at(file: &File, position: u64, slice: &VolatileSlice<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < slice.len() {
        let rest = slice.offset(done).map_err(io::Error::other)?;
        let at = i64::try_from(position + done as u64)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let guard = rest.ptr_guard();
        // SAFETY: the slice's bytes are mapped as long as it lives; the kernel only reads them.
        let count =
            unsafe { libc::pwrite(file.as_raw_fd(), guard.as_ptr().cast(), rest.len(), at) };
        match usize::try_from(count) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
