//! Other sizes.

use std::io;
use std::sync::PoisonError;

use super::image::{NOT_PRESENT, Owner, Vhdx, stopped};
use super::region::PLACES;
use super::{LARGEST, MIB};
use crate::mapped::{Mapping, PAGE, impossible, narrow, put, read_all};

/// Bytes of a table that are copied at a time.
const PIECE: usize = 64 << 10;
/// Entries that are changed at a time.
const SOME: usize = 4096;

impl Vhdx {
    pub(super) fn change_size(&self, capacity: u64) -> io::Result<()> {
        if capacity > LARGEST {
            return Err(impossible(format!(
                "{capacity} bytes are more than a VHDX can have, which is {LARGEST}"
            )));
        }
        let mut owner = self.owner();
        if owner.failed {
            return Err(stopped());
        }
        let before = self.capacity();
        let result = match capacity < before {
            true => self.shrink(&mut owner, before, capacity),
            false => self.grow(&mut owner, before, capacity),
        };
        owner.sure(result)
    }

    fn grow(&self, owner: &mut Owner, before: u64, capacity: u64) -> io::Result<()> {
        let needed = self.metadata.entries(capacity) * 8;
        let region = {
            let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
            places.regions.bat.clone()
        };
        if needed > region.end - region.start {
            self.move_table(owner, before, needed)?;
        } else {
            // What the table has behind its end is not known to be zero.
            self.clear_entries(owner, before, capacity)?;
        }
        self.complete_last_block(before)?;
        self.write_size(owner, capacity)?;
        self.set_capacity(capacity);
        if self.metadata.leave_allocated {
            // A fixed image has all of its blocks.
            return self.fill(owner, capacity);
        }
        Ok(())
    }

    /// The last block may be cut off in the file at the end of the disk, or have anything behind it.
    fn complete_last_block(&self, before: u64) -> io::Result<()> {
        let block = self.metadata.block;
        let within = before % block;
        if within == 0 {
            return Ok(());
        }
        let Some(start) = self.start(before / block)? else {
            return Ok(());
        };
        if self.storage.length() < start + block {
            self.storage.set_length(start + block)?;
        }
        self.storage.zero(start + within, block - within)?;
        self.storage.flush()
    }

    fn shrink(&self, owner: &mut Owner, before: u64, capacity: u64) -> io::Result<()> {
        let block = self.metadata.block;
        // What is behind the new end is zero if the disk grows again.
        if !capacity.is_multiple_of(block)
            && let Some(start) = self.start(capacity / block)?
        {
            let end = before.min(capacity.next_multiple_of(block));
            self.storage
                .zero(start + capacity % block, end - capacity)?;
        }
        // The guest must not reach what is about to go.
        self.set_capacity(capacity);
        self.write_size(owner, capacity)?;
        self.clear_entries(owner, capacity, before)
    }

    /// Blocks between two sizes are not in the file any more.
    fn clear_entries(&self, owner: &mut Owner, from: u64, until: u64) -> io::Result<()> {
        let block = self.metadata.block;
        let mut absent = Vec::new();
        for number in from.div_ceil(block)..until.div_ceil(block) {
            let entry: [u8; 8] = self.table.entry(self.entry_at(number))?;
            if entry != [0; 8] {
                absent.push((number, NOT_PRESENT));
            }
            if absent.len() == SOME {
                self.set_entries(owner, &absent)?;
                absent.clear();
            }
        }
        match absent.is_empty() {
            true => Ok(()),
            false => self.set_entries(owner, &absent),
        }
    }

    fn fill(&self, owner: &mut Owner, capacity: u64) -> io::Result<()> {
        let block = self.metadata.block;
        let mut number = 0;
        let blocks = capacity.div_ceil(block);
        while number < blocks {
            let mut entries = Vec::new();
            let mut next = self.storage.length().next_multiple_of(MIB);
            while number < blocks && entries.len() < SOME {
                if self.start(number)?.is_none() {
                    entries.push((number, super::image::present(next)));
                    next += block;
                }
                number += 1;
            }
            if !entries.is_empty() {
                self.storage.set_length(next)?;
                self.set_entries(owner, &entries)?;
            }
        }
        Ok(())
    }

    fn write_size(&self, owner: &mut Owner, capacity: u64) -> io::Result<()> {
        let at = self.metadata.size_at;
        let (page, within) = (at / PAGE as u64, narrow(at % PAGE as u64));
        if within + 8 > PAGE {
            return Err(impossible(
                "the size of the disk is in two pages of the file",
            ));
        }
        let mut bytes = self.table.page(page)?;
        put(&mut bytes[..], within, &capacity.to_le_bytes());
        self.change_pages(owner, &[(page, bytes)])
    }

    /// Makes a longer table at the end of the file, and has both tables of regions name it.
    fn move_table(&self, owner: &mut Owner, before: u64, needed: u64) -> io::Result<()> {
        let length = needed.next_multiple_of(MIB);
        if u32::try_from(length).is_err() {
            return Err(impossible("the table of blocks would be too long"));
        }
        let start = self.storage.length().next_multiple_of(MIB);
        self.storage.set_length(start + length)?;
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let (old, known) = (places.regions.bat.start, self.metadata.entries(before) * 8);
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        while done < known {
            let count = narrow(known - done).min(PIECE);
            read_all(&*self.storage, old + done, &mut piece[..count])?;
            self.storage.write(start + done, &piece[..count])?;
            done += count as u64;
        }
        // The log's entry must not be durable before what it points to.
        self.storage.flush()?;
        let regions = places.regions.with_bat(start..start + length);
        let mut pages = Vec::new();
        for place in PLACES {
            for (number, bytes) in regions.bytes().as_chunks::<PAGE>().0.iter().enumerate() {
                let page = place / PAGE as u64 + number as u64;
                // A copy that was not in order becomes so.
                if *bytes != *self.table.page(page)? {
                    pages.push((page, Box::new(*bytes)));
                }
            }
        }
        self.change_pages(owner, &pages)?;
        self.table.forget();
        places.regions = regions;
        Ok(())
    }
}
