//! New images.

use std::io;

use super::guid::Guid;
use super::header::Header;
use super::image::present;
use super::metadata::Metadata;
use super::region::{PLACES, Regions};
use super::{LARGEST, MIB};
use crate::mapped::{impossible, narrow, put};
use crate::storage::Storage;

/// What a new image is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// All blocks are in the file from the begin on.
    pub(crate) fixed: bool,
    /// Bytes of a block.
    pub(crate) block: u32,
    /// Bytes of a sector, as the guest is to see it.
    pub(crate) sector: u32,
}

impl Parameters {
    /// What everybody has: blocks of 32 MiB, sectors of 512 bytes.
    pub(crate) fn usual(size: u64, fixed: bool) -> Self {
        Self {
            size,
            fixed,
            block: 32 << 20,
            sector: 512,
        }
    }
}

const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;
/// Entries that are written at a time, in bytes.
const PIECE: usize = 64 << 10;

/// Makes an image of a disk whose bytes are all zero, of a file that is empty.
///
/// # Errors
/// If there cannot be such an image, or it cannot be written.
pub(crate) fn create(storage: &dyn Storage, parameters: Parameters) -> io::Result<()> {
    let metadata = Metadata {
        block: parameters.block.into(),
        leave_allocated: parameters.fixed,
        size: parameters.size,
        size_at: 0,
        logical_sector: parameters.sector,
        physical_sector: 4096,
        parent: None,
    };
    if parameters.size == 0 || parameters.size > LARGEST {
        return Err(impossible(format!(
            "a VHDX has 1 to {LARGEST} bytes, not {}",
            parameters.size
        )));
    }
    metadata.check().map_err(impossible)?;
    let table = metadata.entries(metadata.size) * 8;
    let data = BAT + table.next_multiple_of(MIB);
    let blocks = metadata.size.div_ceil(metadata.block);
    let end = match parameters.fixed {
        true => data + blocks * metadata.block,
        false => data,
    };
    storage.set_length(end)?;
    let mut identifier = vec![0; 4096];
    put(&mut identifier, 0, b"vhdxfile");
    for (at, unit) in "ch-image".encode_utf16().enumerate() {
        put(&mut identifier, 8 + 2 * at, &unit.to_le_bytes());
    }
    storage.write(0, &identifier)?;
    let regions = Regions::new(BAT..data, METADATA..METADATA + MIB);
    for place in PLACES {
        storage.write(place, regions.bytes())?;
    }
    storage.write(METADATA, &metadata.bytes(Guid::random()?))?;
    if parameters.fixed {
        write_table(storage, &metadata, table, data)?;
    }
    // The log's length is a number of 32 bits.
    let mut header = Header::new(LOG, 1 << 20)?;
    header.write(storage)
}

/// All blocks are there, one behind the other.
fn write_table(
    storage: &dyn Storage,
    metadata: &Metadata,
    table: u64,
    data: u64,
) -> io::Result<()> {
    let chunk = metadata.chunk_ratio() + 1;
    let mut piece = vec![0; PIECE];
    let (mut index, mut number) = (0, 0);
    while index < table / 8 {
        let count = narrow(table / 8 - index).min(PIECE / 8);
        for at in 0..count {
            // After each chunk there is an entry for the bitmap that only differencing images have.
            let entry = match (index + at as u64) % chunk == chunk - 1 {
                true => 0,
                false => {
                    number += 1;
                    present(data + (number - 1) * metadata.block)
                }
            };
            put(&mut piece, 8 * at, &entry.to_le_bytes());
        }
        storage.write(BAT + 8 * index, &piece[..8 * count])?;
        index += count as u64;
    }
    Ok(())
}
