//! Settings of the process and of a thread's place on the processor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, c_ulong, pid_t};

use crate::Error;

/// Entries the table of open files has room for from the start.
const FILE_TABLE: c_int = 4096;

/// CPU numbers from here on are refused rather than given a large mask: the kernel stops at 8192.
const MAX_CPUS: usize = 1 << 16;

/// Who shares a core scheduling cookie: only threads with the same one run on sibling hardware
/// threads at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreScope {
    /// A new cookie for the calling thread.
    CreateThread,
    /// A new cookie for all threads of the calling process.
    CreateProcess,
    /// A new cookie for all processes of the calling process's group.
    CreateProcessGroup,
    /// The calling thread takes the cookie of the thread with this id.
    ShareFrom(pid_t),
}

/// Sets the core scheduling cookie (`prctl(2)`, `PR_SCHED_CORE`), so that threads of other owners
/// never share a physical core with a guest.
///
/// # Errors
///
/// [`Error::CoreSchedulingUnavailable`] if the kernel was built without it or the processor has no
/// hardware threads; [`Error::CoreScheduling`] otherwise, such as for a thread that is gone.
pub fn core_scheduling(scope: CoreScope) -> Result<(), Error> {
    let (command, thread, reach) = match scope {
        CoreScope::CreateThread => (
            libc::PR_SCHED_CORE_CREATE,
            0,
            libc::PR_SCHED_CORE_SCOPE_THREAD,
        ),
        CoreScope::CreateProcess => (
            libc::PR_SCHED_CORE_CREATE,
            0,
            libc::PR_SCHED_CORE_SCOPE_THREAD_GROUP,
        ),
        CoreScope::CreateProcessGroup => (
            libc::PR_SCHED_CORE_CREATE,
            0,
            libc::PR_SCHED_CORE_SCOPE_PROCESS_GROUP,
        ),
        CoreScope::ShareFrom(thread) => (
            libc::PR_SCHED_CORE_SHARE_FROM,
            thread,
            libc::PR_SCHED_CORE_SCOPE_THREAD,
        ),
    };
    // The kernel takes these as longs; the small numbers keep their value.
    let [command, thread, reach] = [command, thread, reach].map(|n| i64::from(n).cast_unsigned());
    // SAFETY: this prctl option takes numbers; the last is a pointer for another command, and null.
    let result = unsafe { libc::prctl(libc::PR_SCHED_CORE, command, thread, reach, 0 as c_ulong) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENODEV) => Err(Error::CoreSchedulingUnavailable),
        _ => Err(Error::CoreScheduling(error)),
    }
}

/// Lets the calling thread run on these host CPUs only. Their numbers may exceed 1023.
///
/// # Errors
///
/// [`Error::NoCpus`] for an empty list; [`Error::CpuUnavailable`] if any of the CPUs is absent,
/// offline or outside the process's cpuset, which leaves the thread where it was.
pub fn pin_current_thread(cpus: &[usize]) -> Result<(), Error> {
    let highest = *cpus.iter().max().ok_or(Error::NoCpus)?;
    if highest >= MAX_CPUS {
        return Err(Error::CpuUnavailable { cpu: highest });
    }
    let mut wanted = vec![0u64; highest / 64 + 1];
    for &cpu in cpus {
        wanted[cpu / 64] |= bit(cpu);
    }

    let before = affinity()?;
    match set_affinity(&wanted) {
        // None of the CPUs can be used.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Err(Error::CpuUnavailable { cpu: cpus[0] });
        }
        result => result.map_err(Error::Affinity)?,
    }
    // The kernel quietly drops CPUs that it cannot use from the mask; that is not what was asked.
    let now = affinity()?;
    let is_in = |cpu: usize| now.get(cpu / 64).is_some_and(|word| word & bit(cpu) != 0);
    if let Some(&cpu) = cpus.iter().find(|&&cpu| !is_in(cpu)) {
        set_affinity(&before).map_err(Error::Affinity)?;
        return Err(Error::CpuUnavailable { cpu });
    }
    Ok(())
}

/// A CPU's bit in its word of a mask.
fn bit(cpu: usize) -> u64 {
    1 << (cpu % 64)
}

/// The CPUs the calling thread may run on.
fn affinity() -> Result<Vec<u64>, Error> {
    let mut mask = vec![0u64; MAX_CPUS / 64];
    // SAFETY: the kernel writes at most the given number of bytes, which the vector has.
    let bytes = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            size_of_val(&*mask),
            mask.as_mut_ptr(),
        )
    };
    let bytes = usize::try_from(bytes).map_err(|_| Error::Affinity(io::Error::last_os_error()))?;
    mask.truncate(bytes / size_of::<u64>());
    Ok(mask)
}

/// Moves the calling thread to the CPUs in the mask.
fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // The C library's wrapper is the same call but ties the length to its 1024-bit type.
    // SAFETY: the kernel reads the given number of bytes, which the slice has.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(mask),
            mask.as_ptr(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the settings that the whole process runs with; called first in `main`.
///
/// Files made from now on are for their owner only (umask 0077). The table of open files gets room
/// for 4096: growing it once there are threads makes all of them wait for each other.
///
/// # Errors
///
/// [`Error::Prepare`] if no descriptor can be opened.
pub fn prepare_process() -> Result<(), Error> {
    use_one_heap();
    // SAFETY: takes a number only and cannot fail.
    unsafe { libc::umask(0o077) };
    grow_file_table().map_err(|source| Error::Prepare {
        what: "grow the table of open files",
        source,
    })
}

/// Keeps the C library from giving each thread a heap of its own: our threads allocate little, and each heap
/// costs four system calls when the thread starts and up to 132 KiB. Other C libraries have one heap anyway.
fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers only; called before there are threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Uses the table's last entry for a moment, which makes the kernel allocate all of it.
fn grow_file_table() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to `limit`, which lives across the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // A table that may not grow so far need not.
    let entries = c_int::try_from(limit.rlim_cur).map_or(FILE_TABLE, |l| l.min(FILE_TABLE));
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else knows the descriptor that was just made.
    let small = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: takes numbers only, and gives the lowest free descriptor from the third one on.
    let fd = unsafe { libc::fcntl(small.as_raw_fd(), libc::F_DUPFD_CLOEXEC, entries - 1) };
    if fd >= 0 {
        // SAFETY: nobody else knows the descriptor that was just made.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    // Failing to get the very last entry means that it is in use, so the table has that size.
    Ok(())
}

#[cfg(test)]
mod tests;
