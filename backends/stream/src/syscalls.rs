//! The system calls of this crate, by who makes them.

use sandbox::Allow;

/// What the thread of an [`InputWorker`](crate::InputWorker) calls beyond [`sandbox::COMMON`].
pub const SYSCALLS: &[Allow] = &[
    // Taking clients in.
    Allow::call(libc::SYS_accept4),
    // Asking whether a client is still there.
    Allow::call(libc::SYS_ppoll),
    // The size of a terminal.
    Allow::ioctl(&[libc::TIOCGWINSZ]),
];

/// What a thread that writes to an [`Output`](crate::Output) calls beyond [`sandbox::COMMON`]: a
/// vCPU thread, for a device that prints.
pub const OUTPUT_SYSCALLS: &[Allow] = &[
    // Waiting for room in a terminal or pipe.
    Allow::call(libc::SYS_ppoll),
];

/// What a thread that opens a [`Stream`](crate::Stream) calls beyond [`sandbox::COMMON`].
pub const OPEN_SYSCALLS: &[Allow] = &[
    Allow::call(libc::SYS_openat),
    // What kind of file there is.
    Allow::call(libc::SYS_statx),
    Allow::call(libc::SYS_fstat),
    // Duplicating standard input and output; making a special file non-blocking.
    Allow::call(libc::SYS_fcntl),
    // The terminal: is it one, its modes, raw and back. A pseudo terminal: number, lock, peer.
    Allow::ioctl(&[
        libc::TCGETS,
        libc::TCGETS2,
        libc::TCSETS,
        libc::TCSETS2,
        libc::TIOCGWINSZ,
        libc::TIOCGPTN,
        libc::TIOCSPTLCK,
        libc::TIOCGPTPEER,
    ]),
    // Learning of openers of a pseudo terminal.
    Allow::call(libc::SYS_inotify_init1),
    Allow::call(libc::SYS_inotify_add_watch),
    // A socket, and whether the one already there is alive.
    Allow::call(libc::SYS_socket),
    Allow::call(libc::SYS_connect),
    Allow::call(libc::SYS_fchmod),
    Allow::call(libc::SYS_bind),
    Allow::call(libc::SYS_listen),
    Allow::call(libc::SYS_unlinkat),
];
