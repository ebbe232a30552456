//! The sets of system calls that are not about any one device.

use libc::{
    F_GETFD, PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PROT_EXEC, SYS_brk, SYS_clock_gettime,
    SYS_clock_nanosleep, SYS_clone, SYS_clone3, SYS_close, SYS_epoll_create1, SYS_epoll_ctl,
    SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2, SYS_exit, SYS_fcntl, SYS_futex, SYS_getcwd,
    SYS_getrandom, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap, SYS_nanosleep,
    SYS_prctl, SYS_read, SYS_restart_syscall, SYS_rseq, SYS_rt_sigprocmask, SYS_sched_getaffinity,
    SYS_sched_yield, SYS_seccomp, SYS_set_robust_list, SYS_sigaltstack, SYS_timerfd_create,
    SYS_timerfd_settime, SYS_write, SYS_writev,
};

use crate::Allow;
use crate::arch;

/// Nothing makes code at run time.
const EXECUTABLE: u64 = PROT_EXEC as u64;

/// What any thread of ours needs, whatever its work is.
///
/// The calls of the ways out (abort, panic, [`crate::crash`]) are not here: [`crate::Filter`] adds
/// them to every filter by itself.
pub const COMMON: &[Allow] = &[
    // Locks, channels, parking, joining.
    Allow::call(SYS_futex),
    Allow::call(SYS_sched_yield),
    // The allocator, and a thread's stack when it ends.
    Allow::call(SYS_brk),
    Allow::masked(SYS_mmap, 2, EXECUTABLE, &[0]),
    Allow::masked(SYS_mprotect, 2, EXECUTABLE, &[0]),
    Allow::call(SYS_mremap),
    Allow::call(SYS_munmap),
    Allow::call(SYS_madvise),
    // Event descriptors, timers and streams that are already open; log lines.
    Allow::call(SYS_read),
    Allow::call(SYS_write),
    Allow::call(SYS_writev),
    Allow::call(SYS_close),
    // Debug builds of the standard library ask whether a descriptor is open before closing it.
    Allow::arg32(SYS_fcntl, 1, &[F_GETFD as u64]),
    // The wait of every worker (crate `reactor`).
    Allow::call(SYS_epoll_create1),
    Allow::call(SYS_epoll_ctl),
    Allow::call(arch::SYS_EPOLL_WAIT),
    Allow::call(SYS_epoll_pwait),
    Allow::call(SYS_epoll_pwait2),
    Allow::call(SYS_eventfd2),
    Allow::call(SYS_timerfd_create),
    Allow::call(SYS_timerfd_settime),
    // Time: usually answered without the kernel, but not with every clock source.
    Allow::call(SYS_clock_gettime),
    Allow::call(SYS_clock_nanosleep),
    Allow::call(SYS_nanosleep),
    Allow::call(SYS_restart_syscall),
    // The seed of a thread's first hash map, and of the allocator's cache.
    Allow::call(SYS_getrandom),
    // What a relative path counts from, for files to be removed at the end ([`crate::crash::LastAct`]).
    Allow::call(SYS_getcwd),
    // The end of a thread: signals off, alternate stack away, exit.
    Allow::call(SYS_rt_sigprocmask),
    Allow::call(SYS_sigaltstack),
    Allow::call(SYS_exit),
];

/// What a thread needs besides [`COMMON`] to start further threads and filter them.
///
/// A thread inherits its parent's filter and can only narrow it. So the parent's filter must have
/// these, and everything that the threads it starts will be permitted.
pub const SPAWN: &[Allow] = &[
    Allow::call(SYS_clone),
    Allow::call(SYS_clone3),
    // The new thread introduces itself to the kernel; then its stack's bounds are asked for.
    Allow::call(SYS_set_robust_list),
    Allow::call(SYS_rseq),
    Allow::call(SYS_sched_getaffinity),
    // Its name, and its own filter.
    Allow::arg32(
        SYS_prctl,
        0,
        &[PR_SET_NAME as u64, PR_SET_NO_NEW_PRIVS as u64],
    ),
    Allow::call(SYS_seccomp),
];
