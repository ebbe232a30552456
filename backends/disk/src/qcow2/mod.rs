//! QCOW2 images.
//!
//! The specification is "Qcow2 Image File Format" (`docs/interop/qcow2`). An image is hostile: its header, its tables
//! and its clusters may have been written by a guest. Memory is limited by the size of a cluster, of caches and of the
//! tables that really are in the file, not by what the image says; files that it names are opened only with
//! `backing_files=on`, and those behind it only to be read.
//!
//! | Feature | |
//! |---|---|
//! | Versions 2 and 3, clusters of 512 bytes to 2 MiB, any size of disk | read and written |
//! | Refcounts of 1 to 64 bits; their table grows to 8 MiB | read and written |
//! | Zero clusters, clusters that are not allocated | read and written |
//! | Internal snapshots | kept: what they share is copied before it is changed |
//! | Clusters compressed with deflate or zstd | read; written anew, not compressed |
//! | Extended L2 entries | read and written |
//! | External data file | read and written, with `backing_files=on`; not with internal snapshots |
//! | Backing files, raw and QCOW2, whose format the image says | read, with `backing_files=on` |
//! | Discards and zeros | written; what is behind the image does not show through |
//! | Lazy refcounts | read and written; refcounts are always written |
//! | Images that are marked as dirty or corrupt | read: refcounts are not needed for that; refused to be written |
//! | Bitmaps, and other things that only a writer has to know | marked as not right any more (autoclear bits) |
//! | Another size, while the image is in use | larger and smaller; not of version 2 with snapshots |
//! | `direct=on` where a cluster, or its part, is smaller than a block of the file | refused to be written |
//! | Encryption; unknown incompatible features | refused, by name |
//!
//! An image that contradicts itself while it is in use is marked as corrupt and not written any more; each request that
//! would change it gets an error that says why. A compressed cluster that cannot be read is only lost itself.

mod cache;
mod check;
mod create;
mod disk;
mod entry;
mod epoch;
mod extensions;
mod flush;
mod header;
mod known;
mod lane;
mod map;
mod open;
mod owner;
mod read;
mod refcounts;
mod resize;
#[cfg(test)]
mod tests;
mod tool;
mod unpack;
mod write;

pub(crate) use check::check_telling;
pub(crate) use open::{behind, open};
pub(crate) use tool::make;

use crate::bytes::narrow;
use crate::error::corrupt;
