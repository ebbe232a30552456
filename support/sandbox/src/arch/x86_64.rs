//! 64-bit x86.

use libc::c_long;

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`: what seccomp reports as the architecture.
///
/// Calls through the 32-bit gate report another one. The x32 ABI reports this one but sets bit 30
/// of the call's number, so that its calls are never in a filter.
pub(crate) const AUDIT_ARCH: u32 = 0xc000_003e;

/// The wait on an epoll descriptor.
pub(crate) const SYS_EPOLL_WAIT: c_long = libc::SYS_epoll_wait;

/// Names of system calls that newer architectures no longer have.
pub(crate) const OWN_NAMES: &[(c_long, &str)] = &[
    (libc::SYS_access, "access"),
    (libc::SYS_alarm, "alarm"),
    (libc::SYS_arch_prctl, "arch_prctl"),
    (libc::SYS_chmod, "chmod"),
    (libc::SYS_creat, "creat"),
    (libc::SYS_dup2, "dup2"),
    (libc::SYS_epoll_wait, "epoll_wait"),
    (libc::SYS_fork, "fork"),
    (libc::SYS_lstat, "lstat"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_open, "open"),
    (libc::SYS_pause, "pause"),
    (libc::SYS_pipe, "pipe"),
    (libc::SYS_poll, "poll"),
    (libc::SYS_readlink, "readlink"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_select, "select"),
    (libc::SYS_stat, "stat"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_time, "time"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_vfork, "vfork"),
];
