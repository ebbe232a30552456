//! Who the parent of a differencing image is ([MS-VHDX] 2.6.2.6).

use super::guid::Guid;
use crate::mapped::parent::{LONGEST_NAME, text_of};
use crate::mapped::{le16, le32};

/// The only type of locator there is: paths of VHDX files.
const VHDX: Guid = Guid::new(
    0xb04a_efb7,
    0xd19e,
    0x4a81,
    [0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13],
);
/// Bytes before the entries, and of each of them.
const HEAD: usize = 20;
const ENTRY: usize = 12;
/// The longest locator that is looked at, in bytes.
pub(super) const LONGEST: u64 = 64 << 10;

/// What an image says of its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParentOf {
    /// What the parent's `DataWriteGuid` may be, as text in braces.
    linkage: Vec<String>,
    /// Its paths, the relative one first.
    pub(crate) names: Vec<String>,
}

impl ParentOf {
    /// Reads a locator.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < HEAD || Guid::at(bytes, 0) != VHDX {
            return Err("its parent is named in a way that is not known".into());
        }
        let count = usize::from(le16(bytes, 18));
        let entries = bytes[HEAD..].chunks_exact(ENTRY);
        if count > entries.len() {
            return Err(format!("the locator of its parent has {count} entries"));
        }
        let mut parent = Self::default();
        let (mut relative, mut absolute) = (None, None);
        for entry in entries.take(count) {
            let text = |offset: u32, length: u16| {
                let start = offset as usize;
                let part = bytes.get(start..start + usize::from(length));
                let part = part.filter(|part| part.len() <= LONGEST_NAME);
                text_of(part.ok_or("the locator of its parent is not within itself")?)
            };
            let key = text(le32(entry, 0), le16(entry, 8))?;
            let value = || text(le32(entry, 4), le16(entry, 10));
            match &*key {
                "parent_linkage" | "parent_linkage2" => parent.linkage.push(value()?),
                "relative_path" => relative = Some(value()?),
                "absolute_win32_path" => absolute = Some(value()?),
                _ => {}
            }
        }
        parent.names.extend(relative);
        parent.names.extend(absolute);
        Ok(parent)
    }

    /// Whether it is the image with this `DataWriteGuid`.
    pub(super) fn is(&self, data_write: Guid) -> bool {
        let own = format!("{{{data_write}}}");
        let mut linkage = self.linkage.iter();
        linkage.any(|other| other.eq_ignore_ascii_case(&own))
    }
}
