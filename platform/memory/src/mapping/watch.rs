//! Asks the kernel which pages of a mapping were written.
//!
//! Write protection by `userfaultfd(2)` that the kernel takes away by itself (`UFFD_FEATURE_WP_ASYNC`), and the ioctl
//! `PAGEMAP_SCAN` that finds where it did and protects again, in one step (Linux 6.7;
//! Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Mapping;
use super::touched::push;
use crate::Error;

/// Requests of those who watch memory: `UFFDIO_API`, `UFFDIO_REGISTER`, `PAGEMAP_SCAN` (linux/userfaultfd.h, linux/fs.h).
pub const WATCH_IOCTLS: &[u64] = &[UFFDIO_API, UFFDIO_REGISTER, PAGEMAP_SCAN];

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Only what happens in user mode is told, which anybody may ask for: nothing is, here.
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
/// Pages that are not there can be protected, too: anonymous memory cannot be watched without.
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 1 << 1;

/// Protect what is found.
const WP_MATCHING: u64 = 1;
const IS_WRITTEN: u64 = 1 << 1;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
/// Ranges that one answer has.
const RANGES: usize = 1024;

/// Sees writes to mappings from the first question on.
#[derive(Debug)]
pub(crate) struct Watcher {
    protection: OwnedFd,
    map: File,
}

#[repr(C)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdRegister {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// What is looked for.
#[derive(Clone, Copy)]
struct Wanted {
    flags: u64,
    inverted: u64,
    all: u64,
}

impl Watcher {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |source| Error::Watch { source };
        let map = File::open("/proc/self/pagemap").map_err(|source| Error::Changes { source })?;
        let flags = libc::O_CLOEXEC | USER_MODE_ONLY;
        // SAFETY: the call takes a number and touches no memory.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let descriptor = libc::c_int::try_from(descriptor).ok().filter(|fd| *fd >= 0);
        let descriptor = descriptor.ok_or_else(|| failed(io::Error::last_os_error()))?;
        // SAFETY: the descriptor is new, so nobody else owns it.
        let protection = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let mut api = UffdApi {
            api: API,
            features: WP_ASYNC | WP_UNPOPULATED,
            ioctls: 0,
        };
        // SAFETY: the argument is what the request takes and lives over the call.
        unsafe { ask(&protection, UFFDIO_API, &mut api) }.map_err(failed)?;
        Ok(Self { protection, map })
    }

    /// Pages that are there and were written, or came, since this was asked last, in bytes from the mapping's start.
    pub(crate) fn written(&self, mapping: &Mapping) -> Result<Vec<Range<u64>>, Error> {
        let failed = |source| Error::Watch { source };
        let mut register = UffdRegister {
            start: mapping.address().addr() as u64,
            length: mapping.size(),
            mode: MODE_WP,
            ioctls: 0,
        };
        // Each time: parts that were given back are other memory since, and not watched.
        // SAFETY: the argument is what the request takes and lives over the call. It changes no bytes of the mapping.
        unsafe { ask(&self.protection, UFFDIO_REGISTER, &mut register) }.map_err(failed)?;
        let wanted = Wanted {
            flags: WP_MATCHING,
            inverted: 0,
            all: IS_WRITTEN,
        };
        let mut parts = Vec::new();
        self.scan(mapping, 0..mapping.size(), wanted, &mut parts)
            .map_err(failed)?;
        Ok(parts)
    }

    /// Which pages of these parts are private ones, and not those of a file.
    pub(crate) fn private(
        &self,
        mapping: &Mapping,
        parts: &[Range<u64>],
    ) -> Result<Vec<Range<u64>>, Error> {
        let wanted = Wanted {
            flags: 0,
            inverted: IS_FILE,
            all: IS_FILE,
        };
        let mut found = Vec::new();
        for part in parts {
            let scanned = self.scan(mapping, part.clone(), wanted, &mut found);
            scanned.map_err(|source| Error::Watch { source })?;
        }
        Ok(found)
    }

    fn scan(
        &self,
        mapping: &Mapping,
        part: Range<u64>,
        wanted: Wanted,
        found: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        let first = mapping.address().addr() as u64;
        let mut regions = [PageRegion::default(); RANGES];
        let mut at = part.start;
        while at < part.end {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: wanted.flags,
                start: first + at,
                end: first + part.end,
                walk_end: 0,
                vec: regions.as_mut_ptr().addr() as u64,
                vec_len: regions.len() as u64,
                max_pages: 0,
                category_inverted: wanted.inverted,
                category_mask: wanted.all,
                category_anyof_mask: IS_PRESENT | IS_SWAPPED,
                return_mask: wanted.all,
            };
            regions.as_mut_ptr().expose_provenance();
            // SAFETY: the argument is what the request takes; the ranges that it names have room for as many as it
            // says, and both live over the call. No bytes of the mapping change.
            let count = unsafe { ask(&self.map, PAGEMAP_SCAN, &mut arg) }?;
            for region in regions.iter().take(count) {
                push(found, region.start - first..region.end - first);
            }
            let next = arg.walk_end.saturating_sub(first);
            if next <= at {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at = next;
        }
        Ok(())
    }
}

/// `ioctl(2)`, repeated if a signal interrupts it.
///
/// # Safety
/// `argument` is what the request takes, and what it names lives over the call.
unsafe fn ask<T>(file: &impl AsRawFd, request: u64, argument: &mut T) -> io::Result<usize> {
    loop {
        // SAFETY: as the caller says.
        let answer =
            unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if let Ok(answer) = usize::try_from(answer) {
            return Ok(answer);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
