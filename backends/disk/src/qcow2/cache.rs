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
    /// Of these, copies are being written to the file.
    writing: [BTreeSet<u64>; 2],
    /// Pages that were dropped since the begin.
    drops: u64,
}

/// Copies of pages, with where in the file they belong.
pub(crate) type Copied = Vec<(u64, Box<[u8]>)>;

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
            writing: Default::default(),
            drops: 0,
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
        if self.pages.contains_key(&(offset / self.page)) {
            return Ok(());
        }
        let fetched = self.fetch(offset).read()?;
        self.insert(fetched);
        Ok(())
    }

    /// The page with the byte at `offset`, to be read while others use the cache.
    pub(crate) fn fetch(&self, offset: u64) -> Fetch {
        Fetch {
            storage: Arc::clone(&self.storage),
            number: offset / self.page,
            page: self.page,
            drops: self.drops,
        }
    }

    /// Keeps a page that was read, unless it may be older than the file is.
    pub(crate) fn insert(&mut self, page: Fetched) {
        let Fetched {
            number,
            bytes,
            drops,
        } = page;
        if drops != self.drops || self.pages.contains_key(&number) {
            return;
        }
        self.make_room();
        let checked = vec![0; narrow(self.page / 64)];
        self.order.push_back(number);
        self.pages.insert(
            number,
            Page {
                bytes,
                used: AtomicBool::new(true),
                checked: checked.into(),
            },
        );
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
            let mut sets = self.changed.iter().chain(&self.writing);
            let is_changed = sets.any(|set| set.contains(&number));
            if is_changed || page.used.swap(false, Ordering::Relaxed) {
                self.order.push_back(number);
            } else {
                self.pages.remove(&number);
                self.drops += 1;
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

    /// Copies the changes of a stage, to be written. The pages stay in memory until [`Cache::end_write`].
    pub(crate) fn begin_write(&mut self, stage: Stage) -> Copied {
        let numbers = std::mem::take(&mut self.changed[stage as usize]);
        let copy = |number: &u64| {
            let page = self.pages.get(number)?;
            Some((number * self.page, page.bytes.clone()))
        };
        let pages = numbers.iter().filter_map(copy).collect();
        self.writing[stage as usize].extend(numbers);
        pages
    }

    /// What [`Cache::begin_write`] gave is durable, or still to be written.
    pub(crate) fn end_write(&mut self, stage: Stage, done: bool) {
        let mut pages = std::mem::take(&mut self.writing[stage as usize]);
        if !done {
            self.changed[stage as usize].append(&mut pages);
        }
    }

    /// Drops what is known of some bytes, changes too: they are used for something else.
    pub(crate) fn forget(&mut self, offset: u64, length: u64) {
        for number in offset / self.page..(offset + length).div_ceil(self.page) {
            self.pages.remove(&number);
            self.drops += 1;
            for set in self.changed.iter_mut().chain(&mut self.writing) {
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

/// A page that is to be read.
pub(crate) struct Fetch {
    storage: Arc<dyn Storage>,
    number: u64,
    page: u64,
    drops: u64,
}

/// A page as it is in the file. If a page was dropped since it was asked for, that may have been this one, with changes.
pub(crate) struct Fetched {
    number: u64,
    bytes: Box<[u8]>,
    drops: u64,
}

impl Fetch {
    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(self) -> io::Result<Fetched> {
        let mut bytes = vec![0; narrow(self.page)];
        let count = self.storage.read(self.number * self.page, &mut bytes)?;
        bytes.truncate(count);
        Ok(Fetched {
            number: self.number,
            bytes: bytes.into(),
            drops: self.drops,
        })
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
