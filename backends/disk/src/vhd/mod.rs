//! VHD images ("Virtual Hard Disk Image Format Specification", version 1.0).
//!
//! | Feature | |
//! |---|---|
//! | Fixed size | read, written, resized |
//! | Dynamic (blocks of any power of two from 4 KiB on) | read, written, resized |
//! | Sectors of a block that its bitmap does not have | zeros; become part of the block with the first write to it |
//! | Footer that is lost at the end | taken from its copy at the begin (dynamic), and put back when written |
//! | Differencing | refused: the file of the parent is not opened |
//! | Footers of 511 bytes (before Virtual PC 2004), saved states | refused |
//!
//! An image is hostile: whoever could write the file could write its tables. Blocks are only where no table is.
//!
//! # Order of writes
//!
//! A block is made so: the file grows, the footer is written at its new end, the bitmap over the old one; all of it is
//! flushed; then the table's entry points to the block. The block's bytes are zeros until then, as the file has just
//! grown. A power cut leaves at worst a block that nothing points to, or no footer at the end, but then its copy at the
//! begin of the file is there, which never moves.

mod check;
mod create;
mod dynamic;
mod footer;
mod header;
mod image;
mod resize;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub(crate) use check::check;
pub(crate) use create::create;
pub(crate) use footer::DiskType;
pub(crate) use image::Vhd;

use crate::mapped::{MappedDisk, Mapping, open_file};
use crate::tools::Shape;
use crate::{Disk, Error, OpenOptions};

/// Largest disk: 2040 GiB (specification, "Hard Disk Footer Format", "Current Size").
pub(crate) const LARGEST: u64 = 2040 << 30;
/// Sectors are what the format counts in.
pub(crate) const SECTOR: u64 = 512;

/// Opens an image as a disk.
///
/// # Errors
/// [`Error::Format`] if it cannot be served, and what opening of files gives.
pub(crate) fn open(options: &OpenOptions) -> Result<Arc<dyn Disk>, Error> {
    let file = open_file(options)?;
    let storage: Arc<dyn crate::storage::Storage> = Arc::<crate::image::Image>::clone(&file);
    let image =
        Vhd::open(storage, options.read_only).map_err(|reason| refuse(&options.path, reason))?;
    // Bitmaps, tables and footers are sectors beside those of the guest: larger blocks would have to be read, changed
    // and written back while lanes write to them.
    if image.is_dynamic() && !options.read_only && u64::from(file.alignment.offset) > SECTOR {
        return Err(refuse(
            &options.path,
            format!(
                "direct=on asks for blocks of {} bytes here, and a dynamic VHD is made of sectors of 512; \
                 direct=off, or readonly=on, is possible",
                file.alignment.offset
            ),
        ));
    }
    Ok(MappedDisk::share(Arc::new(image), file, options))
}

/// What an image is.
///
/// # Errors
/// Why it cannot be opened, in words.
pub(crate) fn shape(storage: Arc<dyn crate::storage::Storage>) -> Result<Shape, String> {
    let image = Vhd::open(storage, true)?;
    Ok(Shape {
        size: image.capacity(),
        kind: if image.is_dynamic() {
            "dynamic"
        } else {
            "fixed"
        },
        // The format has no other.
        sector: 512,
        block: image.blocks.as_ref().map(|blocks| blocks.block),
    })
}

pub(crate) fn refuse(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format {
        path: path.to_owned(),
        word: "VHD",
        reason: reason.into(),
    }
}
