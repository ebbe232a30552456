//! What images are.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::image::Image;
use crate::mapped::open_file;
use crate::storage::Storage;
use crate::{Error, ImageType, OpenOptions, open, vhd, vhdx};

/// What an image is. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Of the disk.
    pub size: u64,
    /// Which kind of image it is, for formats that have several: `fixed` or `dynamic`.
    pub kind: Option<&'static str>,
    /// Of a sector, as the guest sees it.
    pub sector: u32,
    /// Of a block, for formats that have them.
    pub block: Option<u64>,
    /// Length of the file.
    pub file: u64,
    /// What the file takes of its file system.
    pub allocated: u64,
}

/// What a format knows of an image.
pub(crate) struct Shape {
    pub(crate) size: u64,
    pub(crate) kind: &'static str,
    pub(crate) sector: u32,
    pub(crate) block: Option<u64>,
}

/// The format whose signature an image has, which whoever could write it has chosen; [`ImageType::Raw`] if none.
///
/// # Errors
/// If it cannot be read.
pub fn detect(path: &Path) -> Result<ImageType, Error> {
    let file = open_file(&read_only(path))?;
    crate::detect::detect(file.file(), file.file_length()).map_err(|source| Error::Ask {
        path: path.to_owned(),
        what: "the format",
        source,
    })
}

/// Says what an image is. Nothing is written, and no file is opened that the image names.
///
/// # Errors
/// What opening it gives.
pub fn info(path: &Path, image_type: ImageType) -> Result<Info, Error> {
    let options = read_only(path);
    let shape = match image_type {
        ImageType::FixedVhd | ImageType::Vhdx => {
            let storage: Arc<dyn Storage> = open_file(&options)?;
            let shape = match image_type {
                ImageType::FixedVhd => vhd::shape(storage),
                _ => vhdx::shape(storage),
            };
            Some(shape.map_err(|reason| match image_type {
                ImageType::FixedVhd => vhd::refuse(path, reason),
                _ => vhdx::refuse(path, reason),
            })?)
        }
        _ => None,
    };
    let (size, sector) = match &shape {
        Some(shape) => (shape.size, shape.sector),
        None => {
            let disk = open(&OpenOptions {
                image_type,
                ..options.clone()
            })?;
            (disk.capacity(), disk.topology().logical_block)
        }
    };
    let file: Arc<Image> = open_file(&options)?;
    let metadata = file.file().metadata().map_err(|source| Error::Ask {
        path: path.to_owned(),
        what: "the size",
        source,
    })?;
    Ok(Info {
        size,
        kind: shape.as_ref().map(|shape| shape.kind),
        sector,
        block: shape.and_then(|shape| shape.block),
        file: file.file_length(),
        // stat(2): st_blocks counts 512 bytes, whatever the file system.
        allocated: metadata.blocks() * 512,
    })
}

fn read_only(path: &Path) -> OpenOptions {
    OpenOptions {
        read_only: true,
        ..OpenOptions::new(path)
    }
}
