//! Who the parent of a differencing image is (specification, "Dynamic Disk Header Format", "Parent Locator Entry").

use super::header::{HEADER, Header};
use crate::mapped::parent::{LONGEST_NAME, text_of};
use crate::mapped::{be32, be64};
use crate::storage::Storage;

/// The parent's unique id in the header.
const ID: usize = 40;
/// The first of eight locators, and the bytes of each.
const LOCATORS: usize = 576;
const LOCATOR: usize = 24;
const COUNT: usize = 8;
/// Paths in UTF-16, little-endian: relative to the image, and absolute.
const RELATIVE: &[u8] = b"W2ru";
const ABSOLUTE: &[u8] = b"W2ku";

/// What an image says of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentOf {
    /// The unique id in the parent's footer.
    pub(crate) id: [u8; 16],
    /// Its paths, the relative one first.
    pub(crate) names: Vec<String>,
}

impl ParentOf {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn read(storage: &dyn Storage, header: &Header) -> Result<Self, String> {
        let bytes: &[u8; HEADER] = header.bytes();
        let mut names = Vec::new();
        for wanted in [RELATIVE, ABSOLUTE] {
            for number in 0..COUNT {
                let locator = &bytes[LOCATORS + number * LOCATOR..][..LOCATOR];
                if locator.starts_with(wanted) {
                    names.push(name(storage, locator)?);
                }
            }
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[ID..ID + 16]);
        Ok(Self { id, names })
    }
}

/// The path that a locator leads to.
fn name(storage: &dyn Storage, locator: &[u8]) -> Result<String, String> {
    let (length, offset) = (be32(locator, 8) as usize, be64(locator, 16));
    if length > LONGEST_NAME {
        return Err(format!("the path of its parent has {length} bytes"));
    }
    let mut bytes = vec![0; length];
    match storage.read(offset, &mut bytes) {
        Ok(count) if count == length => text_of(&bytes),
        Ok(_) => Err(format!(
            "the path of its parent at {offset:#x} is not within the file"
        )),
        Err(error) => Err(format!("the path of its parent cannot be read: {error}")),
    }
}
