//! VHDX images ([MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format").
//!
//! | Feature | |
//! |---|---|
//! | Fixed and dynamic, blocks of 1 to 256 MiB, sectors of 512 and 4096 bytes | read, written, resized |
//! | Log of an image that was not closed | replayed; for reading only, in memory |
//! | Tables | changed through the log |
//! | Differencing | read, with `backing_files=on`; its parents are VHDX images too |
//! | Regions and metadata that are required and not known | refused, by their GUID |
//!
//! An image is hostile: whoever could write the file could write its tables. Memory is limited by the sizes below, not
//! by what the image says; blocks are only where no table is; the log changes no header and not itself.
//!
//! # Order of writes
//!
//! A block is made so: the file grows; the pages of the table with the new entries go to the log, together with the
//! length that the file must have; the log is flushed; then the pages are written in place. The block's bytes are zeros
//! until then, as the file has just grown. After a power cut the log has either all of a change or nothing. A flush of
//! the guest makes its data durable, and the log's entries before it already are.

mod check;
mod crc;
mod create;
mod guid;
mod header;
mod image;
mod journal;
mod metadata;
mod overlay;
mod parent;
mod region;
mod replay;
mod resize;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use check::check;
pub(crate) use create::{Parameters, create};
pub(crate) use image::Vhdx;

use crate::image::Image;
use crate::mapped::parent::{Chain, Layer};
use crate::mapped::{MappedDisk, Mapping};
use crate::storage::Storage;
use crate::tools::Shape;
use crate::{Disk, Error, OpenOptions};

/// Structures are at multiples of this, and blocks too ([MS-VHDX] 2.2).
pub(crate) const MIB: u64 = 1 << 20;
/// Largest disk ([MS-VHDX] 2.6.2.2).
pub(crate) const LARGEST: u64 = 64 << 40;

/// Opens an image as a disk.
///
/// # Errors
/// [`Error::Format`] if it cannot be served, and what opening of files gives.
pub(crate) fn open(options: &OpenOptions) -> Result<Arc<dyn Disk>, Error> {
    let mut chain = Chain::new(options, refuse);
    let (image, file) = open_image(&mut chain, &options.path, options.read_only)?;
    let parent = open_parent(&mut chain, &options.path, &image)?;
    Ok(MappedDisk::share(Arc::new(image), file, parent, options))
}

fn open_image(
    chain: &mut Chain<'_>,
    path: &Path,
    read_only: bool,
) -> Result<(Vhdx, Arc<Image>), Error> {
    let file = chain.open_file(path, read_only)?;
    let storage: Arc<dyn Storage> = Arc::<Image>::clone(&file);
    let image = Vhdx::open(storage, read_only).map_err(|reason| refuse(path, reason))?;
    Ok((image, file))
}

/// What lies behind an image at `path`, if anything does.
fn open_parent(chain: &mut Chain<'_>, path: &Path, image: &Vhdx) -> Result<Option<Layer>, Error> {
    let Some(parent) = &image.metadata.parent else {
        return Ok(None);
    };
    let behind = chain.resolve(path, &parent.names)?;
    let (image, _) = open_image(chain, &behind, true)?;
    if !parent.is(image.owner().header.data_write) {
        return Err(refuse(
            path,
            format!(
                "{} is not the parent that it was made of, or was written since: its id is another one",
                behind.display()
            ),
        ));
    }
    let parent = open_parent(chain, &behind, &image)?.map(Box::new);
    let storage = Arc::clone(&image.storage);
    Ok(Some(Layer {
        mapping: Arc::new(image),
        storage,
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
    let image = Vhdx::open(storage, true)?;
    let metadata = &image.metadata;
    Ok(Shape {
        size: image.capacity(),
        kind: match (&metadata.parent, metadata.leave_allocated) {
            (Some(_), _) => "differencing",
            (None, true) => "fixed",
            (None, false) => "dynamic",
        },
        sector: metadata.logical_sector,
        block: Some(metadata.block),
    })
}

pub(crate) fn refuse(path: &Path, reason: String) -> Error {
    Error::Format {
        path: path.to_owned(),
        word: "VHDX",
        reason,
    }
}
