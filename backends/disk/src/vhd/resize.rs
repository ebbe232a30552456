//! Other sizes.

use std::io;

use super::dynamic::Blocks;
use super::footer::FOOTER;
use super::header::{HEADER, Header, MOST_ENTRIES, table_length};
use super::image::{Owner, Vhd, stopped};
use super::{LARGEST, SECTOR};
use crate::mapped::{Mapping, Place, corrupt, impossible, narrow, read_all};

/// Entries of a table that are copied at a time, in bytes.
const PIECE: usize = 64 << 10;

impl Vhd {
    pub(super) fn change_size(&self, capacity: u64) -> io::Result<()> {
        if capacity > LARGEST {
            return Err(impossible(format!(
                "{capacity} bytes are more than a VHD can have, which is {LARGEST}"
            )));
        }
        let mut owner = self.owner();
        if owner.failed {
            return Err(stopped());
        }
        let before = self.capacity();
        let mut footer = owner.footer.clone();
        footer.set_size(capacity);
        let result = match &self.blocks {
            None => self.resize_fixed(&mut owner, before, capacity, footer),
            Some(blocks) => self.resize_dynamic(&mut owner, blocks, before, capacity, footer),
        };
        owner.sure(result)
    }

    fn resize_fixed(
        &self,
        owner: &mut Owner,
        before: u64,
        capacity: u64,
        footer: super::footer::Footer,
    ) -> io::Result<()> {
        let end = capacity + FOOTER as u64;
        if capacity > before {
            self.storage.set_length(end.max(self.storage.length()))?;
            self.storage.write(capacity, footer.bytes())?;
            self.storage.flush()?;
            // The old footer, and what may have been before it, is part of the disk now.
            let old_end = capacity.min(owner.footer_at + FOOTER as u64);
            self.storage.zero(before, old_end - before)?;
        } else {
            // The guest must not reach what is about to go.
            self.set_capacity(capacity);
            self.storage.write(capacity, footer.bytes())?;
        }
        self.storage.flush()?;
        self.storage.set_length(end)?;
        self.storage.flush()?;
        owner.footer = footer;
        owner.footer_at = capacity;
        self.set_capacity(capacity);
        Ok(())
    }

    fn resize_dynamic(
        &self,
        owner: &mut Owner,
        blocks: &Blocks,
        before: u64,
        capacity: u64,
        footer: super::footer::Footer,
    ) -> io::Result<()> {
        let (old, new) = (
            before.div_ceil(blocks.block),
            capacity.div_ceil(blocks.block),
        );
        if new > MOST_ENTRIES {
            return Err(impossible(format!(
                "{capacity} bytes are {new} blocks of {} bytes, more than {MOST_ENTRIES}",
                blocks.block
            )));
        }
        if new > blocks.entries() {
            self.move_table(owner, blocks, old, new)?;
        }
        match capacity < before {
            true => self.set_capacity(capacity),
            // The last block may have anything behind the end that the disk has had.
            false => self.forget_end(blocks, before, old)?,
        }
        owner.footer = footer;
        self.storage.write(owner.footer_at, owner.footer.bytes())?;
        self.storage.flush()?;
        self.storage.write(0, owner.footer.bytes())?;
        self.storage.flush()?;
        if capacity < before {
            self.forget_end(blocks, capacity, old)?;
        }
        self.set_capacity(capacity);
        Ok(())
    }

    /// What is behind the new end is zero if the disk grows again.
    fn forget_end(&self, blocks: &Blocks, capacity: u64, old: u64) -> io::Result<()> {
        let mut at = capacity;
        while !at.is_multiple_of(blocks.block) {
            let (place, count) = blocks.at(at)?;
            if let Place::Data(start) = place {
                self.storage.zero(start, count)?;
            }
            at += count;
        }
        for number in capacity.div_ceil(blocks.block)..old {
            if let Some(start) = blocks.start(number)? {
                blocks.set_start(number, None)?;
                blocks.forget_whole(number);
                // Nothing points there, but the space is given back.
                self.storage.punch(start, blocks.in_file())?;
            }
        }
        self.storage.flush()
    }

    /// Puts the table where the footer is, with entries for more blocks, and the footer behind it.
    fn move_table(&self, owner: &mut Owner, blocks: &Blocks, old: u64, new: u64) -> io::Result<()> {
        let entries = u32::try_from(new).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let (from, to) = (blocks.table_at(), owner.footer_at);
        let footer_at = to + table_length(new);
        self.storage.set_length(footer_at + FOOTER as u64)?;
        self.storage.write(footer_at, owner.footer.bytes())?;
        let mut piece = vec![0; PIECE];
        let (mut done, length) = (0, table_length(new));
        while done < length {
            let count = narrow(length - done).min(PIECE);
            piece.fill(0xff);
            let known = narrow((old * 4).saturating_sub(done)).min(count);
            read_all(&*self.storage, from + done, &mut piece[..known])?;
            self.storage.write(to + done, &piece[..count])?;
            done += count as u64;
        }
        self.storage.flush()?;
        let mut bytes = [0; HEADER];
        read_all(&*self.storage, blocks.header_at(), &mut bytes)?;
        let mut header = Header::parse(&bytes).map_err(corrupt)?;
        header.set_table(to, entries);
        // All that changes is in one sector.
        let sector = narrow(SECTOR);
        self.storage
            .write(blocks.header_at(), &header.bytes()[..sector])?;
        self.storage.flush()?;
        blocks.moved(to, new);
        owner.footer_at = footer_at;
        Ok(())
    }
}
