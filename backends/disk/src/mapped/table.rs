//! Entries of tables in the file, through a cache of limited size.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{corrupt, narrow};
use crate::storage::Storage;

/// Bytes that are read at a time.
pub(crate) const PAGE: usize = 4096;
/// Pages that are kept, each in one place: 4 MiB for an image.
const MOST: usize = 1024;

/// What there is of a page in the file.
#[derive(Clone)]
struct Page {
    number: u64,
    bytes: Box<[u8; PAGE]>,
    /// So many bytes of it are before the end of the file.
    there: usize,
}

/// The pages of an image that tables are in. Changes go to the file at once.
pub(crate) struct Table {
    storage: Arc<dyn Storage>,
    kept: RwLock<Vec<Option<Page>>>,
}

impl Table {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            kept: RwLock::default(),
        }
    }

    /// The entry at `offset`, a multiple of its length, which is a power of two.
    ///
    /// # Errors
    /// If it cannot be read, or the file ends before it.
    pub(crate) fn entry<const N: usize>(&self, offset: u64) -> io::Result<[u8; N]> {
        let (number, within) = split(offset);
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = find(&kept, number) {
            return take(page, within);
        }
        drop(kept);
        let mut kept = self.write_lock();
        take(self.load(&mut kept, number)?, within)
    }

    /// The page with these bytes in it, as it is in the file.
    ///
    /// # Errors
    /// If it cannot be read, or the file ends before its end.
    pub(crate) fn page(&self, number: u64) -> io::Result<Box<[u8; PAGE]>> {
        let mut kept = self.write_lock();
        let page = self.load(&mut kept, number)?;
        take::<PAGE>(page, 0)?;
        Ok(page.bytes.clone())
    }

    /// Changes an entry. `unit` bytes around it, 512 or 4096, are written to the file as a whole.
    ///
    /// # Errors
    /// If it cannot be written. It is not known then which of both the file has; the old one is given until another is
    /// written.
    pub(crate) fn change(&self, offset: u64, entry: &[u8], unit: usize) -> io::Result<()> {
        let (number, within) = split(offset);
        let mut kept = self.write_lock();
        let page = self.load(&mut kept, number)?;
        let (start, end) = (within / unit * unit, within / unit * unit + unit);
        if page.there < end || within + entry.len() > end {
            return Err(corrupt(format!(
                "a table reaches behind the end of the file at {offset:#x}"
            )));
        }
        let mut bytes = page.bytes.clone();
        bytes[within..within + entry.len()].copy_from_slice(entry);
        let at = number * PAGE as u64 + start as u64;
        self.storage.write(at, &bytes[start..end])?;
        page.bytes = bytes;
        Ok(())
    }

    /// Replaces a whole page.
    ///
    /// # Errors
    /// As [`Table::change`].
    pub(crate) fn replace(&self, number: u64, bytes: &[u8; PAGE]) -> io::Result<()> {
        self.change(number * PAGE as u64, bytes, PAGE)
    }

    /// Forgets what is kept: the file was changed by other ways.
    pub(crate) fn forget(&self) {
        self.write_lock().clear();
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Vec<Option<Page>>> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page, read if it is not kept. Under the lock, so that nobody keeps what somebody else has just replaced.
    fn load<'a>(&self, kept: &'a mut Vec<Option<Page>>, number: u64) -> io::Result<&'a mut Page> {
        if kept.is_empty() {
            kept.resize(MOST, None);
        }
        let place = &mut kept[place(number)];
        if place.as_ref().is_none_or(|page| page.number != number) {
            let mut bytes = Box::new([0; PAGE]);
            let there = self.storage.read(number * PAGE as u64, &mut bytes[..])?;
            *place = Some(Page {
                number,
                bytes,
                there,
            });
        }
        place.as_mut().ok_or_else(|| corrupt("a page is missing"))
    }
}

fn split(offset: u64) -> (u64, usize) {
    (offset / PAGE as u64, narrow(offset % PAGE as u64))
}

fn place(number: u64) -> usize {
    // Tables of large images are far apart, by powers of two.
    narrow((number ^ (number >> 10) ^ (number >> 20)) % MOST as u64)
}

fn find<'a>(kept: &'a RwLockReadGuard<'_, Vec<Option<Page>>>, number: u64) -> Option<&'a Page> {
    let page = kept.get(place(number))?.as_ref()?;
    (page.number == number).then_some(page)
}

fn take<const N: usize>(page: &Page, within: usize) -> io::Result<[u8; N]> {
    let bytes = page.bytes[..page.there].get(within..);
    let entry = bytes.and_then(<[u8]>::first_chunk).copied();
    entry.ok_or_else(|| {
        let offset = page.number * PAGE as u64 + within as u64;
        corrupt(format!(
            "a table reaches behind the end of the file at {offset:#x}"
        ))
    })
}
