//! Pages of tables in memory, of limited number. Changes stay here until they are written out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::header::be64;
use super::{corrupt, narrow};
use crate::storage::Storage;

/// Bytes of a page, if clusters are not smaller: a page is never in two clusters.
const PAGE: u64 = 4096;
/// Bytes that are kept of an image.
const MOST: u64 = 4 << 20;

/// When a change is written: what others point to is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    First,
    Second,
}

/// A page as it will be in the file.
struct Page {
    /// Fewer than a page has if the file ends in it.
    bytes: Box<[u8]>,
    /// Looked at since the last search for a page to drop.
    used: AtomicBool,
    /// By number of 8 bytes: known to be right.
    checked: Box<[u8]>,
}

/// Why an entry is not given.
pub(crate) enum Stop {
    /// The page at this offset has to be loaded.
    Missing(u64),
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Pages of one file.
pub(crate) struct Cache {
    storage: Arc<dyn Storage>,
    page: u64,
    most: usize,
    pages: HashMap<u64, Page>,
    order: VecDeque<u64>,
    changed: [BTreeSet<u64>; 2],
}

impl Cache {
    pub(crate) fn new(storage: Arc<dyn Storage>, cluster: u64) -> Self {
        let page = PAGE.min(cluster);
        Self {
            storage,
            page,
            most: narrow(MOST / page),
            pages: HashMap::new(),
            order: VecDeque::new(),
            changed: Default::default(),
        }
    }

    /// Number of bytes of a page.
    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    /// Bytes at `offset` that do not reach into another page.
    ///
    /// # Errors
    /// [`Stop`]; also if the file ends before them.
    pub(crate) fn bytes(&self, offset: u64, count: usize) -> Result<&[u8], Stop> {
        let page = self.pages.get(&(offset / self.page));
        let page = page.ok_or(Stop::Missing(offset))?;
        page.used.store(true, Ordering::Relaxed);
        let within = narrow(offset % self.page);
        let bytes = page.bytes.get(within..within + count);
        bytes.ok_or_else(|| behind_the_end(offset).into())
    }

    /// The big-endian number at `offset`, a multiple of 8.
    ///
    /// # Errors
    /// As [`Cache::bytes`].
    pub(crate) fn entry(&self, offset: u64) -> Result<u64, Stop> {
        let bytes = self.bytes(offset, 8)?;
        be64(bytes, 0).ok_or_else(|| behind_the_end(offset).into())
    }

    /// Whether the 8 bytes at `offset` were marked with [`Cache::check`].
    pub(crate) fn is_checked(&self, offset: u64) -> bool {
        let page = self.pages.get(&(offset / self.page));
        let (byte, bit) = place_of_check(offset, self.page);
        page.and_then(|page| page.checked.get(byte))
            .is_some_and(|byte| byte & bit != 0)
    }

    /// Marks the 8 bytes at `offset` as right, as long as they are in memory.
    pub(crate) fn check(&mut self, offset: u64) {
        let (byte, bit) = place_of_check(offset, self.page);
        let page = self.pages.get_mut(&(offset / self.page));
        if let Some(byte) = page.and_then(|page| page.checked.get_mut(byte)) {
            *byte |= bit;
        }
    }

    /// Loads the page with the byte at `offset`, if it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn load(&mut self, offset: u64) -> io::Result<()> {
        let number = offset / self.page;
        if self.pages.contains_key(&number) {
            return Ok(());
        }
        let mut bytes = vec![0; narrow(self.page)];
        let count = self.storage.read(number * self.page, &mut bytes)?;
        bytes.truncate(count);
        self.make_room();
        let checked = vec![0; narrow(self.page / 64)];
        self.order.push_back(number);
        self.pages.insert(
            number,
            Page {
                bytes: bytes.into(),
                used: AtomicBool::new(true),
                checked: checked.into(),
            },
        );
        Ok(())
    }

    /// Drops a page that was not looked at for long and is as it is in the file.
    fn make_room(&mut self) {
        let mut left = 2 * self.order.len();
        while self.pages.len() >= self.most && left > 0 {
            left -= 1;
            let Some(number) = self.order.pop_front() else {
                return;
            };
            let Some(page) = self.pages.get(&number) else {
                continue;
            };
            let is_changed = self.changed.iter().any(|set| set.contains(&number));
            if is_changed || page.used.swap(false, Ordering::Relaxed) {
                self.order.push_back(number);
            } else {
                self.pages.remove(&number);
            }
        }
    }

    /// Changes bytes that do not reach into another page. What was checked of them is not any more.
    ///
    /// # Errors
    /// If the page cannot be read, or the file ends before the bytes.
    pub(crate) fn change(&mut self, offset: u64, bytes: &[u8], stage: Stage) -> io::Result<()> {
        self.load(offset)?;
        let (number, within) = (offset / self.page, narrow(offset % self.page));
        let page = self.pages.get_mut(&number);
        let page = page.ok_or_else(|| behind_the_end(offset))?;
        let place = page.bytes.get_mut(within..within + bytes.len());
        let place = place.ok_or_else(|| behind_the_end(offset))?;
        place.copy_from_slice(bytes);
        let (byte, bit) = place_of_check(offset, self.page);
        if let Some(byte) = page.checked.get_mut(byte) {
            *byte &= !bit;
        }
        self.changed[stage as usize].insert(number);
        Ok(())
    }

    /// Number of pages that are not as they are in the file.
    pub(crate) fn changes(&self, stage: Stage) -> usize {
        self.changed[stage as usize].len()
    }

    /// Whether so much was changed that it should be written soon.
    pub(crate) fn is_full(&self) -> bool {
        self.changed.iter().map(BTreeSet::len).sum::<usize>() >= self.most / 2
    }

    /// Writes the changes of a stage. They count as changes until [`Cache::written`].
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, stage: Stage) -> io::Result<()> {
        for number in &self.changed[stage as usize] {
            if let Some(page) = self.pages.get(number) {
                self.storage.write(number * self.page, &page.bytes)?;
            }
        }
        Ok(())
    }

    /// What [`Cache::write`] wrote is durable.
    pub(crate) fn written(&mut self, stage: Stage) {
        self.changed[stage as usize].clear();
    }

    /// Drops what is known of some bytes, changes too: they are used for something else.
    pub(crate) fn forget(&mut self, offset: u64, length: u64) {
        for number in offset / self.page..(offset + length).div_ceil(self.page) {
            self.pages.remove(&number);
            for set in &mut self.changed {
                set.remove(&number);
            }
        }
        // A page that comes again is in the order once.
        if self.order.len() > 2 * self.most {
            let pages = &self.pages;
            let mut seen = BTreeSet::new();
            self.order
                .retain(|number| pages.contains_key(number) && seen.insert(*number));
        }
    }
}

fn place_of_check(offset: u64, page: u64) -> (usize, u8) {
    let number = offset % page / 8;
    (narrow(number / 8), 1 << (number % 8))
}

fn behind_the_end(offset: u64) -> io::Error {
    corrupt(format!(
        "a table reaches behind the end of the file at {offset:#x}"
    ))
}
