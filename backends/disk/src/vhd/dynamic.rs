//! Where the blocks of a dynamic image are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SECTOR;
use super::footer::FOOTER;
use super::header::{HEADER, Header, MOST_ENTRIES, table_length};
use crate::mapped::{Place, Table, corrupt, narrow, read_all};
use crate::storage::Storage;

/// The entry of a block that is not in the file.
pub(crate) const UNUSED: u32 = u32::MAX;

/// The tables of an image.
pub(crate) struct Blocks {
    storage: Arc<dyn Storage>,
    table: Table,
    /// Bytes of a block and of the bitmap before it.
    pub(crate) block: u64,
    pub(crate) bitmap: u64,
    header_at: u64,
    table_at: AtomicU64,
    entries: AtomicU64,
    /// A bit for each block whose bitmap is known to have all sectors.
    whole: Vec<AtomicU64>,
}

impl Blocks {
    /// Checks that the tables are in the file, and each in a place of its own.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        header_at: u64,
        header: &Header,
        size: u64,
    ) -> Result<Self, String> {
        let (entries, block) = (header.entries(), header.block());
        let needed = size.div_ceil(block);
        if needed > entries {
            return Err(format!(
                "its table has {entries} entries, and {size} bytes are {needed} blocks"
            ));
        }
        if needed > MOST_ENTRIES {
            return Err(format!(
                "it has {needed} blocks of {block} bytes; {MOST_ENTRIES} are the most that can be served"
            ));
        }
        let blocks = Self {
            table: Table::new(Arc::clone(&storage)),
            block,
            bitmap: (block / SECTOR / 8).next_multiple_of(SECTOR),
            header_at,
            table_at: AtomicU64::new(header.table()),
            entries: AtomicU64::new(entries),
            whole: (0..MOST_ENTRIES / 64).map(|_| AtomicU64::new(0)).collect(),
            storage,
        };
        let (table, length) = blocks.table_place(needed);
        let end = table.checked_add(length);
        if end.is_none_or(|end| end > blocks.storage.length()) {
            return Err(format!("its table at {table:#x} is not within the file"));
        }
        let copies = [(0, FOOTER as u64), (header_at, HEADER as u64)];
        if copies.iter().any(|area| overlap(*area, (table, length))) {
            return Err(format!(
                "its table at {table:#x} is where its header or its footer is"
            ));
        }
        Ok(blocks)
    }

    /// Offset and length of the part of the table that so many blocks use.
    fn table_place(&self, blocks: u64) -> (u64, u64) {
        (self.table_at(), table_length(blocks))
    }

    pub(crate) fn table_at(&self) -> u64 {
        self.table_at.load(Ordering::Acquire)
    }

    pub(crate) fn header_at(&self) -> u64 {
        self.header_at
    }

    /// Entries that the table has.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// The table is elsewhere now, with the same entries and more.
    pub(crate) fn moved(&self, table: u64, entries: u64) {
        self.table.forget();
        self.table_at.store(table, Ordering::Release);
        self.entries.store(entries, Ordering::Release);
    }

    /// The end of the table, and of what is before it.
    pub(crate) fn table_end(&self) -> u64 {
        let (table, length) = self.table_place(self.entries().min(MOST_ENTRIES));
        (table + length).max(self.header_at + HEADER as u64)
    }

    /// Bytes of a block in the file.
    pub(crate) fn in_file(&self) -> u64 {
        self.bitmap + self.block
    }

    /// Where the bitmap of a block is, with the data behind it.
    ///
    /// # Errors
    /// If it is where no block can be.
    pub(crate) fn start(&self, number: u64) -> io::Result<Option<u64>> {
        let entry = u32::from_be_bytes(self.table.entry(self.table_at() + 4 * number)?);
        if entry == UNUSED {
            return Ok(None);
        }
        let start = u64::from(entry) * SECTOR;
        let area = (start, self.in_file());
        let end = start + self.in_file() + FOOTER as u64;
        let tables = [
            (0, FOOTER as u64),
            (self.header_at, HEADER as u64),
            self.table_place(self.entries().min(MOST_ENTRIES)),
        ];
        if end > self.storage.length() || tables.iter().any(|table| overlap(*table, area)) {
            return Err(corrupt(format!(
                "block {number} at {start:#x} is not where a block can be"
            )));
        }
        Ok(Some(start))
    }

    /// Points the entry of a block to a place, a multiple of 512, or nowhere.
    ///
    /// # Errors
    /// If it cannot be written, or the place is too far behind.
    pub(crate) fn set_start(&self, number: u64, start: Option<u64>) -> io::Result<()> {
        let entry = match start {
            None => UNUSED,
            Some(start) => match u32::try_from(start / SECTOR) {
                Ok(entry) if entry != UNUSED => entry,
                _ => return Err(io::ErrorKind::FileTooLarge.into()),
            },
        };
        let at = self.table_at() + 4 * number;
        let unit = narrow(SECTOR);
        self.table.change(at, &entry.to_be_bytes(), unit)
    }

    /// Where one byte is, and how many are there up to the end of its block or of what is alike.
    ///
    /// # Errors
    /// If the tables cannot be read or say what cannot be.
    pub(crate) fn at(&self, offset: u64) -> io::Result<(Place, u64)> {
        let (number, within) = (offset / self.block, offset % self.block);
        let left = self.block - within;
        let Some(start) = self.start(number)? else {
            return Ok((Place::Zero, left));
        };
        let data = Place::Data(start + self.bitmap + within);
        if self.is_whole(number, start)? {
            return Ok((data, left));
        }
        let bitmap = self.read_bitmap(start)?;
        let (first, sectors) = (within / SECTOR, self.block / SECTOR);
        let there = has(&bitmap, first);
        let mut end = first + 1;
        while end < sectors && has(&bitmap, end) == there {
            end += 1;
        }
        let place = if there { data } else { Place::Zero };
        Ok((place, end * SECTOR - within))
    }

    /// Whether all sectors of a block are in its bitmap.
    pub(crate) fn is_whole(&self, number: u64, start: u64) -> io::Result<bool> {
        let (word, bit) = (narrow(number / 64), 1 << (number % 64));
        let Some(word) = self.whole.get(word) else {
            return Err(corrupt("a block is behind the end of the disk"));
        };
        if word.load(Ordering::Acquire) & bit != 0 {
            return Ok(true);
        }
        let bitmap = self.read_bitmap(start)?;
        let whole = (0..self.block / SECTOR).all(|sector| has(&bitmap, sector));
        if whole {
            word.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(whole)
    }

    /// A block's place is given up, or not known any more.
    pub(crate) fn forget_whole(&self, number: u64) {
        if let Some(word) = self.whole.get(narrow(number / 64)) {
            word.fetch_and(!(1 << (number % 64)), Ordering::AcqRel);
        }
    }

    fn read_bitmap(&self, start: u64) -> io::Result<Vec<u8>> {
        let mut bitmap = vec![0; narrow(self.block / SECTOR).div_ceil(8)];
        read_all(&*self.storage, start, &mut bitmap)?;
        Ok(bitmap)
    }

    /// Writes the bitmap of a block that has all its sectors.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write_bitmap(&self, start: u64) -> io::Result<()> {
        self.storage.write(start, &vec![0xff; narrow(self.bitmap)])
    }

    /// Makes the sectors that a block does not have zeros that it has. Sectors that it has are not touched.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(crate) fn make_whole(&self, number: u64, start: u64) -> io::Result<()> {
        if self.is_whole(number, start)? {
            return Ok(());
        }
        let bitmap = self.read_bitmap(start)?;
        let sectors = self.block / SECTOR;
        let mut first = 0;
        while first < sectors {
            let there = has(&bitmap, first);
            let mut end = first + 1;
            while end < sectors && has(&bitmap, end) == there {
                end += 1;
            }
            if !there {
                let at = start + self.bitmap + first * SECTOR;
                self.storage.zero(at, (end - first) * SECTOR)?;
            }
            first = end;
        }
        self.storage.flush()?;
        self.write_bitmap(start)
    }
}

/// Bits are counted from the most significant one of the first byte.
fn has(bitmap: &[u8], sector: u64) -> bool {
    let byte = bitmap.get(narrow(sector / 8)).copied().unwrap_or(0);
    byte & (0x80 >> (sector % 8)) != 0
}

fn overlap(one: (u64, u64), other: (u64, u64)) -> bool {
    let end = |(start, length): (u64, u64)| start.saturating_add(length);
    one.0 < end(other) && other.0 < end(one)
}
