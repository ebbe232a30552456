//! A shared mapping that becomes private where it is.

use std::io;
use std::sync::atomic::Ordering;

use vm_memory::FileOffset;

use super::{Mapping, Source, Span};

impl Mapping {
    pub(crate) fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref().filter(|_| !self.is_frozen())
    }

    pub(crate) fn base_offset(&self) -> Option<&FileOffset> {
        let frozen = self.file.as_ref().filter(|_| self.is_frozen());
        self.base.as_ref().or(frozen)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// The part of a memory file that can be frozen: shared, and of small pages.
    pub(crate) fn can_freeze(&self) -> bool {
        self.file_offset().is_some() && !self.huge_pages
    }

    /// Drops the page table entries of a shared mapping; what they led to stays in its file, and whoever touches it
    /// gets a new entry. Afterwards there is less for [`Mapping::freeze`] to take apart.
    pub(crate) fn forget_entries(&self) -> io::Result<()> {
        if !self.can_freeze() {
            return Ok(());
        }
        self.span.madvise(0, self.span.size, libc::MADV_DONTNEED)
    }

    /// From here on writes go to private copies of the file's pages, and the file stays as it is. Nothing happens if
    /// [`Mapping::can_freeze`] says no.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.replace(libc::MAP_PRIVATE | libc::MAP_NORESERVE, true)
    }

    /// Undoes [`Mapping::freeze`], of what nobody has written to since.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.replace(libc::MAP_SHARED, false)
    }

    fn replace(&self, flags: libc::c_int, frozen: bool) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| !self.huge_pages) else {
            return Ok(());
        };
        if self.is_frozen() == frozen {
            return Ok(());
        }
        let mut wanted = Source::of_file(file, flags)?;
        wanted.flags |= libc::MAP_FIXED;
        self.span.replace(&wanted)?;
        self.frozen.store(frozen, Ordering::Release);
        self.span.madvise(0, self.span.size, libc::MADV_DONTDUMP)
    }
}

impl Span {
    /// Maps something else with the same bytes in its place.
    fn replace(&self, wanted: &Source) -> io::Result<()> {
        let address = self.address.as_ptr().cast();
        // SAFETY: the range is ours and stays mapped for reading and writing. What is mapped there is the same part of
        // the same file, so that its bytes do not change; nobody borrows them. The kernel makes other threads that
        // touch the range wait until the new mapping is there.
        let again = unsafe {
            Self::map(
                address,
                self.size,
                Source::ACCESS,
                wanted.flags,
                wanted.descriptor,
                wanted.offset,
            )
        }?;
        // It is this one, and goes with it.
        std::mem::forget(again);
        Ok(())
    }
}
