//! New images.

use std::io;

use super::footer::{DiskType, FOOTER, Footer};
use super::header::{HEADER, Header, MOST_ENTRIES, USUAL_BLOCK, table_length};
use super::{LARGEST, SECTOR};
use crate::mapped::{impossible, narrow};
use crate::storage::Storage;

/// Table entries that are written at a time, in bytes.
const PIECE: usize = 64 << 10;

/// Makes an image of a disk of `size` bytes, all of them zero, of a file that is empty. `block` is the size of blocks
/// of a dynamic image, if it is not to be the usual one.
///
/// # Errors
/// If there cannot be such an image, or it cannot be written.
pub(crate) fn create(
    storage: &dyn Storage,
    disk_type: DiskType,
    size: u64,
    block: Option<u32>,
) -> io::Result<()> {
    if size == 0 || !size.is_multiple_of(SECTOR) || size > LARGEST {
        return Err(impossible(format!(
            "a VHD has a multiple of 512 bytes up to {LARGEST}, not {size}"
        )));
    }
    let footer = Footer::new(disk_type, size)?;
    match disk_type {
        DiskType::Fixed => {
            storage.set_length(size + FOOTER as u64)?;
            storage.write(size, footer.bytes())?;
        }
        DiskType::Differencing => {
            return Err(impossible("a VHD with a parent cannot be made here"));
        }
        DiskType::Dynamic => {
            let block = block.unwrap_or(USUAL_BLOCK);
            let entries = size.div_ceil(block.max(1).into());
            let table = (FOOTER + HEADER) as u64;
            let header = Header::new(table, u32::try_from(entries).unwrap_or(u32::MAX), block);
            Header::parse(header.bytes()).map_err(impossible)?;
            if entries > MOST_ENTRIES {
                return Err(impossible(format!(
                    "{size} bytes are too many for blocks of {block} bytes"
                )));
            }
            let footer_at = table + table_length(entries);
            storage.set_length(footer_at + FOOTER as u64)?;
            storage.write(0, footer.bytes())?;
            storage.write(FOOTER as u64, header.bytes())?;
            let unused = vec![0xff; PIECE];
            let mut at = table;
            while at < footer_at {
                let count = narrow(footer_at - at).min(PIECE);
                storage.write(at, &unused[..count])?;
                at += count as u64;
            }
            storage.write(footer_at, footer.bytes())?;
        }
    }
    storage.flush()
}
