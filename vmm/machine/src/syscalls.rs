//! What the monitor's threads may ask of the host's kernel.
//!
//! Filters are inherited and can only get narrower: the driver thread starts all others, so that its filter is
//! the sum of theirs and of what building a machine takes.

use sandbox::Allow;

/// System calls of a processor's thread: run the guest, and whatever a device does on the guest's access.
pub(crate) fn vcpu() -> Vec<&'static [Allow]> {
    let mut sets = vec![sandbox::COMMON, VCPU];
    sets.extend(catalog::syscalls().map(|kind| kind.vcpu));
    sets
}

/// System calls of the driver thread.
pub(crate) fn driver() -> Vec<&'static [Allow]> {
    let mut sets = vcpu();
    sets.push(sandbox::SPAWN);
    sets.push(DRIVER);
    sets.push(HAND_OVER);
    sets.push(PAGER);
    sets.push(ON_DEMAND);
    sets.extend(catalog::syscalls().flat_map(|kind| [kind.owner, kind.worker]));
    sets
}

/// System calls of the thread that hands children of a machine over.
pub(crate) fn fork() -> Vec<&'static [Allow]> {
    vec![sandbox::COMMON, HAND_OVER]
}

/// System calls of the threads that let memory come from a snapshot.
pub(crate) fn pager() -> Vec<&'static [Allow]> {
    vec![sandbox::COMMON, PAGER]
}

const PAGER: &[Allow] = &[
    Allow::ioctl(memory::USERFAULT_IOCTLS),
    Allow::call(libc::SYS_ppoll),
    Allow::call(libc::SYS_pread64),
];

const ON_DEMAND: &[Allow] = &[Allow::call(libc::SYS_userfaultfd)];

const HAND_OVER: &[Allow] = &[
    // Reaching another monitor (on the driver's thread), and talking to it.
    Allow::arg32(libc::SYS_socket, 0, &[libc::AF_UNIX as u64]),
    Allow::call(libc::SYS_connect),
    Allow::arg32(libc::SYS_setsockopt, 1, &[libc::SOL_SOCKET as u64]),
    Allow::call(libc::SYS_sendmsg),
    Allow::call(libc::SYS_recvfrom),
    Allow::call(libc::SYS_sendto),
    // Configuration and state in memory files, and the length of memory's.
    Allow::call(libc::SYS_memfd_create),
    Allow::call(libc::SYS_fcntl),
    Allow::call(libc::SYS_fstat),
    Allow::call(libc::SYS_statx),
];

const VCPU: &[Allow] = &[Allow::ioctl(hypervisor::VCPU_IOCTLS)];

const DRIVER: &[Allow] = &[
    // Building the machine in the hypervisor.
    Allow::ioctl(hypervisor::VM_IOCTLS),
    // Reading kernel, firmware and initramfs.
    Allow::call(libc::SYS_openat),
    Allow::call(libc::SYS_statx),
    Allow::call(libc::SYS_fstat),
    Allow::call(libc::SYS_lseek),
    Allow::call(libc::SYS_pread64),
    // Guest memory that others can map.
    Allow::call(libc::SYS_memfd_create),
    Allow::call(libc::SYS_ftruncate),
    Allow::call(libc::SYS_fcntl),
    Allow::call(libc::SYS_sched_getaffinity),
    // Writing a snapshot, and finding what is in its memory file.
    Allow::call(libc::SYS_pwrite64),
    Allow::call(libc::SYS_fsync),
    Allow::call(libc::SYS_renameat2),
    Allow::call(libc::SYS_linkat),
    Allow::call(libc::SYS_unlink),
    // What of memory was written since a fork.
    Allow::call(libc::SYS_userfaultfd),
    Allow::ioctl(memory::WATCH_IOCTLS),
    // Which sizes of huge pages the host has, to explain a refusal.
    Allow::call(libc::SYS_newfstatat),
    Allow::call(libc::SYS_getdents64),
    // Places of the processors' threads on the host's.
    Allow::call(libc::SYS_sched_setaffinity),
    Allow::arg32(libc::SYS_prctl, 0, &[libc::PR_SCHED_CORE as u64]),
    // Making a processor's thread leave the guest: the signal, and the handler for it.
    Allow::call(libc::SYS_rt_sigaction),
    Allow::call(libc::SYS_tgkill),
];
