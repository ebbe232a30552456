//! What the disk is like ([MS-VHDX] 2.6).

use std::ops::Range;

use super::LARGEST;
use super::guid::Guid;
use super::parent::{self, ParentOf};
use crate::mapped::{le16, le32, le64, narrow, put};
use crate::storage::Storage;

/// Bytes of the table, and where the first item can be.
const TABLE: usize = 64 << 10;
const SIGNATURE: &[u8] = b"metadata";
const MOST_ENTRIES: u16 = 2047;
const ENTRY: usize = 32;
/// Flags of an entry.
const VIRTUAL_DISK: u32 = 1 << 1;
const REQUIRED: u32 = 1 << 2;
/// Flags of the file's parameters.
const LEAVE_ALLOCATED: u32 = 1 << 0;
const HAS_PARENT: u32 = 1 << 1;

const PARAMETERS: Guid = Guid::new(
    0xcaa1_6737,
    0xfa36,
    0x4d43,
    [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b],
);
const SIZE: Guid = Guid::new(
    0x2fa5_4224,
    0xcd1b,
    0x4876,
    [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8],
);
const DISK_ID: Guid = Guid::new(
    0xbeca_12ab,
    0xb2e6,
    0x4523,
    [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46],
);
const LOGICAL_SECTOR: Guid = Guid::new(
    0x8141_bf1d,
    0xa96f,
    0x4709,
    [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f],
);
const PHYSICAL_SECTOR: Guid = Guid::new(
    0xcda3_48c7,
    0x445d,
    0x4471,
    [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56],
);
const PARENT_LOCATOR: Guid = Guid::new(
    0xa8d3_5f2d,
    0xb30b,
    0x454d,
    [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c],
);

/// What is known of the disk; all of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Bytes of a block: a power of two from 1 to 256 MiB.
    pub(crate) block: u64,
    /// Blocks stay in the file: the image has a fixed size.
    pub(crate) leave_allocated: bool,
    /// Size of the disk in bytes, and where in the file it is said.
    pub(crate) size: u64,
    pub(crate) size_at: u64,
    /// 512 or 4096.
    pub(crate) logical_sector: u32,
    pub(crate) physical_sector: u32,
    /// Of a differencing image.
    pub(crate) parent: Option<ParentOf>,
}

impl Metadata {
    /// Payload blocks before each entry of a sector bitmap ([MS-VHDX] 2.5).
    pub(crate) fn chunk_ratio(&self) -> u64 {
        (u64::from(self.logical_sector) << 23) / self.block
    }

    /// Entries that the table of blocks has for a disk of this size.
    pub(crate) fn entries(&self, size: u64) -> u64 {
        let blocks = size.div_ceil(self.block);
        blocks + blocks.saturating_sub(1) / self.chunk_ratio()
    }

    /// Reads the items that matter.
    ///
    /// # Errors
    /// What is wrong with them, or not known, in words.
    pub(crate) fn read(storage: &dyn Storage, region: &Range<u64>) -> Result<Self, String> {
        let items = Items::read(storage, region)?;
        let (_, parameters) = items.get(PARAMETERS, 8, "file parameters")?;
        let (size_at, size) = items.get(SIZE, 8, "size")?;
        let (_, logical) = items.get(LOGICAL_SECTOR, 4, "logical sector size")?;
        let (_, physical) = items.get(PHYSICAL_SECTOR, 4, "physical sector size")?;
        let flags = le32(&parameters, 4);
        let parent = match (flags & HAS_PARENT != 0, items.find(PARENT_LOCATOR)) {
            (false, None) => None,
            (true, Some((_, length))) if length <= parent::LONGEST => {
                let (_, bytes) = items.get(PARENT_LOCATOR, length, "locator of a parent")?;
                Some(ParentOf::parse(&bytes)?)
            }
            (true, Some((_, length))) => {
                return Err(format!("the locator of its parent has {length} bytes"));
            }
            (true, None) => return Err("it has a parent, and does not say which".into()),
            (false, Some(_)) => return Err("it names a parent, and says that it has none".into()),
        };
        let metadata = Self {
            block: le32(&parameters, 0).into(),
            leave_allocated: flags & LEAVE_ALLOCATED != 0,
            size: le64(&size, 0),
            size_at,
            logical_sector: le32(&logical, 0),
            physical_sector: le32(&physical, 0),
            parent,
        };
        metadata.check()?;
        Ok(metadata)
    }

    /// Whether there can be such a disk.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        for sector in [self.logical_sector, self.physical_sector] {
            if !matches!(sector, 512 | 4096) {
                return Err(format!("its sectors have {sector} bytes, not 512 or 4096"));
            }
        }
        if !self.block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&self.block) {
            return Err(format!(
                "its blocks have {} bytes, which is no power of two from 1 to 256 MiB",
                self.block
            ));
        }
        let sector = u64::from(self.logical_sector);
        if self.size == 0 || self.size > LARGEST || !self.size.is_multiple_of(sector) {
            return Err(format!(
                "its size of {} bytes is none: a multiple of {sector} up to {LARGEST} is",
                self.size
            ));
        }
        Ok(())
    }

    /// The table and the items of a new image, from the begin of the region.
    pub(crate) fn bytes(&self, disk_id: Guid) -> Vec<u8> {
        let flags = if self.leave_allocated {
            LEAVE_ALLOCATED
        } else {
            0
        };
        let mut parameters = [0; 8];
        let block = u32::try_from(self.block).unwrap_or(u32::MAX);
        put(&mut parameters, 0, &block.to_le_bytes());
        put(&mut parameters, 4, &flags.to_le_bytes());
        let items: [(Guid, &[u8], u32); 5] = [
            (PARAMETERS, &parameters, REQUIRED),
            (SIZE, &self.size.to_le_bytes(), REQUIRED | VIRTUAL_DISK),
            (DISK_ID, &disk_id.0, REQUIRED | VIRTUAL_DISK),
            (
                LOGICAL_SECTOR,
                &self.logical_sector.to_le_bytes(),
                REQUIRED | VIRTUAL_DISK,
            ),
            (
                PHYSICAL_SECTOR,
                &self.physical_sector.to_le_bytes(),
                REQUIRED | VIRTUAL_DISK,
            ),
        ];
        let mut bytes = vec![0; TABLE + 4096];
        put(&mut bytes, 0, SIGNATURE);
        put(&mut bytes, 10, &5_u16.to_le_bytes());
        let mut at = TABLE;
        for (number, (guid, item, flags)) in items.into_iter().enumerate() {
            let entry = ENTRY * (number + 1);
            let (offset, length) = (
                u32::try_from(at).unwrap_or(u32::MAX),
                u32::try_from(item.len()).unwrap_or(u32::MAX),
            );
            put(&mut bytes, entry, &guid.0);
            put(&mut bytes, entry + 16, &offset.to_le_bytes());
            put(&mut bytes, entry + 20, &length.to_le_bytes());
            put(&mut bytes, entry + 24, &flags.to_le_bytes());
            put(&mut bytes, at, item);
            at += item.len();
        }
        bytes
    }
}

/// The table, and where its items are.
struct Items<'a> {
    storage: &'a dyn Storage,
    region: Range<u64>,
    /// GUID, offset in the region and length.
    entries: Vec<(Guid, u64, u64)>,
}

impl<'a> Items<'a> {
    fn read(storage: &'a dyn Storage, region: &Range<u64>) -> Result<Self, String> {
        let mut bytes = vec![0; TABLE];
        let count = storage
            .read(region.start, &mut bytes)
            .map_err(|error| format!("its metadata cannot be read: {error}"))?;
        if count < TABLE || !bytes.starts_with(SIGNATURE) {
            return Err("it has no table of metadata where its regions say".into());
        }
        let count = le16(&bytes, 10);
        if count > MOST_ENTRIES {
            return Err(format!("its table of metadata has {count} entries"));
        }
        let mut entries = Vec::<(Guid, u64, u64)>::new();
        for number in 0..usize::from(count) {
            let at = ENTRY * (number + 1);
            let guid = Guid::at(&bytes, at);
            let (offset, length) = (
                u64::from(le32(&bytes, at + 16)),
                u64::from(le32(&bytes, at + 20)),
            );
            let within = offset + length <= region.end - region.start;
            if length > 0 && (offset < TABLE as u64 || !within) {
                return Err(format!("its metadata {guid} is not where it can be"));
            }
            let known = [
                PARAMETERS,
                SIZE,
                DISK_ID,
                LOGICAL_SECTOR,
                PHYSICAL_SECTOR,
                PARENT_LOCATOR,
            ];
            if le32(&bytes, at + 24) & REQUIRED != 0 && !known.contains(&guid) {
                return Err(format!(
                    "it has the metadata {guid}, which is required and not known here"
                ));
            }
            if known.contains(&guid) && entries.iter().any(|entry| entry.0 == guid) {
                return Err(format!("it has the metadata {guid} twice"));
            }
            entries.push((guid, offset, length));
        }
        Ok(Self {
            storage,
            region: region.clone(),
            entries,
        })
    }

    fn find(&self, guid: Guid) -> Option<(u64, u64)> {
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.0 == guid)?;
        Some((entry.1, entry.2))
    }

    /// Where in the file an item is, and its bytes, which are so many.
    fn get(&self, guid: Guid, expected: u64, what: &str) -> Result<(u64, Vec<u8>), String> {
        let Some((offset, length)) = self.find(guid) else {
            return Err(format!("its metadata has no {what}"));
        };
        if length != expected {
            return Err(format!("its {what} has {length} bytes, not {expected}"));
        }
        let at = self.region.start + offset;
        let mut bytes = vec![0; narrow(expected)];
        match self.storage.read(at, &mut bytes) {
            Ok(count) if count == bytes.len() => Ok((at, bytes)),
            Ok(_) => Err(format!("its {what} is not within the file")),
            Err(error) => Err(format!("its {what} cannot be read: {error}")),
        }
    }
}
