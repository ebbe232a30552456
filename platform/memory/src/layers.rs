//! RAM whose contents are in several files: all of it in one, and pages that differ in those above.
//!
//! ```text
//!  guest's writes     ██        ██              private pages (what GuestRam::changed finds)
//!  layer 2                ████                  pages that were written before the second increment
//!  layer 1       ██       ██         ██         pages that were written before the first one
//!  base          ██████████████████████████     all of RAM
//! ```
//!
//! Each file has the layout of [`GuestRam::ranges`]; of a layer only its parts are looked at, so that a page of zeros
//! above one that is not is no hole by mistake.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::contents::{self, check_size};
use crate::ram::host_page_size;
use crate::{Error, GuestRam, RamOptions, RegionSpec, Written};

/// The most pieces that RAM consists of. Each is a mapping of the host, which by default gives a process 65,530.
const MOST_PIECES: usize = 16_384;
/// The most parts that [`GuestRam::changed`] finds, so that some layers can lie above each other.
const MOST_PARTS: usize = 4096;

/// Pages that differ from what is below.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As long as RAM.
    pub file: Arc<File>,
    /// Where they are in the file: whole pages, ascending, apart from each other.
    pub parts: Vec<Range<u64>>,
}

impl Layer {
    fn check(&self, size: u64) -> Result<(), Error> {
        check_size(&self.file, size)?;
        let page = host_page_size();
        let mut end = 0;
        for part in &self.parts {
            let whole = part.start.is_multiple_of(page) && part.end.is_multiple_of(page);
            if !whole || part.start < end || part.end <= part.start || part.end > size {
                return Err(Error::LayerPart {
                    start: part.start,
                    end: part.end,
                });
            }
            end = part.end;
        }
        Ok(())
    }
}

impl GuestRam {
    /// [`GuestRam::over_file`], with layers above the file, the lowest first.
    ///
    /// # Errors
    /// As there; [`Error::LayerPart`] and [`Error::ContentsSize`] if a layer is none; [`Error::Pieces`] if RAM would
    /// consist of too many pieces.
    pub fn over_layers(
        regions: &[RegionSpec],
        options: &RamOptions,
        base: &Arc<File>,
        layers: &[Layer],
    ) -> Result<Self, Error> {
        let ram = Self::over_file(regions, options, base)?;
        let pieces = pieces(ram.size(), layers)?;
        for (region, range) in ram.regions().zip(ram.ranges()) {
            let mapping = region.mapping();
            for (piece, layer) in &pieces {
                let start = piece.start.max(range.offset);
                let end = piece.end.min(range.offset + range.size);
                if start < end {
                    let inside = start - range.offset..end - range.offset;
                    mapping.cover(inside, &layers[*layer].file, start)?;
                }
            }
            mapping.keep_out_of_dumps()?;
        }
        Ok(ram)
    }

    /// What differs from the file and the layers that RAM lies over, as parts of a [`Layer`]: pages that somebody wrote
    /// or gave back since. Where these are many small ones, the parts have what is between them, too. Nobody may write
    /// to RAM meanwhile.
    ///
    /// # Errors
    /// [`Error::NoBase`] if RAM lies over no file, [`Error::Changes`] if the kernel does not tell.
    pub fn changed(&self) -> Result<Vec<Range<u64>>, Error> {
        let mut all = Vec::new();
        for (region, range) in self.regions().zip(self.ranges()) {
            let parts = region.mapping().changed()?;
            let shift = range.offset;
            all.extend(
                parts
                    .into_iter()
                    .map(|part| part.start + shift..part.end + shift),
            );
        }
        Ok(coarse(all, MOST_PARTS))
    }

    /// Writes parts of RAM to an empty file, which has the size of RAM afterwards: a [`Layer`]. Nobody may write to RAM
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::Contents`] if the file cannot be written.
    pub fn write_layer(&self, file: &File, parts: &[Range<u64>]) -> Result<Written, Error> {
        contents::write(self, file, 0, parts, true)
    }
}

/// Which layer each piece of RAM comes from that does not come from the base.
pub(crate) fn pieces(size: u64, layers: &[Layer]) -> Result<Vec<(Range<u64>, usize)>, Error> {
    for layer in layers {
        layer.check(size)?;
    }
    let mut pieces: Vec<(Range<u64>, usize)> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        pieces = above(&pieces, &layer.parts, index);
        if pieces.len() > MOST_PIECES {
            return Err(Error::Pieces { most: MOST_PIECES });
        }
    }
    Ok(pieces)
}

/// Pieces with those of another layer above them. Both ascend, and so does what comes of it.
fn above(
    below: &[(Range<u64>, usize)],
    parts: &[Range<u64>],
    index: usize,
) -> Vec<(Range<u64>, usize)> {
    let mut pieces = Vec::with_capacity(below.len() + parts.len());
    let mut parts_left = parts.iter().peekable();
    for (piece, layer) in below {
        let mut start = piece.start;
        while let Some(part) = parts_left.next_if(|part| part.end <= start) {
            pieces.push((part.clone(), index));
        }
        // Those that cover some of it; the last of them may cover some of the next one, too.
        while let Some(part) = parts_left.peek().filter(|part| part.start < piece.end) {
            if part.start > start {
                pieces.push((start..part.start, *layer));
            }
            start = part.end;
            if part.end > piece.end {
                break;
            }
            pieces.push(((*part).clone(), index));
            parts_left.next();
        }
        if start < piece.end {
            pieces.push((start..piece.end, *layer));
        }
    }
    pieces.extend(parts_left.map(|part| (part.clone(), index)));
    pieces
}

/// At most so many parts, which have all that the given ones have: those nearest to each other become one.
pub(crate) fn coarse(mut parts: Vec<Range<u64>>, most: usize) -> Vec<Range<u64>> {
    let mut gap = host_page_size();
    while parts.len() > most {
        let mut fewer: Vec<Range<u64>> = Vec::with_capacity(parts.len());
        for part in parts {
            match fewer.last_mut() {
                Some(last) if part.start - last.end <= gap => last.end = part.end,
                _ => fewer.push(part),
            }
        }
        parts = fewer;
        gap = gap.saturating_mul(2);
    }
    parts
}

#[cfg(test)]
mod tests;
