//! Host memory of one RAM region.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use vm_memory::{FileOffset, VolatileSlice};

use crate::pool::{self, Pool};
use crate::{Error, RamOptions};

mod discard;
mod file;
mod freeze;
mod layers;
mod missing;
mod touched;
mod watch;

pub use file::FileWrites;
pub(crate) use missing::Missing;
pub(crate) use touched::{data, merge};
pub use watch::WATCH_IOCTLS;
pub(crate) use watch::Watcher;

/// Large pages of the processors' page tables, one level above the small ones.
///
/// Guest and host addresses of a region agree modulo this, since only then can one large page of
/// the guest's second-level page table (EPT) and one transparent huge page of the host serve both.
const LARGE_PAGE: usize = 2 << 20;

/// Host memory, mapped for as long as the value lives.
///
/// Guest and host can change its bytes at any time, so they are never borrowed: copy through
/// [`GuestRam`](crate::GuestRam) or a [`VolatileSlice`].
#[derive(Debug)]
pub struct Mapping {
    span: Span,
    page_size: u64,
    file: Option<FileOffset>,
    base: Option<FileOffset>,
    /// `file` is no longer shared but what `base` otherwise is.
    frozen: AtomicBool,
    above: layers::Above,
    /// Which of its pages are still to come from elsewhere.
    missing: OnceLock<Missing>,
    huge_pages: bool,
    transparent_huge_pages: bool,
    populate: bool,
}

/// What [`Mapping::new`] maps.
pub(crate) struct Wanted<'a> {
    /// Guest address that it will be seen at.
    pub(crate) start: u64,
    /// Length in bytes: whole pages, at most `i64::MAX`.
    pub(crate) size: usize,
    /// Size of the pages that back it, in bytes.
    pub(crate) page_size: u64,
    /// The part of a memory file to map; anonymous memory without.
    pub(crate) file: Option<FileOffset>,
    /// The part of a file that private memory has the contents of until it is written. Not together with `file`.
    pub(crate) base: Option<FileOffset>,
    pub(crate) options: &'a RamOptions,
}

impl Mapping {
    pub(crate) fn new(wanted: Wanted<'_>) -> Result<Self, Error> {
        let span = map(&wanted).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOMEM) if wanted.options.reserve && wanted.file.is_none() => {
                Error::Reserve {
                    size: wanted.size as u64,
                    source,
                }
            }
            _ => Error::Map {
                size: wanted.size as u64,
                source,
            },
        })?;
        let mut mapping = Self {
            span,
            page_size: wanted.page_size,
            file: wanted.file,
            base: wanted.base,
            frozen: AtomicBool::new(false),
            above: layers::Above::default(),
            missing: OnceLock::new(),
            huge_pages: wanted.options.hugepages.is_some(),
            transparent_huge_pages: false,
            populate: wanted.options.populate(),
        };
        mapping.advise(wanted.options)?;
        Ok(mapping)
    }

    /// First byte. A multiple of [`page_size`](Self::page_size).
    ///
    /// For the hypervisor and for other kernel interfaces that take an address. Stays valid as long
    /// as the mapping lives.
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.span.address.as_ptr()
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.span.size as u64
    }

    /// Size in bytes of the pages that back it: the host's page, or the huge page that was asked
    /// for.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The memory file that others can map to share it, and where in the file it starts. `None`:
    /// private.
    #[must_use]
    pub fn file(&self) -> Option<(&File, u64)> {
        self.file_offset().map(|file| (file.file(), file.start()))
    }

    /// The file that private memory has the contents of wherever it was not written, and where in the file it starts.
    #[must_use]
    pub fn base(&self) -> Option<(&File, u64)> {
        self.base_offset().map(|file| (file.file(), file.start()))
    }

    /// It is made of pages of the host's huge page pool.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The kernel was asked for transparent huge pages, and knows them.
    #[must_use]
    pub fn transparent_huge_pages(&self) -> bool {
        self.transparent_huge_pages && !self.is_frozen()
    }

    /// All of it is to be allocated before the guest runs.
    pub(crate) fn populate(&self) -> bool {
        self.populate
    }

    /// The `count` bytes at `offset`; `None` if not all of them are within.
    pub(crate) fn slice(&self, offset: u64, count: usize) -> Option<VolatileSlice<'_>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(count)? > self.span.size {
            return None;
        }
        // SAFETY: the offset was just checked to be within the mapping, or one past its end.
        let first = unsafe { self.address().add(offset) };
        // SAFETY: the bytes are within the mapping, which lives as long as the slice's borrow of
        // it, and whose bytes are never borrowed as a reference.
        Some(unsafe { VolatileSlice::new(first, count) })
    }

    /// Allocates the `count` bytes at `offset`, without changing them. Both are whole pages within
    /// it.
    pub(crate) fn allocate(&self, offset: usize, count: usize) -> Result<(), Error> {
        loop {
            match self.span.madvise(offset, count, libc::MADV_POPULATE_WRITE) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    return Err(Error::PrefaultUnsupported);
                }
                Err(source) => {
                    return Err(Error::Prefault {
                        size: count as u64,
                        source,
                    });
                }
            }
        }
    }

    /// Guest memory is of no use in a dump of the monitor, is large, and is the guest's secret.
    pub(crate) fn keep_out_of_dumps(&self) -> Result<(), Error> {
        let all = self.span.madvise(0, self.span.size, libc::MADV_DONTDUMP);
        all.map_err(|source| Error::Advise {
            advice: "MADV_DONTDUMP",
            option: "it keeps guest memory out of core dumps",
            source,
        })
    }

    /// Tells the kernel what the user wants of the memory.
    fn advise(&mut self, options: &RamOptions) -> Result<(), Error> {
        self.keep_out_of_dumps()?;
        let all = |advice| self.span.madvise(0, self.span.size, advice);
        if options.mergeable {
            all(libc::MADV_MERGEABLE).map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) => Error::NoMerging,
                _ => Error::Advise {
                    advice: "MADV_MERGEABLE",
                    option: "mergeable=off does without",
                    source,
                },
            })?;
        }
        // Pages that are copied from a file are small ones.
        if options.thp && !self.huge_pages && self.base.is_none() {
            self.transparent_huge_pages = match all(libc::MADV_HUGEPAGE) {
                Ok(()) => true,
                // The kernel was built without. The option is on by default, so it is a wish and no
                // demand: otherwise no guest would start on such a host before its user found out
                // about thp=off.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
                Err(source) => {
                    return Err(Error::Advise {
                        advice: "MADV_HUGEPAGE",
                        option: "thp=off does without",
                        source,
                    });
                }
            };
        }
        Ok(())
    }
}

/// Turns a failure to map huge pages into one that says how many are missing, if that is what it
/// is.
///
/// Mapping huge pages sets them aside, so too few of them fail here and not as `SIGBUS` in the
/// running guest. To be called when what was mapped before is gone again, so that it counts as
/// free.
pub(crate) fn explain_pool(error: Error, page_size: u64, total_size: u64) -> Error {
    let Error::Map { ref source, .. } = error else {
        return error;
    };
    if source.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let needed = total_size.div_ceil(page_size);
    match Pool::read(Path::new(pool::DIRECTORY), page_size) {
        Some(Pool { total, free }) if free < needed => Error::HugePagePool {
            page_size,
            needed,
            free,
            total,
        },
        // Enough pages or no way to know: the address space is what lacks.
        _ => error,
    }
}

/// Maps what is wanted where it can be served with large pages.
fn map(wanted: &Wanted<'_>) -> io::Result<Span> {
    let Wanted { start, size, .. } = *wanted;
    let source = Source::of(wanted)?;
    // Large pages cannot be had, or the kernel aligns the pages of its pool by itself.
    if size < LARGE_PAGE || wanted.options.hugepages.is_some() {
        return source.map(size);
    }
    // Kernels since 6.7 align large anonymous memory by themselves.
    let anonymous = wanted.file.is_none() && wanted.base.is_none();
    if anonymous && start.is_multiple_of(LARGE_PAGE as u64) {
        let mapped = source.map(size)?;
        if misalignment(start, mapped.address) == 0 {
            return Ok(mapped);
        }
    }
    source.map_aligned(start, size)
}

/// What the bytes of a mapping come from: arguments of `mmap(2)`.
struct Source {
    flags: libc::c_int,
    descriptor: libc::c_int,
    offset: i64,
}

impl Source {
    const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
    const ANONYMOUS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

    fn of_file(file: &FileOffset, flags: libc::c_int) -> io::Result<Self> {
        let offset = i64::try_from(file.start());
        Ok(Self {
            flags,
            descriptor: file.file().as_raw_fd(),
            offset: offset.map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?,
        })
    }

    fn of(wanted: &Wanted<'_>) -> io::Result<Self> {
        if let Some(file) = &wanted.file {
            // No MAP_NORESERVE: without meaning for shared memory, and huge pages are to be set
            // aside.
            return Self::of_file(file, libc::MAP_SHARED);
        }
        let unreserved = if wanted.options.reserve {
            0
        } else {
            libc::MAP_NORESERVE
        };
        if let Some(base) = &wanted.base {
            return Self::of_file(base, libc::MAP_PRIVATE | unreserved);
        }
        Ok(Self {
            flags: Self::ANONYMOUS | unreserved,
            descriptor: -1,
            offset: 0,
        })
    }

    /// Maps `size` bytes where the kernel likes.
    fn map(&self, size: usize) -> io::Result<Span> {
        let Self {
            flags,
            descriptor,
            offset,
        } = *self;
        // SAFETY: without MAP_FIXED the kernel takes addresses that nothing uses.
        unsafe {
            Span::map(
                ptr::null_mut(),
                size,
                Self::ACCESS,
                flags,
                descriptor,
                offset,
            )
        }
    }

    /// Maps `size` bytes at a host address that agrees with guest address `start` modulo
    /// [`LARGE_PAGE`]: takes more addresses than needed and gives back those on both sides.
    fn map_aligned(&self, start: u64, size: usize) -> io::Result<Span> {
        let room = size
            .checked_add(LARGE_PAGE)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let empty = Self::ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED the kernel takes addresses that nothing uses.
        let room = unsafe { Span::map(ptr::null_mut(), room, libc::PROT_NONE, empty, -1, 0) }?;
        let head = misalignment(start, room.address);
        // SAFETY: `head` is less than LARGE_PAGE, by which `room` is larger than `size`.
        let aligned = unsafe { room.address.add(head) }.as_ptr().cast();
        let (_before, _after) = room.carve(head, size);
        let fixed = self.flags | libc::MAP_FIXED;
        // The carved part has no owner until it is mapped. Should that fail it stays so: the kernel
        // may or may not have freed the addresses, and those of someone else must not be unmapped.
        // SAFETY: the range was carved out of `room`, so it is ours and nothing else is in it.
        unsafe {
            Span::map(
                aligned,
                size,
                Self::ACCESS,
                fixed,
                self.descriptor,
                self.offset,
            )
        }
    }
}

/// How many bytes after `host` the next byte is that agrees with guest address `start` modulo
/// [`LARGE_PAGE`].
fn misalignment(start: u64, host: NonNull<u8>) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is less than LARGE_PAGE"
    )]
    let start = (start % LARGE_PAGE as u64) as usize;
    (start + LARGE_PAGE - host.addr().get() % LARGE_PAGE) % LARGE_PAGE
}

/// Addresses of this process that belong to the value; dropping it unmaps them.
#[derive(Debug)]
struct Span {
    address: NonNull<u8>,
    size: usize,
}

impl Span {
    /// `mmap(2)`.
    ///
    /// # Safety
    /// With `MAP_FIXED`, the range is not in use and has no other owner.
    unsafe fn map(
        address: *mut libc::c_void,
        size: usize,
        protection: libc::c_int,
        flags: libc::c_int,
        descriptor: libc::c_int,
        offset: i64,
    ) -> io::Result<Self> {
        // SAFETY: the caller says that nothing that is in use is replaced; a new range harms
        // nobody.
        let mapped = unsafe { libc::mmap(address, size, protection, flags, descriptor, offset) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(mapped.cast())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Self { address, size })
    }

    /// Takes `size` bytes at `offset` out: they have no owner afterwards. Returns what is left on
    /// both sides.
    fn carve(self, offset: usize, size: usize) -> (Option<Self>, Option<Self>) {
        let whole = std::mem::ManuallyDrop::new(self);
        let end = offset + size;
        debug_assert!(end <= whole.size, "the carved part is within");
        // SAFETY: the carved part is within, so its end is too, or one past the end.
        let after = unsafe { whole.address.add(end) };
        let before = Self {
            address: whole.address,
            size: offset,
        };
        let after = Self {
            address: after,
            size: whole.size - end,
        };
        (before.non_empty(), after.non_empty())
    }

    fn non_empty(self) -> Option<Self> {
        if self.size > 0 {
            return Some(self);
        }
        // munmap(2) of nothing is an error.
        std::mem::forget(self);
        None
    }

    /// `madvise(2)` on the `count` bytes at `offset`.
    fn madvise(&self, offset: usize, count: usize, advice: libc::c_int) -> io::Result<()> {
        debug_assert!(
            offset + count <= self.size,
            "advice is given for what is ours"
        );
        // SAFETY: the offset is within.
        let first = unsafe { self.address.add(offset) };
        // SAFETY: the range is ours and stays mapped whatever the advice. Some of it changes bytes (to 0), as the
        // guest may at any time: all access is volatile and nothing borrows them.
        let result = unsafe { libc::madvise(first.as_ptr().cast(), count, advice) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl Span {
    /// Puts empty anonymous memory in the place of the `count` bytes at `offset`, which are whole pages.
    fn empty(&self, offset: usize, count: usize) -> io::Result<()> {
        debug_assert!(offset + count <= self.size, "what is replaced is ours");
        // SAFETY: the offset is within.
        let first = unsafe { self.address.add(offset) }.as_ptr().cast();
        let flags = Source::ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is ours, stays mapped for reading and writing, and nobody borrows its bytes, which
        // become 0 as the guest could make them at any time.
        let part = unsafe { Self::map(first, count, Source::ACCESS, flags, -1, 0) }?;
        // It is a part of this one, and goes with it.
        std::mem::forget(part);
        Ok(())
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone. Slices into it borrow the mapping, so there are none any
        // more; those who were told the address hold the mapping.
        let result = unsafe { libc::munmap(self.address.as_ptr().cast(), self.size) };
        debug_assert_eq!(result, 0, "unmapping what was mapped cannot fail");
    }
}

// SAFETY: a span is an address range that its owner may use and unmap from any thread.
unsafe impl Send for Span {}
// SAFETY: its methods by shared reference only make system calls on the range, which any number of
// threads may do at a time.
unsafe impl Sync for Span {}

// SAFETY: a mapping owns its span until it is dropped, never moves it, and nothing in this crate takes a
// reference into it: all access is volatile, as for memory that the guest changes at any time.
unsafe impl hypervisor::HostMemory for Mapping {
    fn address(&self) -> *mut u8 {
        Self::address(self)
    }

    fn size(&self) -> u64 {
        Self::size(self)
    }
}

#[cfg(test)]
mod tests;
