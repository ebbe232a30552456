//! An opened image.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::MIB;
use super::guid::Guid;
use super::header::Header;
use super::journal::Journal;
use super::metadata::Metadata;
use super::overlay::Overlay;
use super::region::{Regions, overlap};
use super::replay::Replay;
use crate::mapped::{Mapping, PAGE, Place, Table, corrupt, narrow, run};
use crate::storage::Storage;

/// States of a block ([MS-VHDX] 2.5.1.1); those before the last two have no bytes in the file.
pub(crate) const NOT_PRESENT: u64 = 0;
const UNMAPPED: u64 = 3;
pub(crate) const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;
/// Parts of an entry: the state, and the offset in the file, which is whole MiB.
const STATE: u64 = 7;
const OFFSET: u64 = !(MIB - 1);

/// Sectors that are looked at in a bitmap at a time.
const MOST_SECTORS: u64 = 4096;

/// Where a block is.
enum Block {
    /// Nowhere in the file.
    Absent(Place),
    Whole(u64),
    /// Some of its sectors.
    InPart(u64),
}

pub(crate) struct Vhdx {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) table: Table,
    pub(super) metadata: Metadata,
    capacity: AtomicU64,
    pub(super) places: RwLock<Places>,
    owner: Mutex<Owner>,
    /// The headers say already that the image is being changed.
    changed: AtomicBool,
    read_only: bool,
}

/// What may move.
pub(super) struct Places {
    pub(super) regions: Regions,
    log: Range<u64>,
}

/// What only one thread at a time changes.
pub(super) struct Owner {
    pub(super) header: Header,
    pub(super) journal: Journal,
    /// It is not known what the file has.
    pub(super) failed: bool,
}

impl Owner {
    /// Keeps in mind that what has failed must not be built on.
    pub(super) fn sure<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.failed |= result.is_err();
        result
    }
}

/// An entry of a block: where its bytes are.
pub(crate) fn present(offset: u64) -> u64 {
    offset & OFFSET | FULLY_PRESENT
}

impl Vhdx {
    /// Reads what says where the disk is, and replays the log: in the file, or with `read_only` in memory.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub(crate) fn open(storage: Arc<dyn Storage>, read_only: bool) -> Result<Self, String> {
        let mut signature = [0; 8];
        match storage.read(0, &mut signature) {
            Ok(8) if signature == *b"vhdxfile" => {}
            Ok(_) => return Err("it does not begin as one".into()),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        }
        let mut header = Header::read(&*storage)?;
        let storage = replay(storage, &mut header, read_only)?;
        let regions = Regions::read(&*storage)?;
        let log = header.log_offset..header.log_offset + u64::from(header.log_length);
        if regions.all.iter().any(|region| overlap(region, &log)) {
            return Err("its log overlaps a region".into());
        }
        let metadata = Metadata::read(&*storage, &regions.metadata)?;
        if metadata.parent.is_some() && !read_only {
            return Err("it is a differencing image, which can only be read (readonly=on)".into());
        }
        let table = metadata.entries(metadata.size).saturating_mul(8);
        if table > regions.bat.end - regions.bat.start {
            return Err(format!(
                "its table of blocks is too short for {} bytes",
                metadata.size
            ));
        }
        let journal = Journal::new(&header, &*storage)
            .map_err(|error| format!("there are no random numbers: {error}"))?;
        Ok(Self {
            table: Table::new(Arc::clone(&storage)),
            capacity: AtomicU64::new(metadata.size),
            metadata,
            places: RwLock::new(Places { regions, log }),
            owner: Mutex::new(Owner {
                header,
                journal,
                failed: false,
            }),
            changed: AtomicBool::new(false),
            read_only,
            storage,
        })
    }

    pub(super) fn owner(&self) -> MutexGuard<'_, Owner> {
        // What matters is in the file, and is changed through the log.
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Release);
    }

    /// The end of the last table in the file.
    pub(super) fn tables_end(&self) -> u64 {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let tables = places.regions.all.iter().chain([&places.log]);
        tables.map(|table| table.end).max().unwrap_or(MIB)
    }

    /// Where the entry of a block is.
    pub(super) fn entry_at(&self, number: u64) -> u64 {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let index = number + number / self.metadata.chunk_ratio();
        places.regions.bat.start + 8 * index
    }

    /// Where a block is in the file, if it is there or a part of it.
    ///
    /// # Errors
    /// If the table cannot be read, or says what cannot be.
    pub(super) fn start(&self, number: u64) -> io::Result<Option<u64>> {
        Ok(match self.block(number)? {
            Block::Absent(_) => None,
            Block::Whole(start) | Block::InPart(start) => Some(start),
        })
    }

    fn block(&self, number: u64) -> io::Result<Block> {
        let entry = u64::from_le_bytes(self.table.entry(self.entry_at(number))?);
        let has_parent = self.metadata.parent.is_some();
        match entry & STATE {
            NOT_PRESENT if has_parent => return Ok(Block::Absent(Place::Parent)),
            NOT_PRESENT..=UNMAPPED => return Ok(Block::Absent(Place::Zero)),
            FULLY_PRESENT => {}
            PARTIALLY_PRESENT if has_parent => {}
            PARTIALLY_PRESENT => {
                return Err(corrupt(format!(
                    "block {number} is in part in a parent, and there is none"
                )));
            }
            state => {
                return Err(corrupt(format!("block {number} has the state {state}")));
            }
        }
        let start = entry & OFFSET;
        let first = number * self.metadata.block;
        // The last block may be cut off at the end of the disk.
        let length = self
            .metadata
            .block
            .min(self.capacity().saturating_sub(first));
        self.check_place(start, length, || format!("block {number}"))?;
        Ok(match entry & STATE {
            PARTIALLY_PRESENT => Block::InPart(start),
            _ => Block::Whole(start),
        })
    }

    /// Blocks are within the file, and where no table is.
    fn check_place(&self, start: u64, length: u64, what: impl Fn() -> String) -> io::Result<()> {
        let range = start..start.saturating_add(length);
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let mut tables = places.regions.all.iter().chain([&places.log]);
        if start < MIB
            || range.end > self.storage.length()
            || tables.any(|table| overlap(table, &range))
        {
            return Err(corrupt(format!(
                "{} at {start:#x} is not where a block can be",
                what()
            )));
        }
        Ok(())
    }

    /// Where a byte of a block is of which a part is in the parent, and how many are there with it ([MS-VHDX] 2.4).
    fn in_part(&self, number: u64, start: u64, within: u64) -> io::Result<(Place, u64)> {
        let ratio = self.metadata.chunk_ratio();
        let chunk = number / ratio;
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        // Behind the entries of the chunk's blocks.
        let at = places.regions.bat.start + 8 * (chunk * (ratio + 1) + ratio);
        if at + 8 > places.regions.bat.end {
            return Err(corrupt("its table of blocks has no entry for a bitmap"));
        }
        drop(places);
        let entry = u64::from_le_bytes(self.table.entry(at)?);
        if entry & STATE != FULLY_PRESENT {
            return Err(corrupt(format!(
                "block {number} is in part in the parent, and which part is not said"
            )));
        }
        let bitmap = entry & OFFSET;
        self.check_place(bitmap, MIB, || format!("the bitmap of chunk {chunk}"))?;
        let sector = u64::from(self.metadata.logical_sector);
        // In sectors from the chunk's begin on: less than 2^23, as many as the bitmap has bits.
        let first = (number % ratio * self.metadata.block + within) / sector;
        let end = (number % ratio + 1) * self.metadata.block / sector;
        let is_here = |sector: u64| -> io::Result<bool> {
            let [byte] = self.table.entry(bitmap + sector / 8)?;
            Ok(byte & (1 << (sector % 8)) != 0)
        };
        let here = is_here(first)?;
        let mut behind = first + 1;
        while behind < end.min(first + MOST_SECTORS) && is_here(behind)? == here {
            behind += 1;
        }
        let place = match here {
            true => Place::Data(start + within),
            false => Place::Parent,
        };
        Ok((place, (behind - first) * sector - within % sector))
    }

    fn at(&self, offset: u64) -> io::Result<(Place, u64)> {
        let block = self.metadata.block;
        let (number, within) = (offset / block, offset % block);
        let place = match self.block(number)? {
            Block::Whole(start) => Place::Data(start + within),
            Block::InPart(start) => return self.in_part(number, start, within),
            Block::Absent(place) => place,
        };
        Ok((place, block - within))
    }

    /// Changes entries of blocks through the log. Each is a block's number and its entry; they are in order.
    pub(super) fn set_entries(&self, owner: &mut Owner, entries: &[(u64, u64)]) -> io::Result<()> {
        let mut pages: Vec<(u64, Box<[u8; PAGE]>)> = Vec::new();
        for (number, entry) in entries {
            let at = self.entry_at(*number);
            let (page, within) = (at / PAGE as u64, narrow(at % PAGE as u64));
            if pages.last().is_none_or(|last| last.0 != page) {
                pages.push((page, self.table.page(page)?));
            }
            if let Some((_, bytes)) = pages.last_mut() {
                bytes[within..within + 8].copy_from_slice(&entry.to_le_bytes());
            }
        }
        self.change_pages(owner, &pages)
    }

    /// Changes whole pages through the log. Each is its number in the file and its bytes.
    pub(super) fn change_pages(
        &self,
        owner: &mut Owner,
        pages: &[(u64, Box<[u8; PAGE]>)],
    ) -> io::Result<()> {
        let Owner {
            header, journal, ..
        } = owner;
        // As many as an entry of the log can have.
        for some in pages.chunks(32) {
            let logged: Vec<(u64, &[u8])> = some
                .iter()
                .map(|(number, bytes)| (number * PAGE as u64, &bytes[..]))
                .collect();
            journal.commit(&*self.storage, header, &logged)?;
            for (number, bytes) in some {
                self.table.replace(*number, bytes)?;
            }
        }
        Ok(())
    }

    /// Says in the headers that the image is changed now.
    fn mark(&self) -> io::Result<()> {
        let mut owner = self.owner();
        if self.changed.load(Ordering::Acquire) {
            return Ok(());
        }
        owner.header.file_write = Guid::random()?;
        owner.header.data_write = Guid::random()?;
        owner.header.write(&*self.storage)?;
        self.changed.store(true, Ordering::Release);
        Ok(())
    }

    /// Everything is in place and durable: no entry of the log counts any more.
    pub(crate) fn close(&self) -> io::Result<()> {
        let mut owner = self.owner();
        if owner.failed || owner.header.log == Guid::ZERO || self.read_only {
            return Ok(());
        }
        self.storage.flush()?;
        owner.header.log = Guid::ZERO;
        owner.header.write(&*self.storage)
    }
}

impl Drop for Vhdx {
    fn drop(&mut self) {
        // If it fails the log stays, and is replayed with the next opening.
        let _ = self.close();
    }
}

impl Mapping for Vhdx {
    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    fn logical_block(&self) -> u32 {
        self.metadata.logical_sector
    }

    fn physical_block(&self) -> u32 {
        self.metadata.physical_sector
    }

    fn find(&self, offset: u64, most: u64) -> io::Result<(Place, u64)> {
        let most = most.min(self.capacity().saturating_sub(offset));
        if most == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        run(offset, most, |at| self.at(at))
    }

    fn begin_change(&self) -> io::Result<()> {
        match self.changed.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.mark(),
        }
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut owner = self.owner();
        if owner.failed {
            return Err(stopped());
        }
        let block = self.metadata.block;
        let end = offset
            .saturating_add(length)
            .min(self.capacity())
            .div_ceil(block);
        let mut entries = Vec::new();
        let mut next = self.storage.length().next_multiple_of(MIB);
        for number in offset / block..end {
            if self.start(number)?.is_none() {
                entries.push((number, present(next)));
                next += block;
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.storage.set_length(next)?;
        let changed = self.set_entries(&mut owner, &entries);
        owner.sure(changed)
    }

    fn resize(&self, capacity: u64) -> io::Result<()> {
        self.change_size(capacity)
    }
}

pub(super) fn stopped() -> io::Error {
    io::Error::other("tables of the image could not be written before: nothing is added to it")
}

/// The file with what its log says.
fn replay(
    storage: Arc<dyn Storage>,
    header: &mut Header,
    read_only: bool,
) -> Result<Arc<dyn Storage>, String> {
    let Some(replay) = Replay::read(&*storage, header)? else {
        return Ok(storage);
    };
    if read_only {
        // Lanes read the file itself: blocks must be in it.
        if replay.length > storage.length() {
            return Err(
                "its log makes the file longer: open it for writing once (readonly=off), or \
                 ch-image check --repair"
                    .into(),
            );
        }
        return Ok(Arc::new(Overlay::new(storage, replay)));
    }
    let applied = replay.apply(&*storage).and_then(|()| {
        header.log = Guid::ZERO;
        header.write(&*storage)
    });
    match applied {
        Ok(()) => Ok(storage),
        Err(error) => Err(format!("its log cannot be replayed: {error}")),
    }
}
