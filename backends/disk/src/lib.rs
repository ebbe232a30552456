//! Disk images and the ways to read and write them.
//!
//! [`open`] takes the path and the options of a disk and gives a [`Disk`].
//!
//! A [`Disk`] is an opened image. Each queue of a device opens a [`Lane`] to it: a way on which requests are under
//! way at the same time and complete in any order. A lane belongs to one thread; lanes of one disk do not wait for
//! each other.
//!
//! ```text
//!  queue worker (one thread)
//!    lane.watch(kick), lane.watch(stop)
//!    loop {
//!      pop chains ──▶ lane.push(Request { tag, op, vectors })      nothing happens yet
//!      lane.wait(&mut events)        one system call: submits what was pushed, waits for completions and descriptors
//!      Event::Done { tag, result, vectors } ──▶ complete the chain
//!      Event::Ready { token }               ──▶ doorbell, stop, timer
//!    }
//! ```

//!
//! # Layers
//!
//! A lane of a raw image has two parts. The upper one keeps the requests that are under way, continues short
//! transfers, and goes through buffers of its own where `O_DIRECT` does not take what the guest offers. The lower one
//! brings single steps to the kernel: io_uring, Linux AIO or plain system calls. A format above raw maps offsets and
//! hands requests on to the lane of the raw image below it.
//!
//! # Formats
//!
//! Raw images and block devices are read and written, and QCOW2 images: versions 2 and 3, all sizes of clusters,
//! deflate and zstd, extended L2 entries, internal snapshots beside; backing files and external data files with
//! [`OpenOptions::backing_files`]. Encryption and unknown features are refused, and say so. What a
//! request reads from or writes to places that are in the file goes to the engine; what is compressed, in a backing
//! file or nowhere yet is dealt with by the lane's thread.
//!
//! VHD and VHDX images are read, written and resized, fixed and dynamic; those with a parent are read. Allocated
//! blocks take the way of a raw image, whatever the engine. VMDK is refused.
//!
//! # Files that are not what they were
//!
//! An image that another program makes shorter while it is in use gives errors for what is gone (`EIO`), not zeros: a
//! guest takes zeros for data. Bytes after the last full sector of a file are not part of the disk.

mod behind;
mod buffer;
mod bytes;
mod claim;
mod contract;
mod damage;
mod detect;
mod error;
mod image;
mod lane;
mod mapped;
mod options;
mod pieces;
mod port;
mod qcow2;
mod raw;
mod slot;
mod storage;
mod sys;
pub mod syscalls;
#[cfg(test)]
mod tests;
pub mod tools;
mod vhd;
mod vhdx;

pub use contract::{Disk, Engine, Event, Lane, Operation, PassedOver, Request, Topology};
pub use error::Error;
pub use options::{ImageType, LockGranularity, OpenOptions};
pub use raw::{behind, open};
