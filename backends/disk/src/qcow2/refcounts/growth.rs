//! Clusters in a row, and a longer refcount table: both are at the end of the file.

use std::io;

use super::{LONGEST_TABLE, Refcounts, Room, Stage, TABLE_FIELD, full, narrow};

impl Refcounts {
    /// Gives out clusters that follow each other, at the end of the file.
    ///
    /// # Errors
    /// As [`Refcounts::allocate`].
    pub(crate) fn allocate_many(&mut self, count: u64) -> io::Result<Room> {
        let first = self
            .storage
            .length()
            .div_ceil(self.cluster())
            .max(self.blank);
        let blocks = self.blocks_before(first, count);
        let end = first + blocks + count;
        if end.div_ceil(self.per_block()) > self.table.len() as u64 {
            self.grow_table(count)?;
            return self.allocate_many(count);
        }
        let mut next = first;
        for index in first / self.per_block()..end.div_ceil(self.per_block()) {
            if self.table[narrow(index)] == 0 {
                let room = self.take(next)?;
                self.blank_out(room)?;
                self.enter(index, room.offset);
                next += 1;
            }
        }
        for cluster in first..next {
            self.set(cluster, 1)?;
        }
        let start = next << self.cluster_bits;
        let mut is_blank = true;
        for cluster in next..next + count {
            is_blank &= self.take(cluster)?.is_blank;
            self.set(cluster, 1)?;
        }
        Ok(Room {
            offset: start,
            is_blank,
        })
    }

    /// Number of blocks that are needed for `count` clusters and themselves, from cluster `first` on.
    fn blocks_before(&self, first: u64, count: u64) -> u64 {
        let mut blocks = 0;
        loop {
            let end = first + blocks + count;
            let range = first / self.per_block()..end.div_ceil(self.per_block());
            let absent = |index: &u64| {
                self.table
                    .get(narrow(*index))
                    .is_none_or(|entry| *entry == 0)
            };
            let needed = range.filter(absent).count() as u64;
            if needed <= blocks {
                return blocks;
            }
            blocks = needed;
        }
    }

    /// Makes the table longer: a new one at the end of the file, then the header points to it. There is room for
    /// `count` clusters more then.
    pub(super) fn grow_table(&mut self, count: u64) -> io::Result<()> {
        let cluster = self.cluster();
        let first = self.storage.length().div_ceil(cluster).max(self.blank);
        let old_clusters = 8 * self.table.len() as u64 / cluster;
        let mut clusters = old_clusters;
        let mut blocks;
        loop {
            clusters += clusters.div_ceil(2).max(1);
            // Before anything is counted: a sparse file can have any length.
            if clusters * cluster > LONGEST_TABLE {
                return Err(full("its refcount table would have more than 8 MiB"));
            }
            blocks = self.blocks_before(first, clusters + count);
            let end = first + blocks + clusters + count;
            if end.div_ceil(self.per_block()) <= clusters * cluster / 8 {
                break;
            }
        }
        // All counts that there are, and the blocks that the new table brings: before the table that points to them.
        let (old, known) = (self.table.clone(), self.known.clone());
        self.table.resize(narrow(clusters * cluster / 8), 0);
        let result = self.move_table(first, blocks, clusters);
        if result.is_err() {
            (self.table, self.known) = (old, known);
            return result;
        }
        let old_offset = self.table_offset;
        self.table_offset = (first + blocks) << self.cluster_bits;
        self.changed.clear();
        for number in 0..old_clusters {
            self.release((old_offset >> self.cluster_bits) + number)?;
        }
        Ok(())
    }

    fn move_table(&mut self, first: u64, blocks: u64, clusters: u64) -> io::Result<()> {
        let behind = first + blocks + clusters;
        let mut next = first;
        for index in first / self.per_block()..behind.div_ceil(self.per_block()) {
            if self.table[narrow(index)] == 0 {
                let room = self.take(next)?;
                self.blank_out(room)?;
                self.table[narrow(index)] = room.offset;
                self.known.insert(room.offset);
                next += 1;
            }
        }
        for cluster in first..next {
            self.set(cluster, 1)?;
        }
        for cluster in first + blocks..behind {
            self.take(cluster)?;
            self.set(cluster, 1)?;
        }
        let offset = (first + blocks) << self.cluster_bits;
        let bytes: Vec<u8> = self
            .table
            .iter()
            .flat_map(|entry| entry.to_be_bytes())
            .collect();
        self.storage.write(offset, &bytes)?;
        // Nobody flushes now: what is written here is not overwritten by what it was before.
        let blocks = self.blocks.begin_write(Stage::First);
        let write = || {
            for (at, bytes) in &blocks {
                self.storage.write(*at, bytes)?;
            }
            self.storage.flush()
        };
        let result = write();
        self.blocks.end_write(Stage::First, result.is_ok());
        result?;
        // Both fields are in one sector, and so change together.
        let mut field = [0; 12];
        field[..8].copy_from_slice(&offset.to_be_bytes());
        let clusters =
            u32::try_from(clusters).map_err(|_| full("its refcount table is too long"))?;
        field[8..].copy_from_slice(&clusters.to_be_bytes());
        self.storage.write(TABLE_FIELD, &field)?;
        self.storage.flush()
    }
}
