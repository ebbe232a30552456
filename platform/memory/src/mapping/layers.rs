//! Private memory over more than one file, and what of it was changed.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::FileOffset;

use super::touched::{merge, push};
use super::{Mapping, Source, Span};
use crate::Error;
use crate::layers::coarse;

/// Most parts that are kept of what was given back.
const MOST_NEWS: usize = 4096;

/// What private memory is that is neither its base nor a page of its own.
#[derive(Debug, Default)]
pub(super) struct Above {
    /// Parts that come from other files than the base, in bytes from the mapping's start.
    layers: Mutex<Vec<Range<u64>>>,
    /// A bit for each page that was given back, so that neither base nor layer shows through; empty if there is none.
    emptied: Mutex<Vec<u64>>,
    /// Parts that were given back since somebody asked last, in any order.
    news: Mutex<Vec<Range<u64>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Neither list is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mapping {
    /// Lets a part show what is at `offset` of a file until it is written. The part is whole pages of private memory
    /// that nobody uses yet.
    pub(crate) fn cover(
        &self,
        part: Range<u64>,
        file: &Arc<File>,
        offset: u64,
    ) -> Result<(), Error> {
        let failed = |source| Error::Map {
            size: part.end - part.start,
            source,
        };
        let file = FileOffset::from_arc(Arc::clone(file), offset);
        let wanted = Source::of_file(
            &file,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED,
        );
        let within = self.within(&part);
        let (start, count) = within.ok_or(Error::LayerPart {
            start: part.start,
            end: part.end,
        })?;
        let covered = wanted.and_then(|wanted| self.span.cover(start, count, &wanted));
        covered.map_err(failed)?;
        lock(&self.above.layers).push(part);
        Ok(())
    }

    fn within(&self, part: &Range<u64>) -> Option<(usize, usize)> {
        let start = usize::try_from(part.start).ok()?;
        let end = usize::try_from(part.end).ok()?;
        (start < end && end <= self.span.size).then_some((start, end - start))
    }

    /// Parts that come from layers.
    pub(crate) fn covered(&self) -> Vec<Range<u64>> {
        lock(&self.above.layers).clone()
    }

    /// These whole pages have neither the base's nor a layer's contents any more.
    pub(super) fn note_empty(&self, start: u64, count: u64) {
        let mut emptied = lock(&self.above.emptied);
        let pages = self.size().div_ceil(self.page_size);
        emptied.resize(usize::try_from(pages.div_ceil(64)).unwrap_or(0), 0);
        for page in start / self.page_size..(start + count) / self.page_size {
            if let Some(word) = usize::try_from(page / 64)
                .ok()
                .and_then(|at| emptied.get_mut(at))
            {
                *word |= 1 << (page % 64);
            }
        }
        drop(emptied);
        let mut news = lock(&self.above.news);
        news.push(start..start + count);
        if news.len() > MOST_NEWS {
            // A guest could go on for ever. More than what was given back is no harm.
            *news = coarse(merge(std::mem::take(&mut news)), MOST_NEWS / 2);
        }
    }

    /// Parts that were given back since this was asked last, and maybe more.
    pub(crate) fn take_given_back(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut lock(&self.above.news))
    }

    /// Pages that were given back.
    pub(crate) fn given_back(&self) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        for (word, first) in lock(&self.above.emptied).iter().zip((0..).step_by(64)) {
            for page in (0..64)
                .filter(|bit| word >> bit & 1 == 1)
                .map(|bit| first + bit)
            {
                push(
                    &mut parts,
                    page * self.page_size..(page + 1) * self.page_size,
                );
            }
        }
        parts
    }

    /// Pages of private memory that are not what its base and layers have.
    pub(crate) fn changed(&self) -> Result<Vec<Range<u64>>, Error> {
        if self.base_offset().is_none() {
            return Err(Error::NoBase);
        }
        let mut parts = self.written().map_err(|source| Error::Changes { source })?;
        parts.extend(self.given_back());
        Ok(merge(parts))
    }

    /// Whether anything was written to private memory over a file, which is in no file then.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn is_written(&self) -> std::io::Result<bool> {
        Ok(!self.written()?.is_empty())
    }
}

impl Span {
    /// Maps something else in the place of the `count` bytes at `offset`, which are whole pages.
    fn cover(&self, offset: usize, count: usize, wanted: &Source) -> std::io::Result<()> {
        debug_assert!(offset + count <= self.size, "what is replaced is ours");
        // SAFETY: the offset is within.
        let first = unsafe { self.address.add(offset) }.as_ptr().cast();
        let Source {
            flags,
            descriptor,
            offset,
        } = *wanted;
        // SAFETY: the range is ours and stays mapped for reading and writing; nobody borrows its bytes, which become
        // others as the guest could make them at any time.
        let part = unsafe { Self::map(first, count, Source::ACCESS, flags, descriptor, offset) }?;
        // It is a part of this one, and goes with it.
        std::mem::forget(part);
        Ok(())
    }
}
