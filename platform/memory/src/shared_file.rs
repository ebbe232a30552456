//! The unnamed memory file behind shared RAM and huge pages.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, HugePages, pool};

/// A memory file of size 0, and the size of the pages it is made of.
pub(crate) struct SharedFile {
    pub(crate) file: File,
    pub(crate) page_size: u64,
}

impl SharedFile {
    /// Makes the file. `size` is what it will be [`resize`](Self::resize)d to, for the message;
    /// `host_page` is the host's small page.
    pub(crate) fn new(huge: Option<HugePages>, size: u64, host_page: u64) -> Result<Self, Error> {
        let unsupported = |page| Error::HugePagesUnsupported {
            size: page,
            supported: pool::supported(Path::new(pool::DIRECTORY)),
        };
        let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        if let Some(HugePages { size: page }) = huge {
            // No pool has pages that small, and the logarithm of 1 would mean the default size.
            if page.is_some_and(|page| page <= host_page) {
                return Err(unsupported(page));
            }
            // memfd_create(2): the binary logarithm of the page size, 0 for the host's default, is
            // part of the flags.
            let logarithm = page.map_or(0, u64::trailing_zeros);
            flags |= libc::MFD_HUGETLB | (logarithm << libc::MFD_HUGE_SHIFT);
        }
        // SAFETY: the name is a string with a terminator; the call touches no other memory.
        let descriptor = unsafe { libc::memfd_create(c"guest_ram".as_ptr(), flags) };
        if descriptor < 0 {
            let source = io::Error::last_os_error();
            return Err(match huge {
                // The kernel has no such size, no huge pages at all, or none in memory files.
                Some(HugePages { size: page }) if is_unsupported(&source) => unsupported(page),
                _ => Error::SharedFile {
                    step: "memfd_create",
                    size,
                    source,
                },
            });
        }
        // SAFETY: the descriptor is new, so nobody else owns it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let page_size = match huge {
            None => host_page,
            Some(HugePages { size: Some(page) }) => page,
            // The default size is the block size of the file: one call, where /proc/meminfo would
            // be three.
            Some(HugePages { size: None }) => {
                let about = file.metadata().map_err(|source| Error::SharedFile {
                    step: "fstat",
                    size,
                    source,
                })?;
                about.blksize()
            }
        };
        Ok(Self { file, page_size })
    }

    /// Gives the file its size in bytes, for good: afterwards nobody can change it, so that no peer
    /// that is given the file can shorten it and have the monitor killed by `SIGBUS`. Seals against writing can
    /// still be set: see [`seal`].
    pub(crate) fn resize(&self, size: u64) -> Result<(), Error> {
        self.file
            .set_len(size)
            .map_err(|source| Error::SharedFile {
                step: "ftruncate",
                size,
                source,
            })?;
        add_seals(&self.file, SIZE_SEALS).map_err(|source| Error::SharedFile {
            step: "F_ADD_SEALS",
            size,
            source,
        })
    }
}

/// Nobody changes the size.
const SIZE_SEALS: libc::c_int = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;

/// Nobody changes the file's contents any more, but through shared mappings that there are already. Private mappings
/// stay writable, as their writes do not reach the file.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    add_seals(file, SIZE_SEALS | libc::F_SEAL_FUTURE_WRITE)
}

/// Whether [`seal`] was called for it: `false` for whatever is no memory file.
pub(crate) fn is_sealed(file: &File) -> bool {
    // SAFETY: fcntl without an argument on a descriptor that is open touches no memory.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let written = libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE;
    seals >= 0 && seals & SIZE_SEALS == SIZE_SEALS && seals & written != 0
}

fn add_seals(file: &File, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: fcntl with an integer argument on a descriptor that is open touches no memory.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::EINVAL | libc::ENOSYS)
    )
}
