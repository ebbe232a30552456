//! Looks for contradictions in an image.

use std::sync::Arc;

use super::footer::{FOOTER, Footer};
use super::image::Vhd;
use crate::mapped::Mapping;
use crate::storage::Storage;
use crate::tools::Findings;

/// Looks at every block. With `repair` a lost footer is put back, and the copy of it made the same.
///
/// # Errors
/// Why the image cannot be opened at all, in words.
pub(crate) fn check(storage: &Arc<dyn Storage>, repair: bool) -> Result<Findings, String> {
    let mut found = Findings::default();
    let footers = footers(&**storage)?;
    let image = Vhd::open(Arc::clone(storage), !repair)?;
    let Some(blocks) = &image.blocks else {
        return Ok(found);
    };
    if !footers {
        let what = "the footer at the end and its copy at the begin are not the same";
        match repair {
            true => found.repaired(what),
            false => found.error(what),
        }
    }
    let mut starts = Vec::new();
    for number in 0..image.capacity().div_ceil(blocks.block) {
        match blocks.start(number) {
            Ok(None) => {}
            Ok(Some(start)) => starts.push((start, number)),
            Err(error) => found.error(error.to_string()),
        }
    }
    starts.sort_unstable();
    for pair in starts.windows(2) {
        if pair[0].0 + blocks.in_file() > pair[1].0 {
            found.error(format!(
                "blocks {} and {} have the same bytes of the file",
                pair[0].1, pair[1].1
            ));
        }
    }
    found.used = starts.len() as u64 * blocks.block;
    let last = starts.last().map_or(0, |last| last.0 + blocks.in_file());
    let end = storage.length() - FOOTER as u64;
    // Blocks whose table entry was not written any more, when the power was cut.
    if let Some(leaked) = end.checked_sub(last.max(blocks.table_end()))
        && leaked > 0
    {
        found.leaked(leaked);
    }
    Ok(found)
}

/// Whether the footer is there twice and the same.
fn footers(storage: &dyn Storage) -> Result<bool, String> {
    let read = |offset| {
        let mut bytes = [0; FOOTER];
        match storage.read(offset, &mut bytes) {
            Ok(_) => Ok(Footer::parse(&bytes).ok()),
            Err(error) => Err(format!("its footer cannot be read: {error}")),
        }
    };
    let last = storage.length().saturating_sub(FOOTER as u64);
    Ok(match (read(0)?, read(last)?) {
        (Some(first), Some(last)) => first == last,
        _ => false,
    })
}
