//! 64-bit RISC-V.

use libc::c_long;

/// `AUDIT_ARCH_RISCV64` of `linux/audit.h`: what seccomp reports as the architecture.
pub(crate) const AUDIT_ARCH: u32 = 0xc000_00f3;

/// The wait on an epoll descriptor: this architecture never had `epoll_wait`.
pub(crate) const SYS_EPOLL_WAIT: c_long = libc::SYS_epoll_pwait;

/// Names of system calls that only this architecture has.
pub(crate) const OWN_NAMES: &[(c_long, &str)] = &[];
