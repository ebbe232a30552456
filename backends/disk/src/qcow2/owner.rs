//! What one thread at a time does to an image: room is made, tables are changed, changes are written out.
//!
//! # Order of writes
//!
//! Tables change in memory only. A flush brings them to the file, each stage durable before the next:
//!
//! ```text
//!  data, refcounts, new tables ──▶ refcount table ──▶ L2 and L1 tables ──▶ refcounts of what nothing points to go down
//! ```
//!
//! A new L2 table is in the file with its first contents before anything points to it: zeros, or those of the table
//! that it is a copy of.
//!
//! What points is never in the file before what it points to. A refcount that went down is written with the next
//! flush; its cluster can be used again at once, because nothing in the file points to it any more. After a power cut
//! the image is one that was, or was to be, flushed, and at worst has clusters that count as used and are not.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::corrupt;
use super::epoch::Epochs;
use super::header::{CORRUPT, DIRTY, Header, be32, be64};
use super::map::Map;
use super::refcounts::{Refcounts, Room};
use crate::storage::Storage;

/// The longest L1 table of an image that is written, in bytes.
const LONGEST_L1: u64 = 32 << 20;
/// More clusters that were given up than this are not remembered: they are written out.
const MOST_FREED: usize = 4096;
/// Bytes of an entry of the snapshot table before what has no fixed length.
const SNAPSHOT: usize = 40;
/// More snapshots than this are not looked at for where their tables are.
const MOST_SNAPSHOTS: u32 = 65536;
/// Where the header has the features that a reader, and those that only a writer needs to know.
pub(crate) const INCOMPATIBLE_FIELD: u64 = 72;
const AUTOCLEAR_FIELD: u64 = 88;
/// The data file can be read as a raw image. Kept true, because its bytes are where the disk has them.
pub(crate) const RAW_DATA: u64 = 1 << 1;

/// What is needed to change an image.
pub(crate) struct Writer {
    owner: Mutex<Owner>,
    /// Held while changes are brought to the file.
    pub(super) turn: Mutex<()>,
    pub(crate) epochs: Arc<Epochs>,
    /// Something is in memory that is not in the file.
    changed: AtomicBool,
    /// Space that is given up goes back to the host.
    pub(crate) gives_back: bool,
}

/// What only one thread at a time has.
pub(crate) struct Owner {
    pub(crate) refcounts: Refcounts,
    /// Where there are tables beside refcounts.
    fixed: Vec<Range<u64>>,
    l1: Range<u64>,
    tables: HashSet<u64>,
    pub(super) freed: Vec<Freed>,
}

/// Clusters that no table points to any more, though tables in the file may.
pub(super) struct Freed {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Owner {
    /// Gives out a cluster.
    ///
    /// # Errors
    /// If there is no room, or the image is broken.
    pub(crate) fn allocate(&mut self) -> io::Result<Room> {
        let room = self.refcounts.allocate()?;
        if self.is_table(room.offset) {
            return Err(corrupt(format!(
                "the tables at {:#x} have a refcount of 0",
                room.offset
            )));
        }
        Ok(room)
    }

    /// Whether there is something at this offset that is not data.
    pub(crate) fn is_table(&self, offset: u64) -> bool {
        self.tables.contains(&offset)
            || self.l1.contains(&offset)
            || self.fixed.iter().any(|range| range.contains(&offset))
            || self.refcounts.is_own(offset)
    }

    /// The L1 table is somewhere else from now on.
    pub(crate) fn set_l1(&mut self, offset: u64, entries: u64) {
        self.l1 = offset..offset + 8 * entries;
    }

    /// An L2 table is at this offset from now on.
    pub(crate) fn add_table(&mut self, offset: u64) {
        self.tables.insert(offset);
    }

    /// No L2 table that is in use is at this offset any more.
    pub(crate) fn remove_table(&mut self, offset: u64) {
        self.tables.remove(&offset);
    }

    /// Remembers clusters that no table points to any more.
    pub(crate) fn free(&mut self, epoch: u64, first: u64, count: u64) {
        match self.freed.last_mut() {
            Some(last) if last.epoch == epoch && last.first + last.count == first => {
                last.count += count;
            }
            _ => self.freed.push(Freed {
                epoch,
                first,
                count,
            }),
        }
    }
}

impl Writer {
    /// Prepares an image to be changed.
    ///
    /// # Errors
    /// Why it cannot be, in words.
    pub(crate) fn open(
        map: &Map,
        file: &Arc<dyn Storage>,
        gives_back: bool,
    ) -> Result<Self, String> {
        let header = map.header();
        check(header)?;
        let words = |error: io::Error| error.to_string();
        let refcounts = Refcounts::open(header, Arc::clone(file)).map_err(words)?;
        let first = 0..header.cluster();
        let mut owner = Owner {
            refcounts,
            l1: header.l1_offset..header.l1_offset + 8 * header.l1_entries,
            fixed: vec![first],
            tables: HashSet::new(),
            freed: Vec::new(),
        };
        owner.find_tables(header, &**file).map_err(words)?;
        owner.find_snapshots(header, &**file).map_err(words)?;
        clear_autoclear(header, &**file).map_err(words)?;
        Ok(Self {
            owner: Mutex::new(owner),
            turn: Mutex::new(()),
            epochs: Arc::default(),
            changed: AtomicBool::new(false),
            gives_back,
        })
    }

    /// The owner's place.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Owner> {
        // Everything in it is as right as the image after each step; a step that panics is a bug.
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is not in the file that should be there after the next flush.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::SeqCst)
    }

    pub(crate) fn set_changed(&self) {
        self.changed.store(true, Ordering::SeqCst);
    }

    /// Whether so much is in memory that it should be written out first.
    pub(crate) fn is_full(&self, owner: &Owner, map: &Map) -> bool {
        map.is_full() || owner.refcounts.is_full() || owner.freed.len() >= MOST_FREED
    }

    /// Nothing is in memory only.
    pub(crate) fn set_unchanged(&self, _: &Owner) {
        self.changed.store(false, Ordering::SeqCst);
    }
}

/// The longest L1 table of an image that is written, in bytes.
pub(crate) fn longest_l1() -> u64 {
    LONGEST_L1
}

/// Marks an image as corrupt, if its version has a mark for that.
pub(crate) fn mark(header: &Header, file: &dyn Storage) {
    if header.has_zero_flag() {
        let features = header.counts.incompatible | CORRUPT;
        // There is nothing else to be done if this fails; nothing is written to the image in either case.
        let _ = file
            .write(INCOMPATIBLE_FIELD, &features.to_be_bytes())
            .and_then(|()| file.flush());
    }
}

/// What cannot be written, from the header alone.
fn check(header: &Header) -> Result<(), String> {
    let features = header.counts.incompatible;
    if features & CORRUPT != 0 {
        return Err(
            "it is marked as corrupt, and can only be read (readonly=on); \
                    ch-image check --repair repairs it"
                .into(),
        );
    }
    if features & DIRTY != 0 {
        return Err(
            "its refcounts were not written the last time (it is marked as dirty), \
             so that it can only be read (readonly=on); ch-image check --repair repairs it"
                .into(),
        );
    }
    if header.external_data.is_some() && header.counts.snapshots > 0 {
        return Err("it has snapshots and a data file, which cannot be written together".into());
    }
    if 8 * header.l1_entries > LONGEST_L1 {
        return Err(format!(
            "its L1 table of {} entries is too long to be written: {} are possible",
            header.l1_entries,
            LONGEST_L1 / 8
        ));
    }
    Ok(())
}

/// Says that what only a writer needs to know was not kept right, where that is so.
fn clear_autoclear(header: &Header, file: &dyn Storage) -> io::Result<()> {
    let kept = header.counts.autoclear & RAW_DATA;
    if kept == header.counts.autoclear {
        return Ok(());
    }
    file.write(AUTOCLEAR_FIELD, &kept.to_be_bytes())?;
    file.flush()
}

impl Owner {
    fn find_tables(&mut self, header: &Header, file: &dyn Storage) -> io::Result<()> {
        let mut chunk = vec![0; 64 << 10];
        let mut at = header.l1_offset;
        let mut left = 8 * header.l1_entries;
        while left > 0 {
            let count = super::narrow(left).min(chunk.len());
            file.read(at, &mut chunk[..count])?;
            for entry in chunk[..count].chunks_exact(8) {
                let table = be64(entry, 0).unwrap_or(0) & super::entry::OFFSET;
                if table != 0 {
                    self.tables.insert(table);
                }
            }
            at += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// The snapshot table, and the L1 tables that it names ("Snapshots").
    fn find_snapshots(&mut self, header: &Header, file: &dyn Storage) -> io::Result<()> {
        let start = header.counts.snapshots_offset;
        let mut at = start;
        for _ in 0..header.counts.snapshots.min(MOST_SNAPSHOTS) {
            let mut entry = [0; SNAPSHOT];
            if file.read(at, &mut entry)? < SNAPSHOT {
                return Err(corrupt("its snapshot table is not within the file"));
            }
            let field = |at| u64::from(be32(&entry, at).unwrap_or(0));
            let names = field(12);
            // Two lengths of 16 bits.
            let (id, name) = (names >> 16, names & 0xffff);
            let l1 = be64(&entry, 0).unwrap_or(0);
            self.fixed.push(l1..l1.saturating_add(8 * field(8)));
            let length = SNAPSHOT as u64 + field(36) + id + name;
            at = at.saturating_add(length.next_multiple_of(8));
        }
        if at > start {
            self.fixed.push(start..at);
        }
        Ok(())
    }
}
