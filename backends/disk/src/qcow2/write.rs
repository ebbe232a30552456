//! Changes that the thread waits for: whatever is not a transfer to a place that is there already.

use std::io;

use super::entry::{Cluster, Packed, Place, parts_between};
use super::flush::Turn;
use super::owner::{Owner, Writer, mark};
use super::read::Qcow2;
use super::refcounts::Room;
use super::{corrupt, narrow};

/// What becomes of bytes that are not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// They may read as anything.
    Discard,
    /// They read as zero; `unmap` gives their room back.
    Zero { unmap: bool },
}

/// What is done to a cluster that parts are cleared of.
struct Cleared<'a> {
    at: u64,
    /// The parts that are cleared.
    parts: u32,
    how: Clear,
    old: &'a Cluster,
}

impl Qcow2 {
    /// What is needed to change the image.
    ///
    /// # Errors
    /// If it was opened for reading only.
    pub(crate) fn writer(&self) -> io::Result<&Writer> {
        let refused = || io::Error::from_raw_os_error(libc::EROFS);
        self.writer.as_ref().ok_or_else(refused)
    }

    /// Changes something as the owner, and deals with what goes wrong.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&Self, &mut Owner) -> io::Result<T>,
    ) -> io::Result<T> {
        let writer = self.writer()?;
        let mut owner = writer.lock();
        self.damage.refuse_changes()?;
        if writer.is_full(&owner, self.map()) {
            drop(owner);
            self.flush()?;
            owner = writer.lock();
        }
        if owner.refcounts.is_short() {
            drop(owner);
            return self.change_alone(|image, owner, _| change(image, owner));
        }
        self.change_now(&mut owner, change)
    }

    /// As [`Qcow2::change`], and nobody flushes meanwhile.
    pub(crate) fn change_alone<T>(
        &self,
        change: impl FnOnce(&Self, &mut Owner, &Turn<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let writer = self.writer()?;
        let turn = writer.turn();
        self.change_now(&mut writer.lock(), |image, owner| {
            change(image, owner, &turn)
        })
    }

    fn change_now<T>(
        &self,
        owner: &mut Owner,
        change: impl FnOnce(&Self, &mut Owner) -> io::Result<T>,
    ) -> io::Result<T> {
        self.damage.refuse_changes()?;
        self.writer()?.set_changed();
        let result = change(self, owner);
        if let Err(error) = &result {
            self.note_as_owner(owner, error);
        }
        result
    }

    /// Deals with an error of any request: an image that contradicts itself is not written any more, and says so.
    pub(crate) fn note(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::InvalidData || self.damage.found().is_some() {
            return;
        }
        match &self.writer {
            None => {
                self.damage.note(error);
            }
            Some(writer) => self.note_as_owner(&writer.lock(), error),
        }
    }

    /// As [`Qcow2::note`]; only the owner writes to the header.
    fn note_as_owner(&self, _: &Owner, error: &io::Error) {
        if self.damage.note(error) {
            mark(self.map().header(), &*self.file);
        }
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// If that fails.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let writer = self.writer()?;
        let turn = writer.turn();
        self.damage.refuse_changes()?;
        let result = writer.flush(&turn, self.map(), &*self.file, &*self.data);
        if let Err(error) = &result {
            self.note(error);
        }
        result
    }

    /// Brings to the file what is in memory only, also what a first flush leaves.
    ///
    /// # Errors
    /// If that fails.
    pub(crate) fn settle(&self) -> io::Result<()> {
        for _ in 0..3 {
            if !self.writer.as_ref().is_some_and(Writer::is_changed) {
                return Ok(());
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Writes bytes that are in one cluster, wherever that is.
    ///
    /// # Errors
    /// If there is no room, a file cannot be written, or the image is broken.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(|image, owner| image.write_cluster(owner, at, bytes))
    }

    fn write_cluster(&self, owner: &mut Owner, at: u64, bytes: &[u8]) -> io::Result<()> {
        let header = self.map().header();
        let (cluster, part) = (header.cluster(), header.part());
        let within = at % cluster;
        let end = within + bytes.len() as u64;
        let entry = self.own_table(owner, at)? + header.entry_offset(at);
        let (old, _) = self.map().cluster(at)?;
        let mut parts = parts_between(header, within, end);
        let own = self.own_host(owner, at, &old)?;
        if let Some(host) = own
            && old.allocated & parts == parts
        {
            self.data.write(host + within, bytes)?;
            return self.make_own(entry, &old);
        }
        let room = match own {
            Some(offset) => Room {
                offset,
                is_blank: false,
            },
            None => self.room(owner, at)?,
        };
        let mut span = within / part * part..end.next_multiple_of(part);
        if own.is_none() && (old.packed.is_some() || old.allocated != 0) {
            span = 0..cluster;
            parts = match old.packed {
                Some(_) => u32::MAX >> (32 - header.parts()),
                None => old.allocated | parts,
            };
        }
        let start = at - within + span.start;
        let skip = narrow(within - span.start);
        let length = narrow(span.end - span.start);
        let written = self.fill(room, start, length, skip, bytes);
        let new = Cluster {
            host: Some(room.offset),
            copied: true,
            packed: None,
            allocated: old.allocated | parts,
            zero: old.zero & !parts,
        };
        let result = written.and_then(|()| self.map().set_cluster(entry, &new, true));
        if result.is_err() && own.is_none() && header.external_data.is_none() {
            owner.refcounts.undo(room.offset)?;
        }
        result?;
        if own.is_none() {
            self.give_up(owner, &old)?;
        }
        Ok(())
    }

    /// The entry's data can be written where it is from now on, by all lanes.
    fn make_own(&self, entry: u64, old: &Cluster) -> io::Result<()> {
        if old.copied {
            self.map().set_own(entry);
            return Ok(());
        }
        let new = Cluster {
            copied: true,
            ..*old
        };
        self.map().set_cluster(entry, &new, true)
    }

    /// Writes `bytes`, which are `skip` behind `start` on the disk, and around them what the disk has there, `length`
    /// bytes in all.
    fn fill(
        &self,
        room: Room,
        start: u64,
        length: usize,
        skip: usize,
        bytes: &[u8],
    ) -> io::Result<()> {
        let header = self.map().header();
        let host = room.offset + start % header.cluster();
        let behind = skip + bytes.len();
        // What is read may be another image: what is wrong with that is not wrong with this one.
        let other = |error: io::Error| io::Error::other(error);
        let zeros = |from: usize, to: usize| -> io::Result<bool> {
            self.is_zero(start + from as u64, (to - from) as u64)
        };
        if room.is_blank
            && zeros(0, skip).map_err(other)?
            && zeros(behind, length).map_err(other)?
        {
            return self.data.write(host + skip as u64, bytes);
        }
        let mut all = vec![0; length];
        all[skip..behind].copy_from_slice(bytes);
        self.read(start, &mut all[..skip]).map_err(other)?;
        self.read(start + behind as u64, &mut all[behind..])
            .map_err(other)?;
        if header.external_data.is_some() {
            // The data file ends where the disk does.
            let there = self.data.length().saturating_sub(host);
            all.truncate(usize::try_from(there).unwrap_or(usize::MAX));
        }
        self.data.write(host, &all)
    }

    /// Whether bytes of the disk are zeros, as far as the tables say.
    pub(crate) fn is_zero(&self, start: u64, length: u64) -> io::Result<bool> {
        let end = (start + length).min(self.map().size());
        let mut at = start;
        while at < end {
            let (place, count) = self.map().find(at, end - at)?;
            match place {
                Place::Zero => {}
                Place::Unallocated if self.backing_ends_before(at) => {}
                _ => return Ok(false),
            }
            at += count;
        }
        Ok(true)
    }

    /// Room for a cluster.
    fn room(&self, owner: &mut Owner, at: u64) -> io::Result<Room> {
        let header = self.map().header();
        if header.external_data.is_none() {
            return owner.allocate();
        }
        // Where the disk has it, so that the file can be read as a raw image.
        let offset = at - at % header.cluster();
        let end = (offset + header.cluster()).min(self.map().size());
        if end > self.data.length() {
            self.data.set_length(end)?;
        }
        Ok(Room {
            offset,
            is_blank: false,
        })
    }

    /// Where the cluster's data is, if it can be written there.
    fn own_host(&self, owner: &mut Owner, at: u64, cluster: &Cluster) -> io::Result<Option<u64>> {
        let header = self.map().header();
        let Some(host) = cluster.host else {
            return Ok(None);
        };
        if header.external_data.is_some() {
            let room = self.room(owner, at)?;
            if room.offset != host {
                return Err(corrupt(format!(
                    "the data at {host:#x} of the data file is not where the disk has it"
                )));
            }
            return Ok(Some(host));
        }
        if owner.is_table(host) {
            return Err(corrupt(format!(
                "the data at {host:#x} is where tables are"
            )));
        }
        match owner.refcounts.get(host >> header.cluster_bits)? {
            0 => Err(corrupt(format!(
                "the data at {host:#x} has a refcount of 0"
            ))),
            1 if host >= self.file.length() => Err(corrupt(format!(
                "data at {host:#x} is behind the end of the file"
            ))),
            1 => {
                // The last cluster of a file may be there in part.
                owner.refcounts.reach(host + header.cluster())?;
                Ok(Some(host))
            }
            _ => Ok(None),
        }
    }

    /// The L2 table for a byte of the disk, made or copied if that is needed to change it.
    fn own_table(&self, owner: &mut Owner, at: u64) -> io::Result<u64> {
        let header = self.map().header();
        let root = self.map().root(at)?;
        let shared = match root.table {
            None => None,
            Some(table) => match owner.refcounts.get(table >> header.cluster_bits)? {
                0 => {
                    return Err(corrupt(format!(
                        "the L2 table at {table:#x} has a refcount of 0"
                    )));
                }
                1 => {
                    if !root.copied {
                        self.map().set_root(at, table)?;
                    }
                    return Ok(table);
                }
                _ => Some(table),
            },
        };
        let room = owner.allocate()?;
        let result = self.begin_table(room, shared);
        let result = result.and_then(|()| self.map().set_root(at, room.offset));
        if let Err(error) = result {
            owner.refcounts.undo(room.offset)?;
            return Err(error);
        }
        owner.add_table(room.offset);
        if let Some(table) = shared {
            owner.remove_table(table);
            self.free(owner, table >> header.cluster_bits, 1)?;
        }
        Ok(room.offset)
    }

    /// Makes the first contents of a table: those of another one, or nothing.
    fn begin_table(&self, room: Room, copied: Option<u64>) -> io::Result<()> {
        let cluster = self.map().header().cluster();
        self.map().forget(room.offset, cluster);
        match copied {
            Some(table) => {
                let mut bytes = vec![0; narrow(cluster)];
                if self.file.read(table, &mut bytes)? < bytes.len() {
                    return Err(corrupt(format!(
                        "the L2 table at {table:#x} reaches behind the end of the file"
                    )));
                }
                self.file.write(room.offset, &bytes)
            }
            None if room.is_blank => Ok(()),
            None => self.file.zero(room.offset, cluster),
        }
    }

    /// Remembers that nothing points to clusters any more.
    fn free(&self, owner: &mut Owner, first: u64, count: u64) -> io::Result<()> {
        let writer = self.writer()?;
        owner.free(writer.epochs.now(), first, count);
        Ok(())
    }

    /// Remembers that nothing points to what an entry did.
    fn give_up(&self, owner: &mut Owner, old: &Cluster) -> io::Result<()> {
        let header = self.map().header();
        let bits = header.cluster_bits;
        if let Some(Packed { offset, length }) = old.packed {
            let last = offset + (length as u64).saturating_sub(1);
            let first = offset >> bits;
            self.free(owner, first, (last >> bits) - first + 1)?;
        } else if let Some(host) = old.host
            && header.external_data.is_none()
        {
            self.free(owner, host >> bits, 1)?;
        }
        // Transfers that begin now do not find it any more.
        self.map().end_generation();
        self.writer()?.epochs.end();
        Ok(())
    }

    /// Clears bytes: whole parts of clusters, or up to the end of the disk. How many of them are done, from the first
    /// on: at least one.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub(crate) fn clear(&self, at: u64, length: u64, how: Clear) -> io::Result<u64> {
        let header = self.map().header();
        let span_left = header.span() - at % header.span();
        let no_table = self.map().root(at)?.table.is_none();
        if no_table && (how == Clear::Discard || self.backing_ends_before(at)) {
            return Ok(length.min(span_left));
        }
        let count = length.min(header.cluster() - at % header.cluster());
        self.change(|image, owner| image.clear_cluster(owner, at, count, how))?;
        Ok(count)
    }

    fn clear_cluster(&self, owner: &mut Owner, at: u64, count: u64, how: Clear) -> io::Result<()> {
        let header = self.map().header();
        let within = at % header.cluster();
        let parts = parts_between(header, within, within + count);
        let (old, _) = self.map().cluster(at)?;
        let cleared = Cleared {
            at,
            parts,
            how,
            old: &old,
        };
        let Some(new) = self.cleared(&cleared)? else {
            // What cannot be said with an entry.
            return match how {
                Clear::Discard => Ok(()),
                Clear::Zero { .. } => self.write_cluster(owner, at, &vec![0; narrow(count)]),
            };
        };
        if let Some(host) = old.host
            && header.external_data.is_some()
            && old.allocated & parts != 0
        {
            // The data file is what it would be as a raw image.
            let there = self.data.length().saturating_sub(host + within);
            self.data.zero(host + within, count.min(there))?;
        }
        if new == old {
            return Ok(());
        }
        let entry = self.own_table(owner, at)? + header.entry_offset(at);
        self.map().set_cluster(entry, &new, false)?;
        self.map().end_generation();
        if old.packed.is_some() || new.host != old.host {
            self.give_up(owner, &old)?;
        }
        Ok(())
    }

    /// What an entry says after parts of it were cleared, if that can be said.
    fn cleared(&self, cleared: &Cleared<'_>) -> io::Result<Option<Cluster>> {
        let header = self.map().header();
        let &Cleared {
            at,
            parts,
            how,
            old,
        } = cleared;
        let all = u32::MAX >> (32 - header.parts());
        let is_bare = self.backing_ends_before(at - at % header.cluster());
        if old.packed.is_some() && parts != all {
            return Ok(None);
        }
        let mut new = Cluster {
            packed: None,
            ..*old
        };
        if header.external_data.is_some() && old.allocated & parts == parts {
            // Zeros in the data file are zeros.
            return Ok(Some(new));
        }
        let keeps = how == Clear::Zero { unmap: false } || header.external_data.is_some();
        new.allocated &= !parts;
        new.zero |= parts;
        if how == Clear::Discard && old.packed.is_none() {
            // What was never written may stay so.
            new.zero &= old.allocated | old.zero | !parts;
        }
        if new.allocated == 0 && !keeps {
            new.host = None;
            new.copied = false;
        }
        if is_bare && (new.host.is_none() || header.extended_l2) {
            new.zero = 0;
        }
        if new.zero != 0 && !header.has_zero_flag() {
            // Version 2 cannot say it, but what is behind nothing is zero too.
            if !is_bare {
                return Ok(None);
            }
            (new.host, new.copied, new.zero) = (None, false, 0);
        }
        Ok(Some(new))
    }
}
