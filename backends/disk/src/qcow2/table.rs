//! Entries of tables, read through a cache of limited size.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::{corrupt, narrow};
use crate::storage::Storage;

/// Bytes that are read at a time.
const PAGE: usize = 4096;
/// Pages that are kept, each in one place: 4 MiB for an image.
const MOST: usize = 1024;

/// A page's number, and what there is of it in the file.
type Page = (u64, Arc<[u8]>);

/// The pages of an image that tables are in.
pub(crate) struct Pages {
    storage: Arc<dyn Storage>,
    kept: Mutex<Vec<Option<Page>>>,
}

impl Pages {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            kept: Mutex::default(),
        }
    }

    /// The big-endian number at `offset`, a multiple of 8.
    ///
    /// # Errors
    /// If it cannot be read, or the file ends before it.
    pub(crate) fn entry(&self, offset: u64) -> io::Result<u64> {
        let (number, within) = (offset / PAGE as u64, narrow(offset % PAGE as u64));
        let page = self.page(number)?;
        super::header::be64(&page, within).ok_or_else(|| {
            corrupt(format!(
                "a table reaches behind the end of the file at {offset:#x}"
            ))
        })
    }

    fn page(&self, number: u64) -> io::Result<Arc<[u8]>> {
        // Tables of large images are far apart, by powers of two.
        let place = narrow((number ^ (number >> 10) ^ (number >> 20)) % MOST as u64);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some((here, page))) = kept().get(place)
            && *here == number
        {
            return Ok(Arc::clone(page));
        }
        // Others look into the cache meanwhile.
        let mut bytes = [0; PAGE];
        let count = self.storage.read(number * PAGE as u64, &mut bytes)?;
        let page: Arc<[u8]> = bytes[..count].into();
        let mut kept = kept();
        if kept.is_empty() {
            kept.resize(MOST, None);
        }
        kept[place] = Some((number, Arc::clone(&page)));
        Ok(page)
    }
}
