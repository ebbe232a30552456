//! Entries of L2 tables (QCOW2 specification, "Standard Cluster Descriptor", "Compressed Clusters Descriptor",
//! "Extended L2 Entries").

use std::io;

use super::corrupt;
use super::header::Header;

/// Bits 9 to 55 of an entry: an offset in the file.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The refcount is 1: the cluster can be written where it is.
pub(crate) const COPIED: u64 = 1 << 63;
pub(crate) const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in this image: in the backing file, or zeros if there is none.
    Unallocated,
    /// Nowhere: they are zeros.
    Zero,
    /// At this offset in the file of the data.
    Data(u64),
    /// In a compressed cluster.
    Compressed(Packed),
}

/// A compressed cluster: at this offset in the image, and at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

/// What is known of a cluster of the disk. An image without extended L2 entries has clusters of one part: the lowest
/// bit of the masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Where its data is, or where room is kept for it.
    pub(crate) host: Option<u64>,
    /// [`COPIED`].
    pub(crate) copied: bool,
    pub(crate) packed: Option<Packed>,
    /// Parts that are at `host`.
    pub(crate) allocated: u32,
    /// Parts that are zeros.
    pub(crate) zero: u32,
}

impl Cluster {
    /// Reads an entry; `parts` is its second half, if entries have one.
    ///
    /// # Errors
    /// If it says what cannot be.
    pub(crate) fn parse(header: &Header, entry: u64, parts: u64) -> io::Result<Self> {
        if entry & COMPRESSED != 0 {
            return Self::parse_packed(header, entry);
        }
        let known = match header.has_zero_flag() && !header.extended_l2 {
            true => OFFSET | COPIED | ZERO,
            false => OFFSET | COPIED,
        };
        if entry & !known != 0 || !(entry & OFFSET).is_multiple_of(header.cluster()) {
            return Err(corrupt(format!(
                "the L2 entry {entry:#x} has bits that have no meaning"
            )));
        }
        let offset = entry & OFFSET;
        // 0 is the header, unless the data is in a file of its own.
        let first = header.external_data.is_some() && entry & COPIED != 0;
        let host = (offset != 0 || first).then_some(offset);
        let (allocated, zero) = if header.extended_l2 {
            halves(parts)
        } else if entry & ZERO != 0 {
            (0, 1)
        } else {
            (u32::from(host.is_some()), 0)
        };
        if allocated & zero != 0 || (allocated != 0 && host.is_none()) {
            return Err(corrupt(format!(
                "the L2 entry {entry:#x} contradicts its parts {parts:#x}"
            )));
        }
        Ok(Self {
            host,
            copied: entry & COPIED != 0,
            packed: None,
            allocated,
            zero,
        })
    }

    fn parse_packed(header: &Header, entry: u64) -> io::Result<Self> {
        if header.external_data.is_some() || entry & COPIED != 0 {
            return Err(corrupt(format!(
                "the compressed cluster {entry:#x} cannot be"
            )));
        }
        let bits = 62 - (header.cluster_bits - 8);
        let offset = entry & ((1 << bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> bits;
        let length = (sectors + 1) * 512 - offset % 512;
        // At most two clusters and a sector.
        let length = usize::try_from(length).map_err(|_| corrupt("a cluster is too long"))?;
        Ok(Self {
            packed: Some(Packed { offset, length }),
            ..Self::default()
        })
    }

    /// Both halves of the entry. A compressed cluster is never written.
    pub(crate) fn entry(&self, header: &Header) -> (u64, u64) {
        let copied = if self.copied { COPIED } else { 0 };
        let first = self.host.unwrap_or(0) | if self.host.is_some() { copied } else { 0 };
        if header.extended_l2 {
            let parts = u64::from(self.allocated) | u64::from(self.zero) << 32;
            (first, parts)
        } else {
            (first | u64::from(self.zero & 1), 0)
        }
    }

    /// Where the byte `within` the cluster is.
    pub(crate) fn place(&self, header: &Header, within: u64) -> Place {
        if let Some(packed) = self.packed {
            return Place::Compressed(packed);
        }
        let bit = 1_u32 << (within / header.part());
        match self.host {
            _ if self.zero & bit != 0 => Place::Zero,
            Some(host) if self.allocated & bit != 0 => Place::Data(host + within),
            _ => Place::Unallocated,
        }
    }
}

/// Allocated and zero parts.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves of a number of 64 bits"
)]
fn halves(parts: u64) -> (u32, u32) {
    (parts as u32, (parts >> 32) as u32)
}

/// The parts of a cluster from byte `start` to byte `end` of it, whole or not; `end` is behind `start`.
pub(crate) fn parts_between(header: &Header, start: u64, end: u64) -> u32 {
    let first = start / header.part();
    let behind = end.div_ceil(header.part());
    // 1 to 32 bits.
    let bits = u32::MAX >> (32 - (behind - first).clamp(1, 32));
    bits << first
}
