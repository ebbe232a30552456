//! Faults of missing pages that this process serves itself: `userfaultfd(2)`.
//!
//! Structures and numbers are those of `linux/userfaultfd.h`; what they mean is in
//! Documentation/admin-guide/mm/userfaultfd.rst. Faults of the kernel's own accesses are served as well, for the
//! hypervisor and I/O are such: so `UFFD_USER_MODE_ONLY`, which an unprivileged process could have, is of no use.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The device from which whoever may open it gets one (since Linux 6.1).
pub const USERFAULT_DEVICE: &str = "/dev/userfaultfd";

const API_VERSION: u64 = 0xaa;
const NEW: u64 = 0xaa00;
const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const UNREGISTER: u64 = 0x8010_aa01;
const WAKE: u64 = 0x8010_aa02;
const COPY: u64 = 0xc028_aa03;

/// Requests of `ioctl(2)` of those who set it up and of those who serve faults.
pub const USERFAULT_IOCTLS: &[u64] = &[NEW, API, REGISTER, UNREGISTER, WAKE, COPY];

/// `UFFD_FEATURE_MISSING_SHMEM`: memory files, too.
const MISSING_SHMEM: u64 = 1 << 5;
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;
/// `UFFD_EVENT_PAGEFAULT`.
const PAGE_FAULT: u8 = 0x12;
/// Length of `struct uffd_msg`, and where in it the address is.
const MESSAGE: usize = 32;
const ADDRESS: usize = 16;
/// Messages that are read at a time.
const MESSAGES: usize = 16;

#[repr(C)]
struct ApiRequest {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeRequest {
    start: u64,
    length: u64,
}

#[repr(C)]
struct RegisterRequest {
    range: RangeRequest,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct CopyRequest {
    target: u64,
    source: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

/// A descriptor through which faults are told and served. Dropping it lets everybody who waits go on.
#[derive(Debug)]
pub(crate) struct UserFault(OwnedFd);

impl UserFault {
    /// Asks the kernel for one that tells of the kernel's own faults, too; of memory files if `shared`.
    pub(crate) fn open(shared: bool) -> io::Result<Self> {
        let fault = Self::from_device().or_else(|_| Self::from_call())?;
        let features = if shared { MISSING_SHMEM } else { 0 };
        let mut api = ApiRequest {
            api: API_VERSION,
            features,
            ioctls: 0,
        };
        // SAFETY: the request is for this structure, which lives through the call.
        unsafe { fault.ioctl(API, (&raw mut api).cast()) }?;
        Ok(fault)
    }

    fn from_device() -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let device = options
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(USERFAULT_DEVICE)?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the request takes flags and touches no memory.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), NEW, flags) };
        Self::made(made.into())
    }

    fn from_call() -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the call takes flags and touches no memory.
        let made = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        Self::made(made)
    }

    fn made(descriptor: i64) -> io::Result<Self> {
        match i32::try_from(descriptor) {
            // SAFETY: the kernel has just made it for us.
            Ok(number) if number >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(number) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whoever touches pages of the range that are not there waits from here on.
    pub(crate) fn register(&self, start: u64, length: u64) -> io::Result<()> {
        let mut request = RegisterRequest {
            range: RangeRequest { start, length },
            mode: MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: the request is for this structure, which lives through the call.
        unsafe { self.ioctl(REGISTER, (&raw mut request).cast()) }
    }

    /// Missing pages of the range are empty ones again. Whoever waits goes on.
    pub(crate) fn unregister(&self, start: u64, length: u64) -> io::Result<()> {
        let mut request = RangeRequest { start, length };
        // SAFETY: the request is for this structure, which lives through the call.
        unsafe { self.ioctl(UNREGISTER, (&raw mut request).cast()) }
    }

    /// Whoever waits for a page of the range tries again.
    pub(crate) fn wake(&self, start: u64, length: u64) -> io::Result<()> {
        let mut request = RangeRequest { start, length };
        // SAFETY: the request is for this structure, which lives through the call.
        unsafe { self.ioctl(WAKE, (&raw mut request).cast()) }
    }

    /// Puts pages with these bytes to `target`, where there are none, and wakes whoever waits for them.
    ///
    /// `target` is in a range that was registered; both it and the number of bytes are whole pages. A page that is
    /// there already is `EEXIST`.
    pub(crate) fn copy(&self, target: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let mut request = CopyRequest {
                target: target + done as u64,
                source: rest.as_ptr().addr() as u64,
                length: rest.len() as u64,
                mode: 0,
                copied: 0,
            };
            // SAFETY: the request is for this structure, which lives through the call. The kernel reads the given
            // bytes, and writes only to pages that were not there, in ranges that were registered: guest memory.
            let result = unsafe { self.ioctl(COPY, (&raw mut request).cast()) };
            match result {
                Ok(()) => return Ok(()),
                // The kernel has done a part of it, or nothing because the process's memory is changing.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    done += usize::try_from(request.copied).unwrap_or(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Addresses that somebody waits for, as many as are told at once; none if nobody waits.
    pub(crate) fn faults(&self) -> io::Result<Vec<u64>> {
        let mut buffer = [0u8; MESSAGES * MESSAGE];
        // SAFETY: the buffer has that many bytes.
        let count =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        };
        let messages = buffer[..count].as_chunks::<MESSAGE>().0.iter();
        let faults = messages.filter(|message| message[0] == PAGE_FAULT);
        Ok(faults
            .filter_map(|message| message[ADDRESS..].first_chunk())
            .map(|address| u64::from_ne_bytes(*address))
            .collect())
    }

    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// # Safety
    /// `argument` is what the request takes.
    unsafe fn ioctl(&self, request: u64, argument: *mut libc::c_void) -> io::Result<()> {
        // SAFETY: the caller says so; the descriptor is open as long as this lives.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
