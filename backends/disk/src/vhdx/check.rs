//! Looks for contradictions in an image.

use std::sync::Arc;

use super::MIB;
use super::guid::Guid;
use super::header::Header;
use super::image::Vhdx;
use crate::mapped::{Mapping, narrow};
use crate::storage::Storage;
use crate::tools::Findings;

/// Blocks of files up to this size are looked at for bytes that two of them have: a bit for each MiB.
const LARGEST_MAP: u64 = 64 << 40;

/// Looks at every block. With `repair` the log is replayed if it has to be.
///
/// # Errors
/// Why the image cannot be opened at all, in words.
pub(crate) fn check(storage: &Arc<dyn Storage>, repair: bool) -> Result<Findings, String> {
    let mut found = Findings::default();
    if Header::read(&**storage)?.log != Guid::ZERO {
        let what =
            "the image was not closed: its log is to be replayed, as opening for writing does";
        match repair {
            true => found.repaired(what),
            false => found.note(what),
        }
    }
    let image = Vhdx::open(Arc::clone(storage), !repair)?;
    let length = image.storage.length();
    if length > LARGEST_MAP {
        return Err(format!(
            "its file of {length} bytes is too long to be checked"
        ));
    }
    let mut map = vec![0_u64; narrow(length.div_ceil(MIB).div_ceil(64))];
    let block = image.metadata.block;
    let (mut last, mut used) = (0, 0);
    for number in 0..image.capacity().div_ceil(block) {
        let start = match image.start(number) {
            Ok(Some(start)) => start,
            Ok(None) => continue,
            Err(error) => {
                found.error(error.to_string());
                continue;
            }
        };
        last = last.max(start + block);
        used += block;
        let mut twice = false;
        for place in start / MIB..(start + block) / MIB {
            let (word, bit) = (narrow(place / 64), 1 << (place % 64));
            if let Some(word) = map.get_mut(word) {
                twice |= *word & bit != 0;
                *word |= bit;
            }
        }
        if twice {
            found.error(format!(
                "block {number} at {start:#x} has bytes of the file that another one has too"
            ));
        }
    }
    found.used = used;
    let last = last.max(image.tables_end());
    if length > last {
        found.leaked(length - last);
    }
    Ok(found)
}
