//! An opened image.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SECTOR;
use super::dynamic::Blocks;
use super::footer::{DiskType, FOOTER, Footer};
use super::header::{HEADER, Header};
use super::parent::ParentOf;
use crate::mapped::{Mapping, Place, corrupt, run};
use crate::storage::Storage;

pub(crate) struct Vhd {
    pub(super) storage: Arc<dyn Storage>,
    capacity: AtomicU64,
    /// None if the image has a fixed size.
    pub(super) blocks: Option<Blocks>,
    /// Of a differencing image.
    pub(super) parent: Option<ParentOf>,
    owner: Mutex<Owner>,
}

/// What only one thread at a time changes.
pub(super) struct Owner {
    pub(super) footer: Footer,
    /// Where the last footer is: the place of the next block.
    pub(super) footer_at: u64,
    /// A flush or the write of a table has failed: it is not known what the file has.
    pub(super) failed: bool,
}

impl Owner {
    /// Keeps in mind that what has failed must not be built on.
    pub(super) fn sure<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.failed |= result.is_err();
        result
    }
}

impl Vhd {
    /// Reads what says where the disk is, and with `read_only` not set puts back a footer that is lost.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub(crate) fn open(storage: Arc<dyn Storage>, read_only: bool) -> Result<Self, String> {
        let Found { footer, at } = find_footer(&*storage)?;
        let end = storage.length();
        let footer_at = at.unwrap_or_else(|| end.next_multiple_of(SECTOR));
        let blocks = match footer.disk_type()? {
            DiskType::Fixed if footer.size() > footer_at => {
                return Err(format!(
                    "its footer says {} bytes, and there are only {footer_at} before it",
                    footer.size()
                ));
            }
            DiskType::Fixed => None,
            DiskType::Dynamic | DiskType::Differencing => Some(open_blocks(&storage, &footer)?),
        };
        let (blocks, parent) = match blocks {
            Some((blocks, header)) if footer.disk_type()? == DiskType::Differencing => {
                if !read_only {
                    return Err(
                        "it is a differencing image, which can only be read (readonly=on)".into(),
                    );
                }
                let parent = ParentOf::read(&*storage, &header)?;
                (Some(blocks), Some(parent))
            }
            Some((blocks, _)) => (Some(blocks), None),
            None => (None, None),
        };
        let size = footer.size();
        let image = Self {
            storage,
            capacity: AtomicU64::new(size),
            blocks,
            parent,
            owner: Mutex::new(Owner {
                footer,
                footer_at,
                failed: false,
            }),
        };
        if !read_only && image.blocks.is_some() {
            let repaired = image.repair_footers(at.is_none());
            repaired.map_err(|error| format!("its footer cannot be put back: {error}"))?;
        }
        Ok(image)
    }

    pub(crate) fn is_dynamic(&self) -> bool {
        self.blocks.is_some()
    }

    /// By what its children know it.
    pub(super) fn id(&self) -> [u8; 16] {
        self.owner().footer.id()
    }

    pub(super) fn owner(&self) -> MutexGuard<'_, Owner> {
        // What matters is in the file; the numbers are changed one by one, after what they stand for.
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Release);
    }

    /// Both footers are to be the same, and the last one to be there.
    fn repair_footers(&self, lost: bool) -> io::Result<()> {
        let owner = self.owner();
        if lost {
            self.storage.set_length(owner.footer_at + FOOTER as u64)?;
            self.storage.write(owner.footer_at, owner.footer.bytes())?;
            self.storage.flush()?;
        }
        let mut copy = [0; FOOTER];
        let count = self.storage.read(0, &mut copy)?;
        if count != FOOTER || copy != *owner.footer.bytes() {
            self.storage.write(0, owner.footer.bytes())?;
            self.storage.flush()?;
        }
        Ok(())
    }

    /// Makes blocks at the end of the file.
    fn add_blocks(&self, owner: &mut Owner, blocks: &Blocks, numbers: &[u64]) -> io::Result<()> {
        let count = numbers.len() as u64;
        let first = owner.footer_at;
        let footer_at = first + count * blocks.in_file();
        if footer_at / SECTOR >= u64::from(u32::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a VHD has no blocks behind 2 TiB of its file",
            ));
        }
        self.storage.set_length(footer_at + FOOTER as u64)?;
        self.storage.write(footer_at, owner.footer.bytes())?;
        for at in 0..count {
            blocks.write_bitmap(first + at * blocks.in_file())?;
        }
        let flushed = self.storage.flush();
        owner.sure(flushed)?;
        owner.footer_at = footer_at;
        for (at, number) in (0..count).zip(numbers) {
            let start = first + at * blocks.in_file();
            let written = blocks.set_start(*number, Some(start));
            owner.sure(written)?;
        }
        Ok(())
    }
}

impl Mapping for Vhd {
    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    fn find(&self, offset: u64, most: u64) -> io::Result<(Place, u64)> {
        let left = self.capacity().saturating_sub(offset);
        let most = most.min(left);
        match &self.blocks {
            _ if most == 0 => Err(io::ErrorKind::InvalidInput.into()),
            None => Ok((Place::Data(offset), most)),
            Some(blocks) => run(offset, most, |at| match blocks.at(at)? {
                (Place::Zero, count) if self.parent.is_some() => Ok((Place::Parent, count)),
                found => Ok(found),
            }),
        }
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let Some(blocks) = &self.blocks else {
            return Ok(());
        };
        let mut owner = self.owner();
        if owner.failed {
            return Err(stopped());
        }
        let end = offset
            .saturating_add(length)
            .min(self.capacity())
            .div_ceil(blocks.block);
        let mut absent = Vec::new();
        for number in offset / blocks.block..end {
            match blocks.start(number)? {
                None => absent.push(number),
                Some(start) => {
                    let made = blocks.make_whole(number, start);
                    owner.sure(made)?;
                }
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        self.add_blocks(&mut owner, blocks, &absent)
    }

    fn resize(&self, capacity: u64) -> io::Result<()> {
        self.change_size(capacity)
    }
}

pub(super) fn stopped() -> io::Error {
    io::Error::other("tables of the image could not be written before: nothing is added to it")
}

struct Found {
    footer: Footer,
    /// Where it is, if it is at the end of the file.
    at: Option<u64>,
}

/// The footer at the end, or the copy at the begin. The copy is only asked for where the end has none: in an image of
/// fixed size the guest writes there. What it says reaches bytes of this file alone.
fn find_footer(storage: &dyn Storage) -> Result<Found, String> {
    let ask = |error: io::Error| format!("its footer cannot be read: {error}");
    let read = |offset: u64| {
        let mut bytes = [0; FOOTER];
        let count = storage.read(offset, &mut bytes).map_err(ask)?;
        match Footer::parse(&bytes) {
            Ok(footer) if count == FOOTER => Ok(Some(footer)),
            Ok(_) | Err(None) => Ok(None),
            Err(Some(reason)) => Err(reason),
        }
    };
    let Some(last) = storage.length().checked_sub(FOOTER as u64) else {
        return Err("it is too short for a footer".into());
    };
    if let Some(footer) = read(last)? {
        let at = Some(last);
        return Ok(Found { footer, at });
    }
    match read(0)? {
        Some(footer) if footer.disk_type()? != DiskType::Fixed => Ok(Found { footer, at: None }),
        _ => Err("it has no footer, or the checksum of its footer is wrong".into()),
    }
}

fn open_blocks(storage: &Arc<dyn Storage>, footer: &Footer) -> Result<(Blocks, Header), String> {
    let at = footer.header_offset();
    if at < FOOTER as u64 || !at.is_multiple_of(SECTOR) {
        return Err(format!("its header at {at:#x} is not where one can be"));
    }
    let mut bytes = [0; HEADER];
    let count = storage
        .read(at, &mut bytes)
        .map_err(|error| format!("its header cannot be read: {error}"))?;
    if count < HEADER {
        return Err(corrupt("its header is not within the file").to_string());
    }
    let header = Header::parse(&bytes)?;
    let blocks = Blocks::open(Arc::clone(storage), at, &header, footer.size())?;
    Ok((blocks, header))
}
