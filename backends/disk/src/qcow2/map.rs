//! Where the bytes of the disk are (QCOW2 specification, "Cluster mapping").
//!
//! Any number of threads look at the tables at the same time. Only who holds the image's [`Owner`](super::owner::Owner)
//! changes them, so that what the owner has looked at stays.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::cache::{Cache, Copied, Stage, Stop};
use super::corrupt;
use super::entry::{COPIED, Cluster, OFFSET, Place};
use super::header::Header;
use crate::storage::Storage;

/// Changes of L2 tables are written before those of the L1 table, which points to them.
pub(crate) const L2: Stage = Stage::First;
pub(crate) const L1: Stage = Stage::Second;

/// The tables of an image.
pub(crate) struct Map {
    header: Header,
    /// Of the disk, in bytes.
    size: AtomicU64,
    generation: AtomicU64,
    tables: RwLock<Tables>,
}

struct Tables {
    l1_offset: u64,
    l1_entries: u64,
    cache: Cache,
}

/// An entry of the L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// The L2 table, if there is one.
    pub(crate) table: Option<u64>,
    pub(crate) copied: bool,
}

impl Map {
    pub(crate) fn new(header: Header, storage: Arc<dyn Storage>) -> Self {
        let tables = Tables {
            l1_offset: header.l1_offset,
            l1_entries: header.l1_entries,
            cache: Cache::new(storage, header.cluster()),
        };
        Self {
            size: AtomicU64::new(header.size),
            generation: AtomicU64::new(0),
            tables: RwLock::new(tables),
            header,
        }
    }

    /// As it was when the image was opened; for sizes see [`Map::size`].
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Of the disk, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Changes the size, after the header has it.
    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// A number that is another one after data was given up, or parts of it: what was found before then does not count.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Says that data is not any more where the tables had it. To be called after they were changed, and before the
    /// epoch ends.
    pub(crate) fn end_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The offset and number of entries of the L1 table.
    pub(crate) fn l1(&self) -> (u64, u64) {
        let tables = self.read_lock();
        (tables.l1_offset, tables.l1_entries)
    }

    /// Another L1 table is used from now on, which begins like the old one.
    pub(crate) fn set_l1(&self, offset: u64, entries: u64) {
        let mut tables = self.write_lock();
        let (old, length) = (tables.l1_offset, 8 * tables.l1_entries);
        tables.cache.forget(old, length);
        tables.cache.forget(offset, 8 * entries);
        (tables.l1_offset, tables.l1_entries) = (offset, entries);
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the tables, and loads what is not in memory. `look` needs few pages: all of them are there at once.
    fn look<T>(&self, look: impl Fn(&Tables) -> Result<T, Stop>) -> io::Result<T> {
        // The file is read while others look at the tables, unless so much is going on that pages come and go.
        for _ in 0..3 {
            let tables = self.read_lock();
            let missing = match look(&tables) {
                Ok(found) => return Ok(found),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Missing(at)) => tables.cache.fetch(at),
            };
            drop(tables);
            let page = missing.read()?;
            self.write_lock().cache.insert(page);
        }
        let mut tables = self.write_lock();
        loop {
            match look(&tables) {
                Ok(found) => return Ok(found),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Missing(at)) => tables.cache.load(at)?,
            }
        }
    }

    /// Where the bytes from `offset` on are, and how many of the next `most` follow each other there: at least one.
    ///
    /// # Errors
    /// If a table cannot be read or says what cannot be.
    pub(crate) fn find(&self, offset: u64, most: u64) -> io::Result<(Place, u64)> {
        self.look(|tables| tables.run(&self.header, offset, most, |_| true))
    }

    /// As [`Map::find`], if the bytes can be written where they are: the run ends before what is not known to be so.
    ///
    /// # Errors
    /// As [`Map::find`].
    pub(crate) fn find_own(&self, offset: u64, most: u64) -> io::Result<Option<(u64, u64)>> {
        let run = self.look(|tables| {
            tables.run(&self.header, offset, most, |at| tables.cache.is_checked(at))
        })?;
        Ok(match run {
            (Place::Data(start), count) if count > 0 => Some((start, count)),
            _ => None,
        })
    }

    /// What is known of the cluster of the disk with this byte, and where in the file the entry is, if it is anywhere.
    ///
    /// # Errors
    /// As [`Map::find`].
    pub(crate) fn cluster(&self, offset: u64) -> io::Result<(Cluster, Option<u64>)> {
        self.look(|tables| tables.cluster(&self.header, offset))
    }

    /// The entry of the L1 table for this byte of the disk.
    ///
    /// # Errors
    /// As [`Map::find`].
    pub(crate) fn root(&self, offset: u64) -> io::Result<Root> {
        self.look(|tables| tables.root(&self.header, offset))
    }

    /// Changes the entry of the L1 table for this byte of the disk.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn set_root(&self, offset: u64, table: u64) -> io::Result<()> {
        let mut tables = self.write_lock();
        let at = tables.l1_offset + 8 * (offset / self.header.span());
        let entry = table | COPIED;
        tables.cache.change(at, &entry.to_be_bytes(), L1)
    }

    /// Changes an entry at `at` in an L2 table. `own` says that its data can be written where it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn set_cluster(&self, at: u64, cluster: &Cluster, own: bool) -> io::Result<()> {
        let (entry, parts) = cluster.entry(&self.header);
        let mut tables = self.write_lock();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&entry.to_be_bytes());
        bytes[8..].copy_from_slice(&parts.to_be_bytes());
        let count = if self.header.extended_l2 { 16 } else { 8 };
        tables.cache.change(at, &bytes[..count], L2)?;
        if own {
            tables.cache.check(at);
        }
        Ok(())
    }

    /// Marks an entry at `at`: its data can be written where it is.
    pub(crate) fn set_own(&self, at: u64) {
        self.write_lock().cache.check(at);
    }

    /// Drops what is known of bytes of the file that are used for something else from now on.
    pub(crate) fn forget(&self, offset: u64, length: u64) {
        self.write_lock().cache.forget(offset, length);
    }

    /// Whether so much was changed that it should be written soon.
    pub(crate) fn is_full(&self) -> bool {
        self.read_lock().cache.is_full()
    }

    /// Number of pages of a stage that are to be written.
    pub(crate) fn changes(&self, stage: Stage) -> usize {
        self.read_lock().cache.changes(stage)
    }

    /// Copies the changes of a stage, to be written. Others look at the tables, and change them, meanwhile.
    pub(crate) fn begin_write(&self, stage: Stage) -> Copied {
        self.write_lock().cache.begin_write(stage)
    }

    /// What [`Map::begin_write`] gave is durable, or still to be written.
    pub(crate) fn end_write(&self, stage: Stage, done: bool) {
        self.write_lock().cache.end_write(stage, done);
    }
}

impl Tables {
    fn root(&self, header: &Header, offset: u64) -> Result<Root, Stop> {
        let index = offset / header.span();
        if index >= self.l1_entries {
            let what = format!("the L1 table ends before offset {offset:#x}");
            return Err(corrupt(what).into());
        }
        let entry = self.cache.entry(self.l1_offset + 8 * index)?;
        if entry & !(OFFSET | COPIED) != 0 || !(entry & OFFSET).is_multiple_of(header.cluster()) {
            let what = format!("the L1 entry {entry:#x} has bits that have no meaning");
            return Err(corrupt(what).into());
        }
        Ok(Root {
            table: (entry & OFFSET != 0).then_some(entry & OFFSET),
            copied: entry & COPIED != 0,
        })
    }

    fn parse(&self, header: &Header, at: u64) -> Result<Cluster, Stop> {
        let entry = self.cache.entry(at)?;
        let parts = match header.extended_l2 {
            true => self.cache.entry(at + 8)?,
            false => 0,
        };
        Ok(Cluster::parse(header, entry, parts)?)
    }

    fn cluster(&self, header: &Header, offset: u64) -> Result<(Cluster, Option<u64>), Stop> {
        let Some(table) = self.root(header, offset)?.table else {
            return Ok((Cluster::default(), None));
        };
        let at = table + header.entry_offset(offset);
        Ok((self.parse(header, at)?, Some(at)))
    }

    /// The run of bytes that are in one place, up to where a page of the table ends. `counts` says whether an entry at
    /// an offset in the file is part of it; with nothing for the first the run is empty.
    fn run(
        &self,
        header: &Header,
        offset: u64,
        most: u64,
        counts: impl Fn(u64) -> bool,
    ) -> Result<(Place, u64), Stop> {
        let span = header.span();
        let Some(table) = self.root(header, offset)?.table else {
            return Ok((Place::Unallocated, (span - offset % span).min(most)));
        };
        let first = table + header.entry_offset(offset);
        let (cluster, part) = (header.cluster(), header.part());
        let mut known = self.parse(header, first)?;
        let place = known.place(header, offset % cluster);
        if !counts(first) {
            return Ok((place, 0));
        }
        if matches!(place, Place::Compressed(_)) {
            return Ok((place, (cluster - offset % cluster).min(most)));
        }
        let mut at = first;
        let mut length = part - offset % part;
        while length < most {
            let next = offset + length;
            if next.is_multiple_of(cluster) {
                at += header.entry_size();
                if at.is_multiple_of(self.cache.page()) || !counts(at) {
                    break;
                }
                known = self.parse(header, at)?;
            }
            let goes_on = match (place, known.place(header, next % cluster)) {
                (Place::Data(first), Place::Data(second)) => first + length == second,
                (first, second) => first == second,
            };
            if !goes_on {
                break;
            }
            length += part;
        }
        Ok((place, length.min(most)))
    }
}
