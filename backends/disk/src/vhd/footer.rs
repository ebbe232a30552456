//! The footer, and the copy of it that dynamic images begin with (specification, "Hard Disk Footer Format").

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{LARGEST, SECTOR};
use crate::mapped::{be32, be64, put};

/// Bytes of a footer.
pub(crate) const FOOTER: usize = 512;
/// No offset.
pub(crate) const NOWHERE: u64 = u64::MAX;
const COOKIE: &[u8] = b"conectix";
/// Bit 1 of the features is always set; none of the others means anything to a reader.
const RESERVED_FEATURE: u32 = 2;
const VERSION: u32 = 0x0001_0000;
/// Where the checksum is.
const CHECKSUM: usize = 64;
/// The time stamps count from 2000-01-01 00:00:00 UTC, in seconds since 1970.
const EPOCH: u64 = 946_684_800;

/// What kind of image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskType {
    /// Byte n of the disk is byte n of the file.
    Fixed,
    /// Blocks are in the file once they were written.
    Dynamic,
    /// What is not in the file is in that of a parent.
    Differencing,
}

/// A footer that is in order. Fields that have no meaning here are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    bytes: [u8; FOOTER],
}

impl Footer {
    /// A footer of a new image.
    ///
    /// # Errors
    /// If the system has no random numbers for its id.
    pub(crate) fn new(disk_type: DiskType, size: u64) -> io::Result<Self> {
        let mut bytes = [0; FOOTER];
        put(&mut bytes, 0, COOKIE);
        put(&mut bytes, 8, &RESERVED_FEATURE.to_be_bytes());
        put(&mut bytes, 12, &VERSION.to_be_bytes());
        let (kind, header) = match disk_type {
            DiskType::Fixed => (2_u32, NOWHERE),
            DiskType::Dynamic => (3, FOOTER as u64),
            DiskType::Differencing => (4, FOOTER as u64),
        };
        put(&mut bytes, 16, &header.to_be_bytes());
        put(&mut bytes, 24, &now().to_be_bytes());
        // Creator application, its version, and the operating system, which has no number for ours: "Wi2k".
        put(&mut bytes, 28, b"clhv");
        put(&mut bytes, 32, &VERSION.to_be_bytes());
        put(&mut bytes, 36, b"Wi2k");
        put(&mut bytes, 40, &size.to_be_bytes());
        put(&mut bytes, 60, &kind.to_be_bytes());
        put(&mut bytes, 68, &crate::mapped::random()?);
        let mut footer = Self { bytes };
        footer.set_size(size);
        Ok(footer)
    }

    /// Reads a footer.
    ///
    /// # Errors
    /// What is wrong with it, in words; `None` if there is none.
    pub(crate) fn parse(bytes: &[u8; FOOTER]) -> Result<Self, Option<String>> {
        if !bytes.starts_with(COOKIE) || checksum(bytes, CHECKSUM) != be32(bytes, CHECKSUM) {
            return Err(None);
        }
        let footer = Self { bytes: *bytes };
        let version = be32(bytes, 12);
        if version >> 16 != VERSION >> 16 {
            return Err(Some(format!("its version {version:#x} is not known")));
        }
        footer.disk_type().map_err(Some)?;
        if bytes[84] != 0 {
            return Err(Some(
                "it belongs to a machine that was saved, and must not be changed without it".into(),
            ));
        }
        let size = footer.size();
        if size == 0 || !size.is_multiple_of(SECTOR) || size > LARGEST {
            return Err(Some(format!(
                "its size of {size} bytes is none: a multiple of 512 up to {LARGEST} is"
            )));
        }
        Ok(footer)
    }

    pub(crate) fn disk_type(&self) -> Result<DiskType, String> {
        match be32(&self.bytes, 60) {
            2 => Ok(DiskType::Fixed),
            3 => Ok(DiskType::Dynamic),
            4 => Ok(DiskType::Differencing),
            other => Err(format!("its disk type {other} is not known")),
        }
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        be64(&self.bytes, 48)
    }

    /// By what its children know it.
    pub(crate) fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[68..84]);
        id
    }

    /// Where the header of a dynamic image is.
    pub(crate) fn header_offset(&self) -> u64 {
        be64(&self.bytes, 16)
    }

    pub(crate) fn bytes(&self) -> &[u8; FOOTER] {
        &self.bytes
    }

    /// Changes the size, and what follows from it.
    pub(crate) fn set_size(&mut self, size: u64) {
        put(&mut self.bytes, 48, &size.to_be_bytes());
        let (cylinders, heads, sectors) = geometry(size / SECTOR);
        put(&mut self.bytes, 56, &cylinders.to_be_bytes());
        self.bytes[58] = heads;
        self.bytes[59] = sectors;
        let sum = checksum(&self.bytes, CHECKSUM);
        put(&mut self.bytes, CHECKSUM, &sum.to_be_bytes());
    }
}

/// The complement of the sum of all bytes but those of the checksum itself, at `at`.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let counted = bytes.iter().enumerate();
    let counted = counted.filter(|(place, _)| !(at..at + 4).contains(place));
    !counted.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

fn now() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = seconds.map_or(0, |time| time.as_secs().saturating_sub(EPOCH));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Cylinders, heads and sectors of a track for so many sectors (specification, "Appendix: CHS Calculation").
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = u32::try_from(sectors.min(65535 * 16 * 255)).unwrap_or(u32::MAX);
    let (heads, track) = if sectors >= 65535 * 16 * 63 {
        (16, 255)
    } else {
        let (mut track, mut cylinder_heads) = (17, sectors / 17);
        let mut heads = cylinder_heads.div_ceil(1024).max(4);
        if cylinder_heads >= heads * 1024 || heads > 16 {
            (heads, track, cylinder_heads) = (16, 31, sectors / 31);
        }
        if cylinder_heads >= heads * 1024 {
            (heads, track) = (16, 63);
        }
        (heads, track)
    };
    let cylinders = sectors / track / heads;
    // All three are in range by the limits above.
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let cylinders = u16::try_from(cylinders).unwrap_or(u16::MAX);
    (cylinders, byte(heads), byte(track))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_read_as_it_was_made() {
        for disk_type in [DiskType::Fixed, DiskType::Dynamic] {
            let footer = Footer::new(disk_type, 64 << 20).unwrap();
            let again = Footer::parse(footer.bytes()).unwrap();
            assert_eq!(again, footer);
            assert_eq!((again.disk_type(), again.size()), (Ok(disk_type), 64 << 20));
        }
    }

    #[test]
    fn a_footer_with_any_byte_changed_is_none() {
        let footer = Footer::new(DiskType::Fixed, 1 << 20).unwrap();
        for at in 0..FOOTER {
            let mut bytes = *footer.bytes();
            bytes[at] ^= 0x10;
            assert_eq!(Footer::parse(&bytes), Err(None), "byte {at}");
        }
    }

    /// Of the specification's appendix, and of disks that Virtual PC makes.
    #[test]
    fn geometry_is_that_of_the_specification() {
        for (bytes, expected) in [
            (1_u64 << 20, (30, 4, 17)),
            (512 << 20, (1024, 16, 63)),
            (40 << 30, (65535, 16, 80)),
            (200 << 30, (65535, 16, 255)),
        ] {
            let (cylinders, heads, track) = geometry(bytes / 512);
            let covered = u64::from(cylinders) * u64::from(heads) * u64::from(track) * 512;
            assert!(covered <= bytes);
            if bytes < 4 << 30 {
                assert!(bytes - covered < u64::from(heads) * u64::from(track) * 512);
            }
            if bytes == 1 << 20 || bytes == 200 << 30 {
                assert!((heads, track) == (expected.1, expected.2));
            }
        }
    }
}
