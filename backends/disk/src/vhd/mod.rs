//! VHD images ("Virtual Hard Disk Image Format Specification", version 1.0).
//!
//! | Feature | |
//! |---|---|
//! | Fixed size | read, written, resized |
//! | Dynamic (blocks of any power of two from 4 KiB on) | read, written, resized |
//! | Sectors of a block that its bitmap does not have | zeros; become part of the block with the first write to it |
//! | Footer that is lost at the end | taken from its copy at the begin (dynamic), and put back when written |
//! | Differencing | read, with `backing_files=on`; its parents are VHD images too |
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
mod parent;
mod resize;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use check::check;
pub(crate) use create::create;
pub(crate) use footer::DiskType;
pub(crate) use image::Vhd;

use crate::image::Image;
use crate::mapped::parent::{Chain, Layer};
use crate::mapped::{MappedDisk, Mapping};
use crate::storage::Storage;
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
    let mut chain = Chain::new(options, refuse);
    let (image, file) = open_image(&mut chain, &options.path, options.read_only)?;
    let parent = open_parent(&mut chain, &options.path, &image)?;
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
    Ok(MappedDisk::share(Arc::new(image), file, parent, options))
}

fn open_image(
    chain: &mut Chain<'_>,
    path: &Path,
    read_only: bool,
) -> Result<(Vhd, Arc<Image>), Error> {
    let file = chain.open_file(path, read_only)?;
    let storage: Arc<dyn Storage> = Arc::<Image>::clone(&file);
    let image = Vhd::open(storage, read_only).map_err(|reason| refuse(path, reason))?;
    Ok((image, file))
}

/// What lies behind an image at `path`, if anything does.
fn open_parent(chain: &mut Chain<'_>, path: &Path, image: &Vhd) -> Result<Option<Layer>, Error> {
    let Some(parent) = &image.parent else {
        return Ok(None);
    };
    let behind = chain.resolve(path, &parent.names)?;
    let (image, file) = open_image(chain, &behind, true)?;
    if image.id() != parent.id {
        return Err(refuse(
            path,
            format!(
                "{} is not the parent that it was made of: its id is another one",
                behind.display()
            ),
        ));
    }
    let parent = open_parent(chain, &behind, &image)?.map(Box::new);
    Ok(Some(Layer {
        mapping: Arc::new(image),
        storage: file,
        parent,
    }))
}

/// The files that are opened with an image because it and its parents name them.
pub(crate) fn behind(options: &OpenOptions) -> Vec<PathBuf> {
    Chain::new(options, refuse).named_by(|chain| {
        let (image, _) = open_image(chain, &options.path, true)?;
        open_parent(chain, &options.path, &image)
    })
}

/// What an image is.
///
/// # Errors
/// Why it cannot be opened, in words.
pub(crate) fn shape(storage: Arc<dyn Storage>) -> Result<Shape, String> {
    let image = Vhd::open(storage, true)?;
    Ok(Shape {
        size: image.capacity(),
        kind: match (&image.parent, image.is_dynamic()) {
            (Some(_), _) => "differencing",
            (None, true) => "dynamic",
            (None, false) => "fixed",
        },
        // The format has no other.
        sector: 512,
        block: image.blocks.as_ref().map(|blocks| blocks.block),
    })
}

pub(crate) fn refuse(path: &Path, reason: String) -> Error {
    Error::Format {
        path: path.to_owned(),
        word: "VHD",
        reason,
    }
}
