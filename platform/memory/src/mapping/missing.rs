//! Pages that come from elsewhere while the guest runs already.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Mapping;

/// Which pages have come. Whoever puts pages there or drops them holds it meanwhile, so that none comes after it was
/// dropped.
#[derive(Debug)]
pub(crate) struct Missing {
    page_size: u64,
    /// A bit for each page that has come, or needs not come any more.
    settled: Mutex<Vec<u64>>,
}

/// The list, held.
pub(crate) struct Held<'a> {
    page_size: u64,
    settled: MutexGuard<'a, Vec<u64>>,
}

impl Missing {
    /// Does something to a part after which no page of it comes any more. Whole pages, in bytes from the start.
    pub(super) fn settle<T>(&self, part: Range<u64>, act: impl FnOnce() -> T) -> T {
        let mut held = self.hold();
        held.settle(part);
        act()
    }

    pub(crate) fn hold(&self) -> Held<'_> {
        Held {
            page_size: self.page_size,
            // No panic leaves it half changed.
            settled: self.settled.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Held<'_> {
    /// Whether the page at this byte is settled.
    pub(crate) fn has(&self, at: u64) -> bool {
        let page = at / self.page_size;
        let word = usize::try_from(page / 64).ok();
        let word = word.and_then(|word| self.settled.get(word));
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// From here on they are.
    pub(crate) fn settle(&mut self, part: Range<u64>) {
        for page in part.start / self.page_size..part.end / self.page_size {
            let word = usize::try_from(page / 64).ok();
            if let Some(word) = word.and_then(|word| self.settled.get_mut(word)) {
                *word |= 1 << (page % 64);
            }
        }
    }

    /// Parts of a part whose pages are not, in order.
    pub(crate) fn unsettled(&self, part: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut at = part.start;
        while at < part.end {
            if !self.has(at) {
                super::touched::push(&mut parts, at..at + self.page_size);
            }
            at += self.page_size;
        }
        parts
    }
}

impl Mapping {
    /// From here on pages come from elsewhere, unless they are dropped before. Only once.
    pub(crate) fn expect_pages(&self) -> &Missing {
        self.missing.get_or_init(|| {
            let words = self.size().div_ceil(self.page_size).div_ceil(64);
            Missing {
                page_size: self.page_size,
                // As large as this for a mapping that is there: its pages have addresses.
                settled: Mutex::new(vec![0; usize::try_from(words).unwrap_or(0)]),
            }
        })
    }

    /// Whoever touches the part from here on fails: the kernel with `EFAULT`, the process with `SIGSEGV`.
    pub(crate) fn forbid(&self, part: Range<u64>) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let start = usize::try_from(part.start).map_err(|_| invalid())?;
        let count = usize::try_from(part.end - part.start).map_err(|_| invalid())?;
        if start
            .checked_add(count)
            .is_none_or(|end| end > self.span.size)
        {
            return Err(invalid());
        }
        // SAFETY: the offset is within.
        let first = unsafe { self.span.address.add(start) }.as_ptr().cast();
        // SAFETY: the range is ours and nobody borrows its bytes. That an access fails is what is asked for.
        if unsafe { libc::mprotect(first, count, libc::PROT_NONE) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
