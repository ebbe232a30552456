//! Another size, while lanes are open.

use std::io;

use super::flush::Turn;
use super::narrow;
use super::owner::{Owner, longest_l1};
use super::read::Qcow2;
use super::write::Clear;

/// Where the header has the size of the disk.
const SIZE_FIELD: u64 = 24;
/// Where it has the number of entries of the L1 table, followed by where that is.
const L1_FIELD: u64 = 36;

impl Qcow2 {
    /// Changes the size of the disk, in bytes. What is new reads as zero, whatever is behind the image or was there
    /// before.
    ///
    /// # Errors
    /// If the image cannot have this size, or cannot be written. The size is the old one then.
    pub(crate) fn resize(&self, new: u64) -> io::Result<()> {
        let header = self.map().header();
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if new == 0 || !new.is_multiple_of(512) || i64::try_from(new).is_err() {
            return refuse("the size of a disk is a number of sectors of 512 bytes");
        }
        if header.version == 2 && header.counts.snapshots > 0 {
            return refuse("an image of version 2 with snapshots has one size for all of them");
        }
        if new.div_ceil(header.span()) * 8 > longest_l1() {
            return refuse(
                "the L1 table for this size would have more than 32 MiB; larger clusters need less",
            );
        }
        let old = self.map().size();
        if new < old {
            self.shrink(new, old)
        } else {
            self.grow(new, old)
        }
    }

    fn grow(&self, new: u64, old: u64) -> io::Result<()> {
        let header = self.map().header();
        let entries = new.div_ceil(header.span());
        self.change_alone(|image, owner, turn| image.grow_l1(owner, turn, entries))?;
        if header.external_data.is_some() && self.data.length() < new {
            self.data.set_length(new)?;
        }
        // What is in the last cluster behind the old end was never the guest's.
        let cluster_end = old.next_multiple_of(header.cluster()).min(new);
        if cluster_end > old {
            self.clear_tail(old, cluster_end)?;
        }
        let mut at = cluster_end;
        while at < new {
            at += self.clear(at, new - at, Clear::Zero { unmap: true })?;
        }
        self.flush()?;
        self.set_size(new)
    }

    /// Writes zeros to a part of a cluster, unless nothing is there.
    fn clear_tail(&self, from: u64, to: u64) -> io::Result<()> {
        let (cluster, _) = self.map().cluster(from)?;
        let all = u32::MAX >> (32 - self.map().header().parts());
        let is_empty = cluster.packed.is_none() && cluster.allocated == 0;
        if is_empty && (cluster.zero == all || self.backing_ends_before(from)) {
            return Ok(());
        }
        self.write(from, &vec![0; narrow(to - from)])
    }

    fn shrink(&self, new: u64, old: u64) -> io::Result<()> {
        let header = self.map().header();
        // First the size: what is given up afterwards is nobody's.
        self.flush()?;
        self.set_size(new)?;
        let mut at = new.next_multiple_of(header.cluster());
        while at < old {
            at += self.clear(at, old - at, Clear::Discard)?;
        }
        self.flush()?;
        if header.external_data.is_some() {
            self.data.set_length(new)?;
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.change(|image, _| {
            image.file.write(SIZE_FIELD, &size.to_be_bytes())?;
            image.file.flush()?;
            image.map().set_size(size);
            Ok(())
        })
    }

    /// Makes the L1 table longer: a new one at the end of the file, then the header points to it.
    fn grow_l1(&self, owner: &mut Owner, turn: &Turn<'_>, entries: u64) -> io::Result<()> {
        let header = self.map().header();
        let (offset, old) = self.map().l1();
        if entries <= old {
            return Ok(());
        }
        let writer = self.writer()?;
        // What is in memory of the old table is in the file then, and the new table's refcounts are before it is used.
        let clusters = (8 * entries).div_ceil(header.cluster());
        let room = owner.refcounts.allocate_many(clusters)?;
        writer.flush_as_owner(turn, owner, self.map(), &*self.file, &*self.data)?;
        let mut table = vec![0; narrow(clusters * header.cluster())];
        self.file.read(offset, &mut table[..narrow(8 * old)])?;
        self.file.write(room.offset, &table)?;
        self.file.flush()?;
        // Both fields are in one sector, and so change together.
        let mut field = [0; 12];
        let count = u32::try_from(entries).unwrap_or(u32::MAX);
        field[..4].copy_from_slice(&count.to_be_bytes());
        field[4..].copy_from_slice(&room.offset.to_be_bytes());
        self.file.write(L1_FIELD, &field)?;
        self.file.flush()?;
        self.map().set_l1(room.offset, entries);
        owner.set_l1(room.offset, entries);
        let old_clusters = (8 * old).div_ceil(header.cluster());
        owner.free(
            writer.epochs.now(),
            offset >> header.cluster_bits,
            old_clusters,
        );
        writer.epochs.end();
        Ok(())
    }
}
