//! The system calls of this crate, by who makes them.

use sandbox::Allow;

use crate::sys;

/// What the thread that opens images, opens lanes and changes sizes calls beyond [`sandbox::COMMON`].
pub const OWNER: &[Allow] = &[
    Allow::call(libc::SYS_openat),
    // What kind of file it is, its size, alignments and signature.
    Allow::call(libc::SYS_fstat),
    Allow::call(libc::SYS_statx),
    Allow::call(libc::SYS_newfstatat),
    Allow::call(libc::SYS_fstatfs),
    Allow::call(libc::SYS_pread64),
    // Tables of formats that are written: a lost footer, a log to be replayed, another size.
    Allow::call(libc::SYS_pwrite64),
    Allow::call(libc::SYS_fdatasync),
    Allow::ioctl(&[
        sys::BLKGETSIZE64 as u64,
        sys::BLKSSZGET as u64,
        sys::BLKPBSZGET as u64,
        sys::BLKIOMIN as u64,
        sys::BLKIOOPT as u64,
        sys::BLKDISCARD as u64,
    ]),
    // The lock; direct I/O.
    Allow::arg32(
        libc::SYS_fcntl,
        1,
        &[
            libc::F_OFD_SETLK as u64,
            libc::F_GETFL as u64,
            libc::F_SETFL as u64,
        ],
    ),
    // Whether space can be given back; another size.
    Allow::call(libc::SYS_fallocate),
    Allow::call(libc::SYS_ftruncate),
    // Engines.
    Allow::call(libc::SYS_io_uring_setup),
    Allow::call(libc::SYS_io_uring_register),
    Allow::call(libc::SYS_io_setup),
    Allow::call(libc::SYS_io_destroy),
    // Draining and dropping lanes.
    Allow::call(libc::SYS_io_uring_enter),
    Allow::call(libc::SYS_io_getevents),
    Allow::call(libc::SYS_io_submit),
    Allow::call(libc::SYS_ppoll),
];

/// What a thread that works on a lane calls beyond [`sandbox::COMMON`], whatever the engine: the choice is made when
/// the disk is opened, on the host where it is.
pub const WORKER: &[Allow] = &[
    // io_uring, and the question whether it can write to the page cache by itself.
    Allow::call(libc::SYS_io_uring_enter),
    Allow::call(libc::SYS_pwritev2),
    // Linux AIO.
    Allow::call(libc::SYS_io_submit),
    Allow::call(libc::SYS_io_getevents),
    Allow::call(libc::SYS_io_destroy),
    // Plain calls; fallocate also with Linux AIO, which has no such request.
    Allow::call(libc::SYS_preadv),
    // Tables, compressed clusters and backing files of QCOW2.
    Allow::call(libc::SYS_pread64),
    // Tables of VHD and VHDX.
    Allow::call(libc::SYS_pwrite64),
    Allow::call(libc::SYS_pwritev),
    Allow::call(libc::SYS_fdatasync),
    Allow::call(libc::SYS_fallocate),
    // Discards on block devices; the end of a file whose last block is not whole (`O_DIRECT`).
    Allow::ioctl(&[sys::BLKDISCARD as u64]),
    Allow::call(libc::SYS_ftruncate),
    // The lock, if a lane is the last to go.
    Allow::arg32(libc::SYS_fcntl, 1, &[libc::F_OFD_SETLK as u64]),
    // Waiting for another lane.
    Allow::call(libc::SYS_ppoll),
];
