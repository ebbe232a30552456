//! New images.

use std::fs::File;
use std::io;
use std::path::Path;

use super::no_tool;
use crate::mapped::{impossible, open_file};
use crate::storage::Storage;
use crate::vhdx::Parameters;
use crate::{Error, ImageType, OpenOptions, open, qcow2, vhd, vhdx};

/// What a new image is to be like. Its disk has only zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewImage {
    /// The format.
    pub image_type: ImageType,
    /// Bytes of the disk, a multiple of its sectors.
    pub size: u64,
    /// All of the disk is in the file from the begin on, as holes, for formats where that is a choice.
    pub fixed: bool,
    /// Bytes of a block, for formats that have them; `None` for what is usual.
    pub block: Option<u32>,
    /// QCOW2 of version 2 rather than 3, for programs that know no other.
    pub version2: bool,
    /// Clusters have 32 parts that are allocated by themselves (QCOW2 of version 3, "Extended L2 Entries").
    pub extended_l2: bool,
    /// What is behind the image, for formats that can say so.
    pub backing: Option<Backing>,
    /// Bytes of a sector as the guest is to see it, for formats that say so; `None` for 512.
    pub sector: Option<u32>,
}

/// An image that lies behind another one: what that does not have is read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// As the image will say it: a relative path begins in the image's folder.
    pub name: String,
    /// Raw or QCOW2.
    pub image_type: ImageType,
}

impl Backing {
    /// Bytes of the disk in it, if it lies behind an image at `path`.
    ///
    /// # Errors
    /// What opening it gives.
    pub fn size(&self, path: &Path) -> Result<u64, Error> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let disk = open(&OpenOptions {
            image_type: self.image_type,
            read_only: true,
            backing_files: true,
            ..OpenOptions::new(folder.join(&self.name))
        })?;
        Ok(disk.capacity())
    }
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
    if new.image_type != ImageType::Qcow2 {
        refused(new.version2.then_some(0), "version")?;
        refused(new.extended_l2.then_some(0), "extended L2 entries")?;
        refused(new.backing.is_some().then_some(0), "backing file")?;
    }
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
