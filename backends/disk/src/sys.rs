//! System calls that no library of ours has, or has only with references where the kernel takes addresses.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use libc::{c_int, c_long, c_ulong, iovec};

/// The address of vectors. Whoever makes it keeps the vectors, and what they point to, until the kernel is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    pub(crate) first: *const iovec,
    pub(crate) count: u32,
}

// SAFETY: a pair of numbers; it is only ever handed to the kernel, which ties addresses to the process.
unsafe impl Send for Vectors {}

/// A context of Linux AIO (io_setup(2)).
#[derive(Debug)]
pub(crate) struct AioContext(c_ulong);

/// A completion as the kernel writes it (`struct io_event`, linux/aio_abi.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AioEvent {
    pub(crate) data: u64,
    object: u64,
    pub(crate) result: i64,
    result2: i64,
}

impl AioContext {
    pub(crate) fn new(events: u32) -> io::Result<Self> {
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes one number to the address, which is that of a variable.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) };
        check(result)?;
        Ok(Self(context))
    }

    /// Begins requests; gives how many of them, from the first one on.
    ///
    /// # Safety
    /// Whatever the requests point to stays valid, and is not borrowed, until their completions were told.
    pub(crate) unsafe fn submit(&self, requests: &[*mut libc::iocb]) -> io::Result<usize> {
        // SAFETY: a list of pointers and its length; the caller vouches for what they point to.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.0,
                requests.len(),
                requests.as_ptr(),
            )
        };
        check(result)
    }

    /// Waits for `minimum` completions and takes as many as there are and fit.
    pub(crate) fn events(&self, minimum: usize, events: &mut [AioEvent]) -> io::Result<usize> {
        let timeout: *const libc::timespec = ptr::null();
        // SAFETY: the kernel writes at most as many events as the list has; each is plain numbers.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.0,
                minimum,
                events.len(),
                events.as_mut_ptr(),
                timeout,
            )
        };
        check(result)
    }
}

impl Drop for AioContext {
    fn drop(&mut self) {
        // SAFETY: the context is ours and is not used again; the call waits for what is under way.
        let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// A request of which only the fields that the kernel looks at are to be filled in.
pub(crate) fn empty_request() -> libc::iocb {
    // SAFETY: a structure of integers, for which zero is a value.
    unsafe { mem::zeroed() }
}

/// preadv(2).
///
/// # Safety
/// The vectors are valid, and what they point to can be written and is not borrowed.
pub(crate) unsafe fn read(fd: RawFd, vectors: Vectors, offset: u64) -> io::Result<usize> {
    let (count, offset) = arguments(vectors, offset)?;
    // SAFETY: the caller vouches for the vectors.
    check(unsafe { libc::preadv(fd, vectors.first, count, offset) } as c_long)
}

/// pwritev(2).
///
/// # Safety
/// The vectors are valid, and what they point to can be read.
pub(crate) unsafe fn write(fd: RawFd, vectors: Vectors, offset: u64) -> io::Result<usize> {
    let (count, offset) = arguments(vectors, offset)?;
    // SAFETY: the caller vouches for the vectors.
    check(unsafe { libc::pwritev(fd, vectors.first, count, offset) } as c_long)
}

/// pwritev2(2) that would rather do nothing than wait (RWF_NOWAIT).
///
/// # Safety
/// The vectors are valid, and what they point to can be read.
pub(crate) unsafe fn write_at_once(fd: RawFd, vectors: Vectors, offset: u64) -> io::Result<usize> {
    let (count, offset) = arguments(vectors, offset)?;
    let flags = libc::RWF_NOWAIT;
    // SAFETY: the caller vouches for the vectors.
    check(unsafe { libc::pwritev2(fd, vectors.first, count, offset, flags) } as c_long)
}

fn arguments(vectors: Vectors, offset: u64) -> io::Result<(c_int, i64)> {
    match (c_int::try_from(vectors.count), i64::try_from(offset)) {
        (Ok(count), Ok(offset)) => Ok((count, offset)),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// fallocate(2) with a mode as the kernel takes it.
pub(crate) fn allocate(fd: RawFd, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let too_far = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let (offset, length) = (
        i64::try_from(offset).map_err(too_far)?,
        i64::try_from(length).map_err(too_far)?,
    );
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::fallocate(fd, mode, offset, length) }.into())?;
    Ok(())
}

/// fdatasync(2).
pub(crate) fn sync(fd: RawFd) -> io::Result<()> {
    // SAFETY: the call takes a number only.
    check(unsafe { libc::fdatasync(fd) }.into())?;
    Ok(())
}

/// Takes or changes a lock of the open file description (F_OFD_SETLK, fcntl(2)) on `length` bytes from the first one
/// on, 0 for all that there may ever be. `WouldBlock` if somebody else has one that excludes it.
pub(crate) fn lock(file: &File, exclusive: bool, length: u64) -> io::Result<()> {
    let kind = match exclusive {
        true => libc::F_WRLCK,
        false => libc::F_RDLCK,
    };
    set_lock(file, kind, i64::try_from(length).unwrap_or(0))
}

/// Gives up all locks of the open file description.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    set_lock(file, libc::F_UNLCK, 0)
}

fn set_lock(file: &File, kind: c_int, length: i64) -> io::Result<()> {
    // SAFETY: a structure of integers, for which zero is a value: from the first byte (SEEK_SET) on.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap_or_default();
    lock.l_len = length;
    // SAFETY: the kernel reads the structure, which lives until the call returns.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    check(result.into())?;
    Ok(())
}

/// `BLKGETSIZE64` of linux/fs.h, `_IOR(0x12, 114, size_t)`.
pub(crate) const BLKGETSIZE64: u32 = 0x8008_1272;
/// `BLKDISCARD` of linux/fs.h, `_IO(0x12, 119)`.
pub(crate) const BLKDISCARD: u32 = 0x1277;
/// `BLKIOMIN`, `BLKIOOPT`, `BLKSSZGET`, `BLKPBSZGET` of linux/fs.h.
pub(crate) const BLKIOMIN: u32 = 0x1278;
pub(crate) const BLKIOOPT: u32 = 0x1279;
pub(crate) const BLKSSZGET: u32 = 0x1268;
pub(crate) const BLKPBSZGET: u32 = 0x127b;

/// A number of 32 bits that a block device tells.
pub(crate) fn block_number(file: &File, request: u32) -> io::Result<u32> {
    let mut number: c_int = 0;
    // SAFETY: these requests write one `int` to the address.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request.into(), &raw mut number) };
    check(result.into())?;
    u32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
}

/// The size of a block device in bytes.
pub(crate) fn block_size(file: &File) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    // SAFETY: the request writes one number of 64 bits to the address.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64.into(), &raw mut bytes) };
    check(result.into())?;
    Ok(bytes)
}

/// Discards bytes of a block device.
pub(crate) fn block_discard(fd: RawFd, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the request reads two numbers of 64 bits at the address.
    let result = unsafe { libc::ioctl(fd, BLKDISCARD.into(), range.as_ptr()) };
    check(result.into())?;
    Ok(())
}

/// Takes the descriptor's number: whoever watches promises to keep it open.
pub(crate) fn number(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}

fn check(result: c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
