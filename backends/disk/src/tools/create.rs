//! New images.

use std::fs::File;
use std::io;
use std::path::Path;

use super::no_tool;
use crate::mapped::{impossible, open_file};
use crate::storage::Storage;
use crate::vhdx::Parameters;
use crate::{Error, ImageType, OpenOptions, qcow2, vhd, vhdx};

/// What a new image is to be like. Its disk has only zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// The format.
    pub image_type: ImageType,
    /// Bytes of the disk, a multiple of its sectors.
    pub size: u64,
    /// All of the disk is in the file from the begin on, as holes, for formats where that is a choice.
    pub fixed: bool,
    /// Bytes of a block, for formats that have them; `None` for what is usual.
    pub block: Option<u32>,
    /// Bytes of a sector as the guest is to see it, for formats that say so; `None` for 512.
    pub sector: Option<u32>,
}

/// Makes an image, of a file that must not be there yet. Nothing is left of it if that fails.
///
/// # Errors
/// [`Error::Create`] if there cannot be such an image, or it cannot be written; [`Error::NoTool`] for formats that
/// cannot be made.
pub fn create(path: &Path, new: &NewImage) -> Result<(), Error> {
    if matches!(new.image_type, ImageType::FlatVmdk | ImageType::Unknown) {
        return Err(no_tool(path, new.image_type, "be made here yet"));
    }
    let failed = |source| Error::Create {
        path: path.to_owned(),
        source,
    };
    File::create_new(path).map_err(failed)?;
    let file = open_file(&OpenOptions::new(path));
    let made = file.and_then(|file| fill(&*file, new).map_err(failed));
    if made.is_err() {
        // The reason why it is not wanted is what counts.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn fill(storage: &dyn Storage, new: &NewImage) -> io::Result<()> {
    let refused = |option: Option<u32>, what: &str| match option {
        Some(_) => Err(impossible(format!(
            "{} has no {what} that could be chosen",
            new.image_type.word()
        ))),
        None => Ok(()),
    };
    match new.image_type {
        ImageType::Qcow2 => {
            refused(new.sector, "size of sectors")?;
            refused(new.fixed.then_some(0), "fixed kind")?;
            qcow2::make(storage, new)
        }
        ImageType::FixedVhd => {
            refused(new.sector, "size of sectors")?;
            let disk_type = match new.fixed {
                true => vhd::DiskType::Fixed,
                false => vhd::DiskType::Dynamic,
            };
            vhd::create(storage, disk_type, new.size, new.block)
        }
        ImageType::Vhdx => {
            let usual = Parameters::usual(new.size, new.fixed);
            let parameters = Parameters {
                block: new.block.unwrap_or(usual.block),
                sector: new.sector.unwrap_or(usual.sector),
                ..usual
            };
            vhdx::create(storage, parameters)
        }
        _ => {
            refused(new.sector, "size of sectors")?;
            refused(new.block, "size of blocks")?;
            if new.size == 0 || !new.size.is_multiple_of(512) {
                return Err(impossible(format!(
                    "{} bytes are not a number of sectors of 512 bytes",
                    new.size
                )));
            }
            storage.set_length(new.size)?;
            storage.flush()
        }
    }
}
