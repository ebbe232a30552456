//! How often each cluster of the file is used (QCOW2 specification, "Reference counting").
//!
//! A count is in the file before anything points to its cluster, and goes down only after nothing does any more. So
//! the worst that a power cut leaves is a cluster that counts as used and is not.

mod growth;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use super::cache::{Cache, Copied, Stage, Stop};
use super::header::{Header, be64};
use super::{corrupt, narrow};
use crate::storage::Storage;

/// The longest refcount table, in bytes: an image with more is one that somebody made up, or has 2^20 clusters of
/// refcounts.
const LONGEST_TABLE: u64 = 8 << 20;
/// One change takes fewer clusters than this: data, an L2 table, and blocks of refcounts for them.
const MOST_OF_A_CHANGE: u64 = 16;
/// The file grows by so many bytes at least.
const GROWTH: u64 = 1 << 20;
/// Bits of an entry of the table that have a meaning.
const TABLE_OFFSET: u64 = !0x1ff;
/// No cluster is behind this: offsets have 56 bits.
const BEHIND: u64 = 1 << 56;
/// Where the header says where the table is and how long.
const TABLE_FIELD: u64 = 48;

/// Clusters that were just given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Offset in the file.
    pub(crate) offset: u64,
    /// Nothing was ever written there.
    pub(crate) is_blank: bool,
}

/// The refcounts of an image.
pub(crate) struct Refcounts {
    storage: Arc<dyn Storage>,
    cluster_bits: u32,
    order: u32,
    table_offset: u64,
    table: Vec<u64>,
    /// Pages of the table that are not as in the file.
    changed: BTreeSet<u64>,
    blocks: Cache,
    /// Offsets of all blocks.
    known: HashSet<u64>,
    /// No cluster before this is free.
    hint: u64,
    /// Clusters from here on were never written.
    blank: u64,
}

impl Refcounts {
    /// Reads the table.
    ///
    /// # Errors
    /// If there is none, or it is not one.
    pub(crate) fn open(header: &Header, storage: Arc<dyn Storage>) -> io::Result<Self> {
        let cluster = header.cluster();
        let counts = &header.counts;
        let bytes = u64::from(counts.table_clusters) * cluster;
        let end = counts.table_offset.checked_add(bytes);
        if counts.order > 6 {
            return Err(corrupt(format!(
                "its refcounts have 2^{} bits",
                counts.order
            )));
        }
        if bytes == 0 || bytes > LONGEST_TABLE {
            return Err(corrupt(format!("its refcount table has {bytes} bytes")));
        }
        let length = storage.length();
        if counts.table_offset == 0
            || !counts.table_offset.is_multiple_of(cluster)
            || end.is_none_or(|end| end > length)
        {
            return Err(corrupt(format!(
                "its refcount table at {:#x} is not within the file, or not at the begin of a cluster",
                counts.table_offset
            )));
        }
        let mut table = vec![0; narrow(bytes)];
        storage.read(counts.table_offset, &mut table)?;
        let table = table.chunks_exact(8).filter_map(|entry| be64(entry, 0));
        let table: Vec<u64> = table.collect();
        let mut known = HashSet::new();
        for block in table.iter().filter(|entry| **entry != 0) {
            // A search for a free cluster would not end otherwise.
            if !known.insert(*block) {
                return Err(corrupt(format!(
                    "its refcount table has the block {block:#x} twice"
                )));
            }
        }
        Ok(Self {
            cluster_bits: header.cluster_bits,
            order: counts.order,
            table_offset: counts.table_offset,
            table,
            known,
            changed: BTreeSet::new(),
            blocks: Cache::new(Arc::clone(&storage), cluster),
            hint: 0,
            blank: length.div_ceil(cluster),
            storage,
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters whose refcounts are in one block.
    pub(crate) fn per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.order)
    }

    /// The offset and number of bytes of the table.
    pub(crate) fn table(&self) -> (u64, u64) {
        (self.table_offset, 8 * self.table.len() as u64)
    }

    /// The blocks, by offset.
    pub(crate) fn block_offsets(&self) -> Vec<u64> {
        let entries = self.table.iter().copied();
        entries.filter(|entry| *entry != 0).collect()
    }

    /// The first cluster of each block.
    pub(crate) fn covered(&self) -> Vec<u64> {
        let per_block = self.per_block();
        let entries = (0_u64..).zip(&self.table);
        let present = entries.filter(|(_, entry)| **entry != 0);
        present.map(|(index, _)| index * per_block).collect()
    }

    /// Whether refcounts are at this offset.
    pub(crate) fn is_own(&self, offset: u64) -> bool {
        let end = self.table_offset + 8 * self.table.len() as u64;
        self.known.contains(&offset) || (self.table_offset..end).contains(&offset)
    }

    /// The block that has the refcount of a cluster.
    fn block(&self, cluster: u64) -> io::Result<Option<u64>> {
        let index = usize::try_from(cluster / self.per_block());
        let entry = index.ok().and_then(|index| self.table.get(index));
        let entry = entry.copied().unwrap_or(0);
        if entry & !TABLE_OFFSET != 0 || !entry.is_multiple_of(self.cluster()) {
            return Err(corrupt(format!(
                "the entry {entry:#x} of the refcount table has bits that have no meaning"
            )));
        }
        Ok((entry != 0).then_some(entry))
    }

    /// Where the refcount of a cluster is: the offset of its first byte, how many bytes it has or is in, and the bit
    /// it begins with.
    fn place(&self, cluster: u64) -> io::Result<Option<(u64, usize, u32)>> {
        let Some(block) = self.block(cluster)? else {
            return Ok(None);
        };
        let bit = (cluster % self.per_block()) << self.order;
        let bytes = (1_usize << self.order).div_ceil(8);
        let shift = if self.order < 3 { bit % 8 } else { 0 };
        // Less than 8.
        Ok(Some((
            block + bit / 8,
            bytes,
            u32::try_from(shift).unwrap_or(0),
        )))
    }

    fn most(&self) -> u64 {
        u64::MAX >> (64 - (1_u32 << self.order))
    }

    fn raw(&mut self, at: u64, count: usize) -> io::Result<u64> {
        loop {
            match self.blocks.bytes(at, count) {
                Ok(bytes) => {
                    let digits = bytes.iter();
                    return Ok(digits.fold(0, |number, byte| number << 8 | u64::from(*byte)));
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Missing(at)) => self.blocks.load(at)?,
            }
        }
    }

    /// How often a cluster is used.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn get(&mut self, cluster: u64) -> io::Result<u64> {
        let Some((at, count, shift)) = self.place(cluster)? else {
            return Ok(0);
        };
        Ok(self.raw(at, count)? >> shift & self.most())
    }

    fn set(&mut self, cluster: u64, value: u64) -> io::Result<()> {
        let Some((at, count, shift)) = self.place(cluster)? else {
            return Err(corrupt(format!("cluster {cluster:#x} has no refcount")));
        };
        let old = self.raw(at, count)?;
        let new = old & !(self.most() << shift) | value << shift;
        let bytes = new.to_be_bytes();
        self.blocks.change(at, &bytes[8 - count..], Stage::First)
    }

    /// Changes a refcount to what a check has counted, if there is one and it can be so large.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn force(&mut self, cluster: u64, value: u64) -> io::Result<bool> {
        if value > self.most() || self.place(cluster)?.is_none() {
            return Ok(false);
        }
        self.set(cluster, value)?;
        Ok(true)
    }

    /// Counts one user less of a cluster that nothing in the file points to any more; whether it is free now.
    ///
    /// # Errors
    /// If it was free before: something is wrong with the image.
    pub(crate) fn release(&mut self, cluster: u64) -> io::Result<bool> {
        let count = self.get(cluster)?;
        let Some(left) = count.checked_sub(1) else {
            return Err(corrupt(format!(
                "cluster {cluster:#x} was used, and its refcount is 0"
            )));
        };
        self.set(cluster, left)?;
        if left == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(left == 0)
    }

    /// Gives out a cluster that nobody uses.
    ///
    /// # Errors
    /// If the file cannot have any more.
    pub(crate) fn allocate(&mut self) -> io::Result<Room> {
        let mut cluster = self.hint;
        loop {
            if cluster / self.per_block() >= self.table.len() as u64 {
                self.grow_table(1)?;
                continue;
            }
            if self.block(cluster)?.is_none() {
                self.add_block(cluster)?;
                cluster += 1;
                continue;
            }
            if self.get(cluster)? == 0 {
                break;
            }
            if cluster << self.cluster_bits >= self.storage.length() {
                return Err(corrupt(format!(
                    "cluster {cluster:#x} is used, and behind the end of the file"
                )));
            }
            cluster += 1;
        }
        let room = self.take(cluster)?;
        self.set(cluster, 1)?;
        self.hint = cluster + 1;
        Ok(room)
    }

    /// Makes a cluster that is free part of the file.
    fn take(&mut self, cluster: u64) -> io::Result<Room> {
        let offset = cluster << self.cluster_bits;
        let end = offset + self.cluster();
        if end > BEHIND {
            return Err(full("offsets of QCOW2 end at 2^56"));
        }
        if offset == 0 || self.is_own(offset) {
            return Err(corrupt(format!(
                "the tables at {offset:#x} have a refcount of 0"
            )));
        }
        self.reach(end)?;
        let is_blank = cluster >= self.blank;
        self.blank = self.blank.max(cluster + 1);
        Ok(Room { offset, is_blank })
    }

    /// Makes the file at least so long.
    pub(crate) fn reach(&self, end: u64) -> io::Result<()> {
        if end <= self.storage.length() {
            return Ok(());
        }
        let roomy = end.next_multiple_of(GROWTH.max(self.cluster()));
        match self.storage.set_length(roomy) {
            Ok(()) => Ok(()),
            Err(_) => self.storage.set_length(end),
        }
    }

    /// Gives a cluster back that was given out and that nothing ever pointed to.
    ///
    /// # Errors
    /// If its refcount cannot be read.
    pub(crate) fn undo(&mut self, offset: u64) -> io::Result<()> {
        self.release(offset >> self.cluster_bits).map(|_| ())
    }

    /// Makes the cluster a block of refcounts, its own among them.
    fn add_block(&mut self, cluster: u64) -> io::Result<()> {
        let room = self.take(cluster)?;
        self.blank_out(room)?;
        self.enter(cluster / self.per_block(), room.offset);
        self.set(cluster, 1)
    }

    fn blank_out(&mut self, room: Room) -> io::Result<()> {
        self.blocks.forget(room.offset, self.cluster());
        if !room.is_blank {
            self.storage.zero(room.offset, self.cluster())?;
        }
        Ok(())
    }

    /// Enters a block into the table.
    fn enter(&mut self, index: u64, block: u64) {
        if let Some(entry) = self.table.get_mut(narrow(index)) {
            *entry = block;
            self.known.insert(block);
            self.changed.insert(8 * index / self.blocks.page());
        }
    }

    /// Whether so much was changed that it should be written soon.
    pub(crate) fn is_full(&self) -> bool {
        self.blocks.is_full()
    }

    /// Whether something is not as in the file.
    pub(crate) fn is_changed(&self) -> bool {
        self.blocks.changes(Stage::First) > 0 || !self.changed.is_empty()
    }

    /// Whether the table may have to grow for what one change takes. It moves then, which is nothing to do beside a flush.
    pub(crate) fn is_short(&self) -> bool {
        let there = self.storage.length().div_ceil(self.cluster());
        there.saturating_add(MOST_OF_A_CHANGE) >= self.table.len() as u64 * self.per_block()
    }

    /// Copies what was changed, to be written. The changes stay in memory until [`Refcounts::end_write`].
    pub(crate) fn begin_write(&mut self) -> Counts {
        let page = self.blocks.page();
        let pages = std::mem::take(&mut self.changed);
        let bytes_of = |number: &u64| {
            let first = narrow(number * page / 8);
            let entries = self.table.iter().skip(first).take(narrow(page / 8));
            let bytes = entries.flat_map(|entry| entry.to_be_bytes()).collect();
            (self.table_offset + number * page, bytes)
        };
        Counts {
            table: pages.iter().map(bytes_of).collect(),
            blocks: self.blocks.begin_write(Stage::First),
            pages,
        }
    }

    /// What [`Refcounts::begin_write`] gave is durable, or still to be written.
    pub(crate) fn end_write(&mut self, mut counts: Counts, done: bool) {
        self.blocks.end_write(Stage::First, done);
        if !done {
            self.changed.append(&mut counts.pages);
        }
    }

    /// Writes all that was changed, for who does nothing else.
    ///
    /// # Errors
    /// If the file cannot be written. Everything is written again then the next time.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        let counts = self.begin_write();
        let storage = Arc::clone(&self.storage);
        let result = counts.write(&*storage, || storage.flush());
        self.end_write(counts, result.is_ok());
        result
    }
}

/// Refcounts, and what the table says of where they are, as they are to be in the file.
pub(crate) struct Counts {
    blocks: Copied,
    table: Copied,
    /// Of the table, by number.
    pages: BTreeSet<u64>,
}

impl Counts {
    /// Writes counts, and makes them durable with `sync`; then the table that points to them.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(
        &self,
        file: &dyn Storage,
        sync: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        for (at, bytes) in &self.blocks {
            file.write(*at, bytes)?;
        }
        sync()?;
        if self.table.is_empty() {
            return Ok(());
        }
        for (at, bytes) in &self.table {
            file.write(*at, bytes)?;
        }
        file.flush()
    }
}

fn full(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::StorageFull,
        format!("the image cannot have more clusters: {why}"),
    )
}
