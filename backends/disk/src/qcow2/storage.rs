//! Where an image's bytes are, for reads that a thread waits for: tables, compressed clusters, backing files.

use std::io;
use std::os::unix::fs::FileExt;

use super::narrow;
use crate::image::{Alignment, Image};

/// Bytes that can be read at any offset.
pub(crate) trait Storage: Send + Sync {
    /// Number of bytes.
    fn length(&self) -> u64;
    /// Fills `bytes` from `offset` on as far as there are any, and gives how many there were.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
}

impl Storage for Image {
    fn length(&self) -> u64 {
        self.file_length()
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if self.alignment == Alignment::NONE {
            return read_in_steps(self, offset, bytes, 1);
        }
        let block = self.alignment.memory.max(self.alignment.offset);
        let (block, wide) = (block as usize, u64::from(block));
        let skip = narrow(offset % wide);
        let length = (skip + bytes.len()).next_multiple_of(block);
        let mut buffer = vec![0; length + block];
        let first = buffer.as_ptr().align_offset(block).min(block);
        let aligned = &mut buffer[first..first + length];
        let count = read_in_steps(self, offset - offset % wide, aligned, block)?;
        let count = count.saturating_sub(skip).min(bytes.len());
        bytes[..count].copy_from_slice(&aligned[skip..skip + count]);
        Ok(count)
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
