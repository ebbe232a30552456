//! The table of regions ([MS-VHDX] 2.2.3).

use std::ops::Range;

use super::MIB;
use super::crc::checksum;
use super::guid::Guid;
use crate::mapped::{le32, le64, put};
use crate::storage::Storage;

/// Where the two copies are.
pub(crate) const PLACES: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a table.
pub(crate) const TABLE: usize = 64 << 10;
const SIGNATURE: &[u8] = b"regi";
/// Where the checksum is.
const CHECKSUM: usize = 4;
const MOST_ENTRIES: u32 = 2047;
const ENTRIES: usize = 16;
const ENTRY: usize = 32;

pub(crate) const BAT: Guid = Guid::new(
    0x2dc2_7766,
    0xf623,
    0x4200,
    [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08],
);
pub(crate) const METADATA: Guid = Guid::new(
    0x8b7c_a206,
    0x4790,
    0x4b9a,
    [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e],
);

/// Where the two regions are that every image has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regions {
    pub(crate) bat: Range<u64>,
    pub(crate) metadata: Range<u64>,
    /// What blocks must not overlap: all regions.
    pub(crate) all: Vec<Range<u64>>,
    /// The table itself, for its change.
    bytes: Vec<u8>,
}

impl Regions {
    /// The table of a new image.
    pub(crate) fn new(bat: Range<u64>, metadata: Range<u64>) -> Self {
        let mut bytes = vec![0; TABLE];
        put(&mut bytes, 0, SIGNATURE);
        put(&mut bytes, 8, &2_u32.to_le_bytes());
        for (number, (guid, region)) in [(BAT, &bat), (METADATA, &metadata)].into_iter().enumerate()
        {
            let at = ENTRIES + number * ENTRY;
            put(&mut bytes, at, &guid.0);
            put_region(&mut bytes, at, region);
            put(&mut bytes, at + 28, &1_u32.to_le_bytes());
        }
        seal(&mut bytes);
        let all = vec![bat.clone(), metadata.clone()];
        Self {
            bat,
            metadata,
            all,
            bytes,
        }
    }

    /// Reads the table, from whichever copy is in order.
    ///
    /// # Errors
    /// Why there is none that can be used, in words.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, String> {
        for offset in PLACES {
            let mut bytes = vec![0; TABLE];
            let count = storage
                .read(offset, &mut bytes)
                .map_err(|error| format!("its table of regions cannot be read: {error}"))?;
            if count == TABLE
                && bytes.starts_with(SIGNATURE)
                && checksum(&bytes, CHECKSUM) == le32(&bytes, CHECKSUM)
            {
                return Self::parse(bytes, storage.length());
            }
        }
        Err("neither of its tables of regions is in order".into())
    }

    fn parse(bytes: Vec<u8>, length: u64) -> Result<Self, String> {
        let count = le32(&bytes, 8);
        if count > MOST_ENTRIES {
            return Err(format!("its table of regions has {count} entries"));
        }
        let (mut bat, mut metadata, mut all) = (None, None, Vec::<Range<u64>>::new());
        for number in 0..count as usize {
            let at = ENTRIES + number * ENTRY;
            let guid = Guid::at(&bytes, at);
            let (start, size) = (le64(&bytes, at + 16), u64::from(le32(&bytes, at + 24)));
            let required = le32(&bytes, at + 28) & 1 != 0;
            let end = start.checked_add(size).filter(|end| *end <= length);
            let place = end.filter(|_| {
                start >= MIB && size > 0 && start.is_multiple_of(MIB) && size.is_multiple_of(MIB)
            });
            let Some(end) = place else {
                return Err(format!(
                    "its region {guid} of {size} bytes at {start:#x} is not where one can be"
                ));
            };
            if all.iter().any(|other| overlap(other, &(start..end))) {
                return Err(format!("its region {guid} overlaps another one"));
            }
            all.push(start..end);
            let known = match guid {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if required => {
                    return Err(format!("it has the region {guid}, which is not known here"));
                }
                _ => continue,
            };
            if known.replace(start..end).is_some() {
                return Err(format!("it has the region {guid} twice"));
            }
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Self {
                bat,
                metadata,
                all,
                bytes,
            }),
            _ => Err("it has no table of blocks, or no metadata".into()),
        }
    }

    /// The same table with the table of blocks elsewhere.
    pub(crate) fn with_bat(&self, bat: Range<u64>) -> Self {
        let mut new = self.clone();
        let entries = (0..MOST_ENTRIES as usize).map(|number| ENTRIES + number * ENTRY);
        let mut entries = entries.take(le32(&self.bytes, 8) as usize);
        if let Some(at) = entries.find(|at| Guid::at(&self.bytes, *at) == BAT) {
            put_region(&mut new.bytes, at, &bat);
        }
        seal(&mut new.bytes);
        new.all.retain(|region| *region != self.bat);
        new.all.push(bat.clone());
        new.bat = bat;
        new
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn put_region(bytes: &mut [u8], at: usize, region: &Range<u64>) {
    put(bytes, at + 16, &region.start.to_le_bytes());
    let length = u32::try_from(region.end - region.start).unwrap_or(u32::MAX);
    put(bytes, at + 24, &length.to_le_bytes());
}

fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes, CHECKSUM);
    put(bytes, CHECKSUM, &sum.to_le_bytes());
}

pub(crate) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
