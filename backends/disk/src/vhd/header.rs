//! The header of dynamic images (specification, "Dynamic Disk Header Format").

use super::SECTOR;
use super::footer::{NOWHERE, checksum};
use crate::mapped::{be32, be64, put};

/// Bytes of a header.
pub(crate) const HEADER: usize = 1024;
const COOKIE: &[u8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;
/// Where the checksum is.
const CHECKSUM: usize = 36;
/// Size of a block that everybody uses.
pub(crate) const USUAL_BLOCK: u32 = 2 << 20;
/// Smaller blocks would have more bitmap than is good, and tables without measure.
const SMALLEST_BLOCK: u32 = 4096;
/// The most entries of a table that are used: for 2040 GiB in blocks of 512 KiB.
pub(crate) const MOST_ENTRIES: u64 = 4 << 20;

/// A header that is in order. Fields that have no meaning here are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    bytes: [u8; HEADER],
}

impl Header {
    pub(crate) fn new(table: u64, entries: u32, block: u32) -> Self {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 0, COOKIE);
        put(&mut bytes, 8, &NOWHERE.to_be_bytes());
        put(&mut bytes, 24, &VERSION.to_be_bytes());
        put(&mut bytes, 32, &block.to_be_bytes());
        let mut header = Self { bytes };
        header.set_table(table, entries);
        header
    }

    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, String> {
        if !bytes.starts_with(COOKIE) {
            return Err("it has no header of a dynamic image where its footer says".into());
        }
        if checksum(bytes, CHECKSUM) != be32(bytes, CHECKSUM) {
            return Err("the checksum of its header is wrong".into());
        }
        let header = Self { bytes: *bytes };
        let version = be32(bytes, 24);
        if version >> 16 != VERSION >> 16 {
            return Err(format!(
                "the version {version:#x} of its header is not known"
            ));
        }
        let block = be32(bytes, 32);
        if !block.is_power_of_two() || block < SMALLEST_BLOCK {
            return Err(format!(
                "its blocks have {block} bytes, which is no power of two from {SMALLEST_BLOCK} on"
            ));
        }
        if !header.table().is_multiple_of(SECTOR) {
            return Err(format!(
                "its table at {:#x} does not begin with a sector",
                header.table()
            ));
        }
        Ok(header)
    }

    /// Offset of the table.
    pub(crate) fn table(&self) -> u64 {
        be64(&self.bytes, 16)
    }

    /// Entries that the table has.
    pub(crate) fn entries(&self) -> u64 {
        be32(&self.bytes, 28).into()
    }

    /// Bytes of a block, a power of two.
    pub(crate) fn block(&self) -> u64 {
        be32(&self.bytes, 32).into()
    }

    pub(crate) fn bytes(&self) -> &[u8; HEADER] {
        &self.bytes
    }

    pub(crate) fn set_table(&mut self, table: u64, entries: u32) {
        put(&mut self.bytes, 16, &table.to_be_bytes());
        put(&mut self.bytes, 28, &entries.to_be_bytes());
        let sum = checksum(&self.bytes, CHECKSUM);
        put(&mut self.bytes, CHECKSUM, &sum.to_be_bytes());
    }
}

/// Bytes that a table of so many entries takes in the file.
pub(crate) fn table_length(entries: u64) -> u64 {
    (entries * 4).next_multiple_of(SECTOR)
}
