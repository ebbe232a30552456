//! Reads the log of an image that was not closed ([MS-VHDX] 2.3).

use std::io;
use std::ops::Range;

use super::crc::checksum;
use super::guid::Guid;
use super::header::{HEADERS_END, Header};
use super::region::overlap;
use crate::mapped::{le32, le64};
use crate::storage::Storage;

/// The log, and what it changes, comes in sectors of this size.
pub(crate) const SECTOR: usize = 4096;
pub(crate) const ENTRY: &[u8] = b"loge";
pub(crate) const DATA_DESCRIPTOR: &[u8] = b"desc";
pub(crate) const ZERO_DESCRIPTOR: &[u8] = b"zero";
pub(crate) const DATA: &[u8] = b"data";
/// Bytes of an entry's header, and of each descriptor behind it.
pub(crate) const HEAD: usize = 64;
pub(crate) const DESCRIPTOR: usize = 32;
/// Where the checksum is.
pub(crate) const CHECKSUM: usize = 4;
/// No file that a log speaks of is longer: twice the largest disk.
const LONGEST_FILE: u64 = 128 << 40;
/// A log makes at most so many times the bytes that the file has zeros: each descriptor of 32 bytes may speak of all of it,
/// and where no holes can be made they are written.
const MOST_ZEROS: u64 = 4;
/// Bytes of which checksums are made, beyond some times the log: it could be made of entries within entries.
const BUDGET: usize = 64 << 20;

/// A change that the log has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Data { offset: u64, page: Vec<u8> },
    Zero { offset: u64, length: u64 },
}

/// What is to be done to a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) changes: Vec<Change>,
    /// The least length of the file afterwards.
    pub(crate) length: u64,
}

/// An entry that is in order.
#[derive(Clone, Debug)]
struct Entry {
    at: usize,
    tail: usize,
    length: usize,
    sequence: u64,
    descriptors: usize,
    flushed: u64,
    last: u64,
}

struct Log {
    bytes: Vec<u8>,
    guid: Guid,
    budget: usize,
}

impl Replay {
    /// What the log has to say; nothing if no entry counts.
    ///
    /// # Errors
    /// Why the image cannot be used, in words.
    pub(crate) fn read(storage: &dyn Storage, header: &Header) -> Result<Option<Self>, String> {
        if header.log == Guid::ZERO {
            return Ok(None);
        }
        let end = header.log_offset.saturating_add(header.log_length.into());
        if end > storage.length() {
            return Err("its log is not within the file".into());
        }
        let mut bytes = vec![0; header.log_length as usize];
        let count = storage
            .read(header.log_offset, &mut bytes)
            .map_err(|error| format!("its log cannot be read: {error}"))?;
        if count < bytes.len() {
            return Err("its log is not within the file".into());
        }
        let mut log = Log {
            budget: BUDGET + 8 * bytes.len(),
            bytes,
            guid: header.log,
        };
        let active = log.active()?;
        let Some(head) = active.last() else {
            return Err("its log is to be replayed, and has nothing that is in order".into());
        };
        if storage.length() < head.flushed {
            return Err(format!(
                "the file was cut off: it has {} bytes, and had {} when its log was written",
                storage.length(),
                head.flushed
            ));
        }
        if head.last > LONGEST_FILE {
            return Err(format!(
                "its log wants the file to have {} bytes",
                head.last
            ));
        }
        let mut replay = Self {
            changes: Vec::new(),
            length: head.last.max(storage.length()),
        };
        let own = header.log_offset..header.log_offset + u64::from(header.log_length);
        let (mut there, mut zeros) = (storage.length(), 0_u64);
        let most = there.saturating_mul(MOST_ZEROS);
        for entry in &active {
            for mut change in log.changes(entry)? {
                replay.check(&change, &own)?;
                zeros = zeros.saturating_add(change.cut(&mut there));
                if zeros > most {
                    return Err(format!(
                        "its log wants more than {most} bytes to be zeros, {MOST_ZEROS} times the length of the file"
                    ));
                }
                replay.changes.push(change);
            }
        }
        Ok(Some(replay))
    }

    /// The log must not lead out of the file, nor change headers or itself.
    fn check(&self, change: &Change, own: &Range<u64>) -> Result<(), String> {
        let range = change.range();
        let end = range.end.filter(|end| *end <= self.length);
        let (Some(end), true) = (end, range.start >= HEADERS_END) else {
            return Err(format!(
                "its log changes bytes at {:#x}, which it cannot",
                range.start
            ));
        };
        if overlap(own, &(range.start..end)) {
            return Err("its log changes itself".into());
        }
        Ok(())
    }

    /// Makes the changes, and has them durable.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(crate) fn apply(&self, storage: &dyn Storage) -> io::Result<()> {
        if storage.length() < self.length {
            storage.set_length(self.length)?;
        }
        for change in &self.changes {
            match change {
                Change::Data { offset, page } => storage.write(*offset, page)?,
                Change::Zero { offset, length } => storage.zero(*offset, *length)?,
            }
        }
        storage.flush()
    }
}

struct Span {
    start: u64,
    end: Option<u64>,
}

impl Change {
    /// Takes zeros behind the `there` bytes that the file has by then away, as it gets longer with zeros. Gives how many
    /// are left.
    fn cut(&mut self, there: &mut u64) -> u64 {
        match self {
            Self::Data { offset, page } => {
                *there = (*there).max(*offset + page.len() as u64);
                0
            }
            Self::Zero { offset, length } => {
                *length = (*length).min(there.saturating_sub(*offset));
                *length
            }
        }
    }

    fn range(&self) -> Span {
        let (start, length) = match self {
            Self::Data { offset, page } => (*offset, page.len() as u64),
            Self::Zero { offset, length } => (*offset, *length),
        };
        Span {
            start,
            end: start.checked_add(length),
        }
    }
}

impl Log {
    /// A sector of the log, which goes on at its begin.
    fn sector(&self, at: usize, number: usize) -> &[u8] {
        let start = (at + number * SECTOR) % self.bytes.len();
        &self.bytes[start..start + SECTOR]
    }

    /// The entry at an offset, if there is one that is in order.
    fn entry(&mut self, at: usize) -> Result<Option<Entry>, String> {
        let first = self.sector(at, 0);
        let entry = Entry {
            at,
            length: le32(first, 8) as usize,
            tail: le32(first, 12) as usize,
            sequence: le64(first, 16),
            descriptors: le32(first, 24) as usize,
            flushed: le64(first, 48),
            last: le64(first, 56),
        };
        let size = self.bytes.len();
        let sectors = entry.length / SECTOR;
        if !first.starts_with(ENTRY)
            || Guid::at(first, 32) != self.guid
            || entry.length == 0
            || entry.length > size
            || !entry.length.is_multiple_of(SECTOR)
            || entry.tail >= size
            || !entry.tail.is_multiple_of(SECTOR)
            || entry.sequence == 0
            || entry.descriptors > entry.length / DESCRIPTOR
            || head_sectors(entry.descriptors) > sectors
        {
            return Ok(None);
        }
        let expected = le32(first, CHECKSUM);
        self.budget = self
            .budget
            .checked_sub(entry.length)
            .ok_or("its log is made to be read without end")?;
        let mut whole = Vec::with_capacity(entry.length);
        for number in 0..sectors {
            whole.extend_from_slice(self.sector(at, number));
        }
        Ok((checksum(&whole, CHECKSUM) == expected).then_some(entry))
    }

    /// The entries that are to be replayed: of all runs of entries with numbers that follow each other, the one with
    /// the highest, from the entry on that its last one names.
    fn active(&mut self) -> Result<Vec<Entry>, String> {
        let size = self.bytes.len();
        let (mut best, mut start) = (Vec::<Entry>::new(), 0);
        while start < size {
            let (mut run, mut length) = (Vec::<Entry>::new(), 0);
            while length < size {
                let Some(entry) = self.entry((start + length) % size)? else {
                    break;
                };
                let follows = |last: &Entry| last.sequence.checked_add(1) == Some(entry.sequence);
                if !run.last().is_none_or(follows) || length + entry.length > size {
                    break;
                }
                length += entry.length;
                run.push(entry);
            }
            start += length.max(SECTOR);
            let Some(head) = run.last() else {
                continue;
            };
            let (sequence, tail) = (head.sequence, head.tail);
            let first = run.iter().position(|entry| entry.at == tail);
            let higher = best.last().is_none_or(|best| best.sequence < sequence);
            if let (Some(first), true) = (first, higher) {
                best = run.split_off(first);
            }
        }
        Ok(best)
    }

    fn changes(&self, entry: &Entry) -> Result<Vec<Change>, String> {
        let mut data = head_sectors(entry.descriptors);
        let mut changes = Vec::with_capacity(entry.descriptors);
        for number in 0..entry.descriptors {
            let place = HEAD + number * DESCRIPTOR;
            let sector = self.sector(entry.at, place / SECTOR);
            let descriptor = &sector[place % SECTOR..place % SECTOR + DESCRIPTOR];
            let wrong = || format!("entry {} of its log contradicts itself", entry.sequence);
            let offset = le64(descriptor, 16);
            if le64(descriptor, 24) != entry.sequence || !offset.is_multiple_of(SECTOR as u64) {
                return Err(wrong());
            }
            if descriptor.starts_with(ZERO_DESCRIPTOR) {
                let length = le64(descriptor, 8);
                if !length.is_multiple_of(SECTOR as u64) {
                    return Err(wrong());
                }
                changes.push(Change::Zero { offset, length });
                continue;
            }
            if !descriptor.starts_with(DATA_DESCRIPTOR) || data >= entry.length / SECTOR {
                return Err(wrong());
            }
            let sector = self.sector(entry.at, data);
            data += 1;
            let sequence = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, SECTOR - 4));
            if !sector.starts_with(DATA) || sequence != entry.sequence {
                return Err(wrong());
            }
            let mut page = sector.to_vec();
            page[..8].copy_from_slice(&descriptor[8..16]);
            page[SECTOR - 4..].copy_from_slice(&descriptor[4..8]);
            changes.push(Change::Data { offset, page });
        }
        Ok(changes)
    }
}

/// Sectors of an entry before those of its data.
pub(crate) fn head_sectors(descriptors: usize) -> usize {
    (HEAD + descriptors * DESCRIPTOR).div_ceil(SECTOR)
}
