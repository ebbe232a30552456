//! Where the bytes of the disk are (QCOW2 specification, "Cluster mapping").

use std::io;

use super::corrupt;
use super::header::Header;
use super::table::Pages;

/// Bits 9 to 55 of an entry: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Parts of a cluster with extended L2 entries.
const PARTS: u32 = 32;

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in this image: in the backing file, or zeros if there is none.
    Unallocated,
    /// Nowhere: they are zeros.
    Zero,
    /// At this offset in the file of the data.
    Data(u64),
    /// In a compressed cluster: at this offset in the image, and at most so long.
    Compressed { offset: u64, length: usize },
}

/// The tables of an image.
pub(crate) struct Map {
    header: Header,
    pages: Pages,
}

impl Map {
    pub(crate) fn new(header: Header, pages: Pages) -> Self {
        Self { header, pages }
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Where the bytes from `offset` on are, and how many of the next `most` follow each other there.
    ///
    /// # Errors
    /// If a table cannot be read or says what cannot be.
    pub(crate) fn find(&self, offset: u64, most: u64) -> io::Result<(Place, u64)> {
        let (place, mut length) = self.at(offset)?;
        while length < most && !matches!(place, Place::Compressed { .. }) {
            let Some(next) = offset
                .checked_add(length)
                .filter(|at| *at < self.header.size)
            else {
                break;
            };
            let (follows, more) = self.at(next)?;
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

    /// Where one byte is, and how many are there up to the end of its cluster or part of one.
    fn at(&self, offset: u64) -> io::Result<(Place, u64)> {
        let header = &self.header;
        let (cluster, l2_bits) = (header.cluster(), header.l2_bits());
        let span_bits = header.cluster_bits + l2_bits;
        let index = offset >> span_bits;
        if index >= header.l1_entries {
            return Err(corrupt(format!(
                "the L1 table ends before offset {offset:#x}"
            )));
        }
        let l1 = self.pages.entry(header.l1_offset + 8 * index)?;
        if l1 & !(OFFSET | COPIED) != 0 || !(l1 & OFFSET).is_multiple_of(cluster) {
            return Err(corrupt(format!(
                "the L1 entry {l1:#x} has bits that have no meaning"
            )));
        }
        if l1 & OFFSET == 0 {
            let span = 1 << span_bits;
            return Ok((Place::Unallocated, span - offset % span));
        }
        let number = (offset >> header.cluster_bits) & ((1 << l2_bits) - 1);
        let entry_size = if header.extended_l2 { 16 } else { 8 };
        let at = (l1 & OFFSET) + number * entry_size;
        let entry = self.pages.entry(at)?;
        let within = offset % cluster;
        if entry & COMPRESSED != 0 {
            return Ok((self.compressed(entry)?, cluster - within));
        }
        let known = match header.version == 2 || header.extended_l2 {
            true => OFFSET | COPIED,
            false => OFFSET | COPIED | ZERO,
        };
        if entry & !known != 0 || !(entry & OFFSET).is_multiple_of(cluster) {
            return Err(corrupt(format!(
                "the L2 entry {entry:#x} has bits that have no meaning"
            )));
        }
        if header.extended_l2 {
            let parts = self.pages.entry(at + 8)?;
            return self.part(entry, parts, within);
        }
        let place = match entry {
            _ if entry & ZERO != 0 => Place::Zero,
            _ => match self.data(entry) {
                Some(start) => Place::Data(start + within),
                None => Place::Unallocated,
            },
        };
        Ok((place, cluster - within))
    }

    /// Where the data of a cluster is, if it has any. 0 is the header, unless the data is in a file of its own.
    fn data(&self, entry: u64) -> Option<u64> {
        let offset = entry & OFFSET;
        let first = self.header.external_data.is_some() && entry & COPIED != 0;
        (offset != 0 || first).then_some(offset)
    }

    /// The part of a cluster that a byte is in ("Extended L2 Entries").
    fn part(&self, entry: u64, parts: u64, within: u64) -> io::Result<(Place, u64)> {
        let size = self.header.cluster() / u64::from(PARTS);
        let number = within / size;
        let allocated = parts & (1 << number) != 0;
        let zero = parts & (1 << (number + u64::from(PARTS))) != 0;
        let place = match (allocated, zero, self.data(entry)) {
            (false, true, _) => Place::Zero,
            (false, false, _) => Place::Unallocated,
            (true, false, Some(start)) => Place::Data(start + within),
            _ => {
                return Err(corrupt(format!(
                    "the L2 entry {entry:#x} contradicts its parts {parts:#x}"
                )));
            }
        };
        Ok((place, size - within % size))
    }

    /// "Compressed Clusters Descriptor".
    fn compressed(&self, entry: u64) -> io::Result<Place> {
        if self.header.external_data.is_some() || entry & COPIED != 0 {
            return Err(corrupt(format!(
                "the compressed cluster {entry:#x} cannot be"
            )));
        }
        let bits = 62 - (self.header.cluster_bits - 8);
        let offset = entry & ((1 << bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> bits;
        let length = (sectors + 1) * 512 - offset % 512;
        // At most two clusters and a sector.
        let length = usize::try_from(length).map_err(|_| corrupt("a cluster is too long"))?;
        Ok(Place::Compressed { offset, length })
    }
}
