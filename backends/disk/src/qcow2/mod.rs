//! QCOW2 images, to be read.
//!
//! The specification is "Qcow2 Image File Format" (`docs/interop/qcow2`). An image is hostile: its header, its tables
//! and its clusters may have been written by a guest. Memory is limited by the size of a cluster and of a cache, not
//! by what the image says; files that it names are opened only with `backing_files=on`.
//!
//! | Feature | |
//! |---|---|
//! | Versions 2 and 3, clusters of 512 bytes to 2 MiB, any size of disk | read |
//! | Zero clusters, clusters that are not allocated, internal snapshots beside the active state | read |
//! | Clusters compressed with deflate | read |
//! | Extended L2 entries | read |
//! | External data file | read, with `backing_files=on` |
//! | Backing files, raw and QCOW2, whose format the image says | read, with `backing_files=on` |
//! | Images that are marked as dirty or corrupt | read: refcounts are not needed for that |
//! | Clusters compressed with zstd; encryption; unknown incompatible features | refused, by name |
//! | Writing of any kind | refused: `readonly=on` is needed |

mod disk;
mod extensions;
mod header;
mod lane;
mod map;
mod open;
mod read;
mod table;
#[cfg(test)]
mod tests;

use std::io;

pub(crate) use open::open;

/// The image contradicts itself, or not all of it is there.
fn corrupt(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// What is smaller than a cluster, as a length in memory.
fn narrow(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
