//! The bytes below a format: what its tables are in, and what a thread reads or writes and waits for.
//!
//! Formats are written against [`Storage`] only. [`Image`] is the real one; tests have one that records each write, so
//! that the power can be cut between any two of them.

use std::io;
use std::os::unix::fs::FileExt;

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};

use crate::image::{Alignment, Image};
use crate::sys;

#[cfg(test)]
pub(crate) mod simulator;

/// Bytes that are written at a time where zeros cannot be had for less.
const ZEROS: usize = 64 << 10;

/// Bytes that can be read and written at any offset.
///
/// What was written can be read at once. It survives a power cut only after [`Storage::flush`]; without it any part of
/// it may be lost, in any order. All offsets and lengths are in bytes.
pub(crate) trait Storage: Send + Sync {
    /// Number of bytes.
    fn length(&self) -> u64;

    /// Fills `bytes` from `offset` on as far as there are any, and gives how many there were.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// With `O_DIRECT` whole blocks are read, changed and written back: nobody else may write to the same blocks.
    ///
    /// # Errors
    /// Also if it goes beyond [`Storage::length`]: that is changed first.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written before, and the length.
    fn flush(&self) -> io::Result<()>;

    /// Changes the length. Bytes that are new read as zero.
    ///
    /// # Errors
    /// If the storage cannot have this length: a block device has the one it has.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Gives space back; the bytes read as zero afterwards. `false` if that is not possible here, and then nothing was
    /// changed.
    fn punch(&self, offset: u64, length: u64) -> io::Result<bool>;

    /// Makes bytes read as zero, whether that gives space back or takes some.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.punch(offset, length)? {
            return Ok(());
        }
        let zeros = [0; ZEROS];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(ZEROS as u64);
            // Not more than there are.
            let count = usize::try_from(count).unwrap_or(ZEROS);
            self.write(offset + done, &zeros[..count])?;
            done += count as u64;
        }
        Ok(())
    }
}

impl Storage for Image {
    fn length(&self) -> u64 {
        self.file_length()
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if self.alignment == Alignment::NONE {
            return read_in_steps(self, offset, bytes, 1);
        }
        let mut around = Around::new(self, offset, bytes.len());
        let (start, block) = (around.start, around.block);
        let count = read_in_steps(self, start, around.bytes(), block)?;
        let count = count.saturating_sub(around.skip).min(bytes.len());
        let skip = around.skip;
        bytes[..count].copy_from_slice(&around.bytes()[skip..skip + count]);
        Ok(count)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.file_length()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a write at {offset:#x} goes beyond the end of the file"),
            ));
        }
        if self.alignment == Alignment::NONE {
            return self.file().write_all_at(bytes, offset);
        }
        let mut around = Around::new(self, offset, bytes.len());
        let (start, block, skip) = (around.start, around.block, around.skip);
        let whole = around.bytes().len();
        if skip != 0 || whole != bytes.len() {
            // The first and the last block. What the file does not have behind its end stays zero.
            read_in_steps(self, start, &mut around.bytes()[..block], block)?;
            let last = whole - block;
            let at = start + last as u64;
            read_in_steps(self, at, &mut around.bytes()[last..], block)?;
        }
        around.bytes()[skip..skip + bytes.len()].copy_from_slice(bytes);
        self.file().write_all_at(around.bytes(), start)?;
        self.trim(start + whole as u64)
    }

    fn flush(&self) -> io::Result<()> {
        sys::sync(self.fd())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        Image::set_length(self, length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        if length == 0 {
            return Ok(true);
        }
        if !self.can_punch {
            return Ok(false);
        }
        let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        sys::allocate(self.fd(), mode, offset, length)?;
        Ok(true)
    }
}

/// Memory for the whole blocks around some bytes, aligned as `O_DIRECT` asks.
struct Around {
    memory: Vec<u8>,
    first: usize,
    length: usize,
    /// Where in the file the first block begins.
    start: u64,
    block: usize,
    /// Bytes before those that are meant.
    skip: usize,
}

impl Around {
    fn new(image: &Image, offset: u64, length: usize) -> Self {
        let block = image.alignment.memory.max(image.alignment.offset);
        let wide = u64::from(block);
        let block = block as usize;
        // Less than a block, which is at most 64 KiB.
        let skip = usize::try_from(offset % wide).unwrap_or_default();
        let length = (skip + length).next_multiple_of(block);
        let memory = vec![0; length + block];
        let first = memory.as_ptr().align_offset(block).min(block);
        Self {
            memory,
            first,
            length,
            start: offset - offset % wide,
            block,
            skip,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.first..self.first + self.length]
    }
}

/// A count that is no multiple of `block` is the last before the end of the file.
fn read_in_steps(image: &Image, offset: u64, bytes: &mut [u8], block: usize) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match image
            .file()
            .read_at(&mut bytes[done..], offset + done as u64)
        {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                if !count.is_multiple_of(block) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageType, OpenOptions};

    #[test]
    fn a_file_keeps_what_is_written_at_any_offset() {
        let target = env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target";
        let folder = tempfile::tempdir_in(target).unwrap();
        let path = folder.path().join("bytes");
        for direct in [false, true] {
            std::fs::write(&path, [7; 3000]).unwrap();
            let image = Image::open(&OpenOptions {
                direct,
                image_type: ImageType::Raw,
                ..OpenOptions::new(&path)
            })
            .unwrap();
            let storage: &dyn Storage = &image;
            assert!(storage.write(2999, &[1, 2]).is_err());
            storage.write(2990, &[1; 10]).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 3000);
            storage.set_length(20_000).unwrap();
            storage.write(4095, &[2; 4098]).unwrap();
            storage.zero(4100, 4000).unwrap();
            let mut expected = vec![0; 20_000];
            expected[..2990].fill(7);
            expected[2990..3000].fill(1);
            expected[4095..4100].fill(2);
            expected[8100..8193].fill(2);
            let mut bytes = vec![9; 20_001];
            assert_eq!(storage.read(0, &mut bytes).unwrap(), 20_000);
            assert!(bytes[..20_000] == expected);
            assert_eq!(storage.read(8190, &mut bytes[..5]).unwrap(), 5);
            assert_eq!(bytes[..5], [2, 2, 2, 0, 0]);
            storage.flush().unwrap();
            storage.set_length(5000).unwrap();
            assert!(std::fs::read(&path).unwrap() == expected[..5000]);
        }
    }
}
