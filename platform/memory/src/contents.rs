//! All of RAM in a file, and back.
//!
//! The file has the regions one after the other, lowest address first, byte for byte. Empty pages are holes.

use std::fs::File;
use std::ops::Range;

use crate::{Blocks, Error, GuestRam};

mod writing;

pub(crate) use writing::{filled_runs, share, write, write_block};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes that it takes in the file: the size of RAM.
    pub size: u64,
    /// Bytes of it that are not holes.
    pub data: u64,
    /// Checksums (CRC-32) of blocks of 64 KiB that are not empty, by the block's number in the file; ascending.
    pub sums: Vec<(u32, u32)>,
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
        writing::write(self, file, 0, &self.touched()?, true)
    }

    /// As [`GuestRam::write_contents`], to a part of the file that is empty yet: from `start` on to the file's end, and
    /// without checksums.
    ///
    /// # Errors
    /// As there.
    pub fn write_contents_at(&self, file: &File, start: u64) -> Result<Written, Error> {
        writing::write(self, file, start, &self.touched()?, false)
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
                let pages = part.start.next_multiple_of(writing::PAGE as u64)..part.end;
                for offset in pages.step_by(writing::PAGE) {
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

    /// Parts of the file of all of RAM outside of which all bytes are 0.
    fn touched(&self) -> Result<Vec<Range<u64>>, Error> {
        let mut all = Vec::new();
        for (region, range) in self.regions().zip(self.ranges()) {
            let parts = region.mapping().touched();
            let parts = parts.map_err(|source| Error::Contents {
                act: "write",
                source,
            })?;
            let shift = range.offset;
            all.extend(
                parts
                    .into_iter()
                    .map(|part| part.start + shift..part.end + shift),
            );
        }
        Ok(all)
    }

    /// Fills RAM that is empty yet with what is in files, and checks what has checksums.
    ///
    /// # Errors
    /// [`Error::ContentsSize`] if the files have another size than RAM; [`Error::SavedBlock`] or [`Error::SavedSum`] if
    /// one cannot be read, or is not what was written.
    pub fn read_blocks(&self, blocks: &Blocks) -> Result<(), Error> {
        if blocks.size() != self.size() {
            return Err(Error::ContentsSize {
                found: blocks.size(),
                wanted: self.size(),
            });
        }
        let filled: Vec<u64> = blocks.filled().collect();
        let ranges = self.ranges();
        let read = |at: usize, buffer: &mut Vec<u8>, _: &mut ()| {
            let block = filled[at];
            blocks.read(block, buffer)?;
            let span = blocks.range(block);
            for range in &ranges {
                let start = span.start.max(range.offset);
                let end = span.end.min(range.offset + range.size);
                let inside = |at: u64| usize::try_from(at.saturating_sub(span.start)).unwrap_or(0);
                if let Some(bytes) = buffer
                    .get(inside(start)..inside(end))
                    .filter(|_| start < end)
                {
                    let address = range.start + (start - range.offset);
                    // Empty pages take no memory.
                    for run in writing::filled_runs(bytes) {
                        self.write(address + run.start as u64, &bytes[run])?;
                    }
                }
            }
            Ok(())
        };
        writing::share(filled.len(), read).map(drop)
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

#[cfg(test)]
mod tests;
