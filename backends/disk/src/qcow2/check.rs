//! Looks whether an image is what it should be.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::entry::{COPIED, Cluster, OFFSET, Packed};
use super::header::{Header, be32, be64};
use super::refcounts::Refcounts;
use super::{corrupt, narrow};
use crate::storage::Storage;

/// Clusters whose users are counted together.
const CHUNK: u64 = 4096;
/// The most findings that are kept in words.
const MOST_WORDS: usize = 20;
/// The longest L1 table that is looked at, in bytes.
const LONGEST_L1: u64 = 32 << 20;
/// Bytes of an entry of the snapshot table before what has no fixed length.
const SNAPSHOT: usize = 40;
const MOST_SNAPSHOTS: u32 = 65536;
/// The most chunks of clusters whose users are counted: 16 KiB each. Clusters of 64 KiB up to 16 TiB are in them.
const MOST_CHUNKS: usize = 65536;
/// Bytes of tables that are looked at: images can be made whose snapshots all have the same long tables.
const LONGEST_WALK: u64 = 64 << 30;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// What is wrong, and can lose data.
    pub(crate) errors: u64,
    /// Clusters that count as used more often than they are.
    pub(crate) leaks: u64,
    /// Clusters that have data of the disk.
    pub(crate) data: u64,
    /// The first findings.
    pub(crate) words: Vec<String>,
}

impl Report {
    fn error(&mut self, what: String) {
        self.errors += 1;
        if self.words.len() < MOST_WORDS {
            self.words.push(what);
        }
    }
}

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
    report: Report,
    /// Bytes of tables that may still be looked at.
    left: u64,
}

/// Checks an image that nobody changes meanwhile.
///
/// # Errors
/// If it cannot be read, or is so wrong that it cannot be looked at.
pub(crate) fn check(header: &Header, storage: &Arc<dyn Storage>) -> io::Result<Report> {
    let mut check = Check {
        header,
        storage: &**storage,
        refcounts: Refcounts::open(header, Arc::clone(storage))?,
        users: Users::default(),
        report: Report::default(),
        left: LONGEST_WALK,
    };
    check.walk()?;
    check.compare()?;
    Ok(check.report)
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
        self.l1(header.l1_offset, header.l1_entries, true)?;
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
            self.report.error(format!(
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

    fn l1(&mut self, offset: u64, entries: u64, is_active: bool) -> io::Result<()> {
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
        for entry in table.chunks_exact(8).filter_map(|entry| be64(entry, 0)) {
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            if !at.is_multiple_of(self.header.cluster()) {
                self.report
                    .error(format!("the L1 entry {entry:#x} is not that of a cluster"));
                continue;
            }
            self.range(at, self.header.cluster(), "an L2 table");
            self.flag(at, entry & COPIED != 0, is_active)?;
            self.spend(self.header.cluster())?;
            l2.fill(0);
            self.storage.read(at, &mut l2)?;
            self.l2(&l2, is_active)?;
        }
        Ok(())
    }

    fn l2(&mut self, table: &[u8], is_active: bool) -> io::Result<()> {
        let header = self.header;
        for entry in table.chunks_exact(narrow(header.entry_size())) {
            let (first, parts) = (be64(entry, 0).unwrap_or(0), be64(entry, 8).unwrap_or(0));
            let cluster = match Cluster::parse(header, first, parts) {
                Ok(cluster) => cluster,
                Err(error) => {
                    self.report.error(error.to_string());
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
                self.report.data += 1;
            } else if let Some(host) = cluster.host
                && header.external_data.is_none()
            {
                self.range(host, header.cluster(), "data");
                self.flag(host, cluster.copied, is_active)?;
                self.report.data += 1;
            }
        }
        Ok(())
    }

    /// In the active tables the flag says that the refcount is 1.
    fn flag(&mut self, offset: u64, copied: bool, is_active: bool) -> io::Result<()> {
        let refcount = self.refcounts.get(offset >> self.header.cluster_bits)?;
        if is_active && copied != (refcount == 1) {
            self.report.error(format!(
                "what is at {offset:#x} has a refcount of {refcount}, and its entry the wrong flag for that"
            ));
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
            self.l1(be64(&entry, 0).unwrap_or(0), field(8), false)?;
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

    /// Compares what was counted with what the image says.
    fn compare(&mut self) -> io::Result<()> {
        let chunks: Vec<u64> = self.users.0.keys().copied().collect();
        for cluster in chunks
            .iter()
            .flat_map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK)
        {
            let (users, refcount) = (self.users.get(cluster), self.refcounts.get(cluster)?);
            if users > refcount {
                self.report.error(format!(
                    "cluster {cluster:#x} is used {users} times, and its refcount is {refcount}"
                ));
            }
        }
        for first in self.refcounts.covered() {
            for cluster in first..first + self.refcounts.per_block() {
                if self.refcounts.get(cluster)? > self.users.get(cluster) {
                    self.report.leaks += 1;
                }
            }
        }
        Ok(())
    }
}
