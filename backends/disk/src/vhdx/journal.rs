//! Writes the log ([MS-VHDX] 2.3).
//!
//! Entries follow each other; each names the first one that is still needed. No more than half of the log is needed at
//! a time: then everything is flushed, and the next entry is the first one. So an entry that the power cuts off never
//! lies on one that is needed.

use std::io;

use super::MIB;
use super::crc::checksum;
use super::guid::Guid;
use super::header::Header;
use super::replay::{
    CHECKSUM, DATA, DATA_DESCRIPTOR, DESCRIPTOR, ENTRY, HEAD, SECTOR, head_sectors,
};
use crate::mapped::{impossible, put};
use crate::storage::Storage;

/// The log of an image, as this process writes it.
#[derive(Debug)]
pub(crate) struct Journal {
    offset: u64,
    length: usize,
    /// Of this run of entries.
    guid: Guid,
    sequence: u64,
    /// Where the next entry goes, where the first one is that is needed, and how far it is from there.
    head: usize,
    tail: usize,
    used: usize,
    /// The file surely has this length: whole MiB.
    flushed: u64,
}

impl Journal {
    /// A log without entries.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn new(header: &Header, storage: &dyn Storage) -> io::Result<Self> {
        Ok(Self {
            offset: header.log_offset,
            length: header.log_length as usize,
            guid: Guid::random()?,
            sequence: 0,
            head: 0,
            tail: 0,
            used: 0,
            flushed: storage.length() / MIB * MIB,
        })
    }

    /// Brings pages of 4096 bytes to the log, each with its offset in the file. Afterwards they are durable, and may be
    /// written in place. What was written before is durable too.
    ///
    /// # Errors
    /// If there are too many, or they cannot be written.
    pub(crate) fn commit(
        &mut self,
        storage: &dyn Storage,
        header: &mut Header,
        pages: &[(u64, &[u8])],
    ) -> io::Result<()> {
        let length = (head_sectors(pages.len()) + pages.len()) * SECTOR;
        if length > self.length / 4 {
            return Err(impossible("a change is too large for the log"));
        }
        let wraps = self.head + length > self.length;
        if wraps || self.used + length > self.length / 2 {
            // All that was in the log is in place, for good.
            storage.flush()?;
            self.flushed = storage.length() / MIB * MIB;
            self.head = if wraps { 0 } else { self.head };
            (self.tail, self.used) = (self.head, 0);
        }
        let sequence = self.sequence + 1;
        let last = storage.length().next_multiple_of(MIB);
        let bytes = self.entry(pages, sequence, length, last);
        storage.write(self.offset + self.head as u64, &bytes)?;
        storage.flush()?;
        self.flushed = storage.length() / MIB * MIB;
        self.sequence = sequence;
        self.head += length;
        self.used += length;
        if header.log != self.guid {
            header.log = self.guid;
            header.write(storage)?;
        }
        Ok(())
    }

    fn entry(&self, pages: &[(u64, &[u8])], sequence: u64, length: usize, last: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        put(&mut bytes, 0, ENTRY);
        put(&mut bytes, 8, &small(length));
        put(&mut bytes, 12, &small(self.tail));
        put(&mut bytes, 16, &sequence.to_le_bytes());
        put(&mut bytes, 24, &small(pages.len()));
        put(&mut bytes, 32, &self.guid.0);
        put(&mut bytes, 48, &self.flushed.to_le_bytes());
        put(&mut bytes, 56, &last.to_le_bytes());
        let first = head_sectors(pages.len());
        for (number, (offset, page)) in pages.iter().enumerate() {
            let at = HEAD + number * DESCRIPTOR;
            put(&mut bytes, at, DATA_DESCRIPTOR);
            put(&mut bytes, at + 4, &page[SECTOR - 4..SECTOR]);
            put(&mut bytes, at + 8, &page[..8]);
            put(&mut bytes, at + 16, &offset.to_le_bytes());
            put(&mut bytes, at + 24, &sequence.to_le_bytes());
            let at = (first + number) * SECTOR;
            let [low @ .., a, b, c, d] = sequence.to_le_bytes();
            put(&mut bytes, at, DATA);
            put(&mut bytes, at + 4, &[a, b, c, d]);
            put(&mut bytes, at + 8, &page[8..SECTOR - 4]);
            put(&mut bytes, at + SECTOR - 4, &low);
        }
        let sum = checksum(&bytes, CHECKSUM);
        put(&mut bytes, CHECKSUM, &sum.to_le_bytes());
        bytes
    }
}
