//! Looks whether an image is what it should be.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::entry::{COMPRESSED, COPIED, Cluster, OFFSET, Packed};
use super::header::{CORRUPT, DIRTY, Header, LONGEST_HEAD, be32, be64};
use super::owner::{INCOMPATIBLE_FIELD, RAW_DATA};
use super::refcounts::Refcounts;
use super::{corrupt, narrow};
use crate::storage::Storage;
use crate::tools::Findings;

/// Clusters whose users are counted together.
const CHUNK: u64 = 4096;
/// The longest L1 table that is looked at, in bytes.
const LONGEST_L1: u64 = 32 << 20;
/// Bytes of an entry of the snapshot table before what has no fixed length.
const SNAPSHOT: usize = 40;
const MOST_SNAPSHOTS: u32 = 65536;
/// The most chunks of clusters whose users are counted: 16 KiB each. Clusters of 64 KiB up to 16 TiB are in them.
const MOST_CHUNKS: usize = 65536;
/// Bytes of tables that are looked at: images can be made whose snapshots all have the same long tables.
const LONGEST_WALK: u64 = 64 << 30;

/// How often each cluster is used, as far as any is.
#[derive(Default)]
struct Users(BTreeMap<u64, Vec<u32>>);

impl Users {
    fn add(&mut self, cluster: u64) {
        let chunk = self.0.entry(cluster / CHUNK);
        let chunk = chunk.or_insert_with(|| vec![0; narrow(CHUNK)]);
        let users = &mut chunk[narrow(cluster % CHUNK)];
        *users = users.saturating_add(1);
    }

    fn get(&self, cluster: u64) -> u64 {
        let chunk = self.0.get(&(cluster / CHUNK));
        chunk.map_or(0, |chunk| chunk[narrow(cluster % CHUNK)].into())
    }
}

/// A check that is going on.
struct Check<'a> {
    header: &'a Header,
    storage: &'a dyn Storage,
    refcounts: Refcounts,
    users: Users,
    found: Findings,
    repair: bool,
    /// Bytes of tables that may still be looked at.
    left: u64,
    progress: &'a mut dyn FnMut(u64, u64),
    /// Entries of L1 tables that were looked at: each of the active table twice, each of the others once.
    done: u64,
}

/// Looks for contradictions, and with `repair` makes refcounts, and the flags that follow from them, what the tables
/// ask for. Nobody changes the image meanwhile. Files that it names are not opened. `progress` gets how many entries of
/// L1 tables were looked at, and how many there are as far as is known.
///
/// # Errors
/// Why the image cannot be looked at, in words.
pub(crate) fn check_telling(
    storage: &Arc<dyn Storage>,
    repair: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Findings, String> {
    let words = |error: io::Error| error.to_string();
    let header = read_header(&**storage)?;
    if repair && header.counts.autoclear & !RAW_DATA != 0 {
        return Err("it has bitmaps or other things that are not known here, whose clusters a repair would lose; \
                    qemu-img check -r all repairs it"
            .into());
    }
    let mut check = Check {
        refcounts: Refcounts::open(&header, Arc::clone(storage)).map_err(words)?,
        header: &header,
        storage: &**storage,
        users: Users::default(),
        found: Findings::default(),
        repair,
        left: LONGEST_WALK,
        progress,
        done: 0,
    };
    check.walk().map_err(words)?;
    check.compare().map_err(words)?;
    check.flags().map_err(words)?;
    check.marks().map_err(words)?;
    Ok(check.found)
}

/// As [`check_telling`], for who does not wait.
#[cfg(test)]
pub(crate) fn check(storage: &Arc<dyn Storage>, repair: bool) -> Result<Findings, String> {
    check_telling(storage, repair, &mut |_, _| {})
}

/// The header of an image.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn read_header(storage: &dyn Storage) -> Result<Header, String> {
    let length = storage.length();
    let mut head = vec![0; narrow(length).min(LONGEST_HEAD)];
    let count = storage
        .read(0, &mut head)
        .map_err(|error| error.to_string())?;
    head.truncate(count);
    Header::parse(&head, length)
}

impl Check<'_> {
    fn walk(&mut self) -> io::Result<()> {
        self.range(0, 1, "the header");
        let header = self.header;
        let (table, bytes) = self.refcounts.table();
        self.range(table, bytes, "the refcount table");
        for block in self.refcounts.block_offsets() {
            self.range(block, header.cluster(), "a block of refcounts");
        }
        self.l1(header.l1_offset, header.l1_entries)?;
        self.snapshots()
    }

    /// Counts a user of each cluster from `offset` on.
    fn range(&mut self, offset: u64, length: u64, what: &str) {
        let bits = self.header.cluster_bits;
        let end = offset.saturating_add(length);
        let behind = self
            .storage
            .length()
            .next_multiple_of(self.header.cluster());
        if end > behind {
            self.found.error(format!(
                "{what} at {offset:#x} is behind the end of the file"
            ));
            return;
        }
        for cluster in offset >> bits..end.div_ceil(self.header.cluster()) {
            self.users.add(cluster);
        }
    }

    /// Takes part of what may be looked at.
    fn spend(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| corrupt("its tables are made to be looked at without end"))?;
        match self.users.0.len() > MOST_CHUNKS {
            true => Err(corrupt(
                "its clusters are too many, or too far from each other, to be counted",
            )),
            false => Ok(()),
        }
    }

    fn l1(&mut self, offset: u64, entries: u64) -> io::Result<()> {
        let length = entries.saturating_mul(8);
        self.spend(length)?;
        if length > LONGEST_L1 {
            return Err(corrupt(format!(
                "an L1 table of {entries} entries is too long"
            )));
        }
        self.range(offset, length, "an L1 table");
        let mut table = vec![0; narrow(length)];
        self.storage.read(offset, &mut table)?;
        let mut l2 = vec![0; narrow(self.header.cluster())];
        let ahead = entries + self.header.l1_entries;
        let all = self.done + ahead;
        for entry in table.chunks_exact(8).filter_map(|entry| be64(entry, 0)) {
            self.tell(all);
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            if !at.is_multiple_of(self.header.cluster()) {
                self.found
                    .error(format!("the L1 entry {entry:#x} is not that of a cluster"));
                continue;
            }
            self.range(at, self.header.cluster(), "an L2 table");
            self.spend(self.header.cluster())?;
            l2.fill(0);
            self.storage.read(at, &mut l2)?;
            self.l2(&l2);
        }
        Ok(())
    }

    /// One entry more of so many is done.
    fn tell(&mut self, all: u64) {
        self.done += 1;
        (self.progress)(self.done, all);
    }

    fn l2(&mut self, table: &[u8]) {
        let header = self.header;
        for entry in table.chunks_exact(narrow(header.entry_size())) {
            let (first, parts) = (be64(entry, 0).unwrap_or(0), be64(entry, 8).unwrap_or(0));
            let cluster = match Cluster::parse(header, first, parts) {
                Ok(cluster) => cluster,
                Err(error) => {
                    self.found.error(error.to_string());
                    continue;
                }
            };
            if let Some(Packed { offset, length }) = cluster.packed {
                let bits = header.cluster_bits;
                let last = (offset + length as u64 - 1) >> bits;
                // The file may end within the last sector.
                let end = self.storage.length().div_ceil(header.cluster());
                for number in (offset >> bits..=last).filter(|number| *number < end) {
                    self.users.add(number);
                }
                self.found.used += header.cluster();
            } else if let Some(host) = cluster.host {
                if header.external_data.is_none() {
                    self.range(host, header.cluster(), "data");
                }
                self.found.used += header.cluster();
            }
        }
    }

    /// In the active tables a flag says that the refcount is 1.
    fn flags(&mut self) -> io::Result<()> {
        let header = self.header;
        let mut l2 = vec![0; narrow(header.cluster())];
        let all = self.done + header.l1_entries;
        for number in 0..header.l1_entries {
            self.tell(all);
            let at = header.l1_offset + 8 * number;
            let mut entry = [0; 8];
            self.storage.read(at, &mut entry)?;
            let table = u64::from_be_bytes(entry) & OFFSET;
            if table == 0 || !table.is_multiple_of(header.cluster()) {
                continue;
            }
            if self.flag(&mut entry)? {
                self.storage.write(at, &entry)?;
            }
            if header.external_data.is_some() {
                continue;
            }
            l2.fill(0);
            self.storage.read(table, &mut l2)?;
            let mut changed = false;
            for entry in l2.chunks_exact_mut(narrow(header.entry_size())) {
                let first = be64(entry, 0).unwrap_or(0);
                if first & COMPRESSED == 0 && first & OFFSET != 0 {
                    changed |= self.flag(&mut entry[..8])?;
                }
            }
            if changed {
                self.storage.write(table, &l2)?;
            }
        }
        self.sync()
    }

    /// Looks at the flag of an entry; whether it was changed.
    fn flag(&mut self, entry: &mut [u8]) -> io::Result<bool> {
        let value = be64(entry, 0).unwrap_or(0);
        let offset = value & OFFSET;
        let refcount = self.refcounts.get(offset >> self.header.cluster_bits)?;
        if (value & COPIED != 0) == (refcount == 1) {
            return Ok(false);
        }
        let what = format!(
            "what is at {offset:#x} has a refcount of {refcount}, and its entry has the wrong flag for that"
        );
        if !self.repair {
            self.found.error(what);
            return Ok(false);
        }
        self.found.repaired(what);
        entry.copy_from_slice(&(value ^ COPIED).to_be_bytes());
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        match self.repair {
            true => self.storage.flush(),
            false => Ok(()),
        }
    }

    /// What the image says of itself.
    fn marks(&mut self) -> io::Result<()> {
        let features = self.header.counts.incompatible;
        for (bit, word) in [(DIRTY, "dirty"), (CORRUPT, "corrupt")] {
            if features & bit == 0 {
                continue;
            }
            let what = format!("it is marked as {word}");
            match self.repair && self.found.errors == 0 {
                true => self.found.repaired(what),
                false if bit == CORRUPT => self.found.error(what),
                false => self.found.note(what),
            }
        }
        let left = features & !(DIRTY | CORRUPT);
        if self.repair && self.found.errors == 0 && left != features {
            self.storage
                .write(INCOMPATIBLE_FIELD, &left.to_be_bytes())?;
            self.sync()?;
        }
        Ok(())
    }

    fn snapshots(&mut self) -> io::Result<()> {
        let counts = self.header.counts;
        let mut at = counts.snapshots_offset;
        for _ in 0..counts.snapshots.min(MOST_SNAPSHOTS) {
            let mut entry = [0; SNAPSHOT];
            if self.storage.read(at, &mut entry)? < SNAPSHOT {
                return Err(corrupt("the snapshot table is not within the file"));
            }
            let field = |at| u64::from(be32(&entry, at).unwrap_or(0));
            let (id, name) = (field(12) >> 16, field(12) & 0xffff);
            self.l1(be64(&entry, 0).unwrap_or(0), field(8))?;
            let length = SNAPSHOT as u64 + field(36) + id + name;
            at = at.saturating_add(length.next_multiple_of(8));
        }
        if at > counts.snapshots_offset {
            self.range(
                counts.snapshots_offset,
                at - counts.snapshots_offset,
                "the snapshot table",
            );
        }
        Ok(())
    }

    /// Compares what was counted with what the image says. Counts go up before they go down.
    fn compare(&mut self) -> io::Result<()> {
        let chunks: Vec<u64> = self.users.0.keys().copied().collect();
        for cluster in chunks
            .iter()
            .flat_map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK)
        {
            let (users, refcount) = (self.users.get(cluster), self.refcounts.get(cluster)?);
            if users <= refcount {
                continue;
            }
            let what = format!(
                "cluster {cluster:#x} is used {users} times, and its refcount is {refcount}"
            );
            match self.repair && self.refcounts.force(cluster, users)? {
                true => self.found.repaired(what),
                false => self.found.error(what),
            }
        }
        self.write_counts()?;
        let mut leaks = 0;
        for first in self.refcounts.covered() {
            for cluster in first..first + self.refcounts.per_block() {
                let users = self.users.get(cluster);
                if self.refcounts.get(cluster)? <= users {
                    continue;
                }
                // With errors it is not known what is used.
                match self.repair
                    && self.found.errors == 0
                    && self.refcounts.force(cluster, users)?
                {
                    true => leaks += 1,
                    false => self.found.leaked(self.header.cluster()),
                }
            }
            if self.refcounts.is_full() {
                self.write_counts()?;
            }
        }
        if leaks > 0 {
            self.found.repaired(format!(
                "{leaks} clusters counted as used more often than they are"
            ));
        }
        self.write_counts()
    }

    fn write_counts(&mut self) -> io::Result<()> {
        match self.repair && self.refcounts.is_changed() {
            true => self.refcounts.write(),
            false => Ok(()),
        }
    }
}
