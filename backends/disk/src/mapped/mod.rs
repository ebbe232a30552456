//! Formats that cut the disk into blocks of one size, each of which is somewhere in the file or nowhere: VHD and VHDX.
//!
//! A format says where bytes are and makes room for them ([`Mapping`]). The rest is the same for all of them: lanes
//! hand what is in the file to the lane of the raw file, piece by piece where it is in several places, and fill what
//! is nowhere with zeros. So allocated blocks take the way of a raw image, whatever the engine.
//!
//! Room is made on the lane's own thread, which waits for it: once for each block of the disk.

mod disk;
mod lane;
pub(crate) mod parent;
mod table;
#[cfg(test)]
mod tests;

use std::io;

pub(crate) use disk::{MappedDisk, open_file};
pub(crate) use table::{PAGE, Table};

pub(crate) use crate::bytes::{be32, be64, le16, le32, le64, narrow, put};
pub(crate) use crate::error::{corrupt, impossible};

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: they are zeros.
    Zero,
    /// In the image that lies behind this one.
    Parent,
    /// At this offset in the file.
    Data(u64),
}

/// What a format knows of an image. Offsets and lengths are in bytes.
pub(crate) trait Mapping: Send + Sync {
    /// Size of the disk, a multiple of 512.
    fn capacity(&self) -> u64;

    /// Smallest unit that the guest is to address: 512 or 4096.
    fn logical_block(&self) -> u32 {
        512
    }

    /// Smallest unit that is efficient, as the image says.
    fn physical_block(&self) -> u32 {
        512
    }

    /// Where the bytes from `offset` on are, and how many of the next `most` follow each other there: at least one.
    ///
    /// # Errors
    /// If a table cannot be read or says what cannot be.
    fn find(&self, offset: u64, most: u64) -> io::Result<(Place, u64)>;

    /// Makes room in the file for all of these bytes: afterwards [`Mapping::find`] gives [`Place::Data`] for each, and
    /// they read as before. What leads there is safe at a power cut, and durable with the next flush.
    ///
    /// # Errors
    /// If there is no room, or the tables cannot be trusted.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Called before each change of bytes in the file.
    ///
    /// # Errors
    /// If the image cannot be marked as changed.
    fn begin_change(&self) -> io::Result<()> {
        Ok(())
    }

    /// Changes the size of the disk.
    ///
    /// # Errors
    /// If the image cannot have this size.
    fn resize(&self, capacity: u64) -> io::Result<()>;
}

/// The run of bytes at `offset` that are in one place, from what is known of the single blocks: `at` gives the place
/// of a byte and how many there are up to the end of its block.
pub(crate) fn run(
    offset: u64,
    most: u64,
    at: impl Fn(u64) -> io::Result<(Place, u64)>,
) -> io::Result<(Place, u64)> {
    let (place, mut length) = at(offset)?;
    while length < most {
        let (follows, more) = at(offset + length)?;
        let goes_on = match (place, follows) {
            (Place::Data(first), Place::Data(second)) => first + length == second,
            (first, second) => first == second,
        };
        if !goes_on {
            break;
        }
        length += more;
    }
    Ok((place, length.min(most)))
}

/// Reads all of `bytes`.
///
/// # Errors
/// Also if the file ends before.
pub(crate) fn read_all(
    storage: &dyn crate::storage::Storage,
    offset: u64,
    bytes: &mut [u8],
) -> io::Result<()> {
    let count = storage.read(offset, bytes)?;
    if count < bytes.len() {
        return Err(corrupt(format!(
            "the file ends before what should be at {offset:#x}"
        )));
    }
    Ok(())
}

/// Bytes that nobody can foretell, for ids.
///
/// # Errors
/// If the system has none.
pub(crate) fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
