//! What is done to images that no machine uses: making, checking and repairing them.
//!
//! Each function takes the format as [`ImageType`]; a format that cannot do what is asked refuses by its name.

mod create;
mod findings;
mod info;

use std::path::Path;
use std::sync::Arc;

pub use create::{Backing, NewImage, create};
pub use findings::Findings;
pub(crate) use info::Shape;
pub use info::{Info, detect, info};

use crate::image::Image;
use crate::mapped::open_file;
use crate::storage::Storage;
use crate::{Error, ImageType, OpenOptions, qcow2, vhd, vhdx};

/// Looks at an image, puts right what is wrong if it is to, and says how far it is.
type Check = fn(&Arc<dyn Storage>, bool, &mut dyn FnMut(u64, u64)) -> Result<Findings, String>;

/// Looks for contradictions in an image, and with `repair` puts right what can be without guessing. Without it nothing
/// is written. The image is locked meanwhile. `progress` gets what is done and all that is to be done, in no particular
/// unit.
///
/// # Errors
/// [`Error::Format`] if the image cannot be opened at all, [`Error::NoTool`] for formats that have nothing to check,
/// and what opening of files gives.
pub fn check_telling(
    path: &Path,
    image_type: ImageType,
    repair: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Findings, Error> {
    let check: Check = match image_type {
        ImageType::Qcow2 => qcow2::check_telling,
        // Their tables are looked at in a moment.
        ImageType::FixedVhd => |storage, repair, _| vhd::check(storage, repair),
        ImageType::Vhdx => |storage, repair, _| vhdx::check(storage, repair),
        ImageType::Raw => {
            return Err(no_tool(
                path,
                image_type,
                "be checked: it has nothing but the bytes of the disk",
            ));
        }
        _ => return Err(no_tool(path, image_type, "be checked here yet")),
    };
    let file = open_file(&OpenOptions {
        read_only: !repair,
        ..OpenOptions::new(path)
    })?;
    let storage: Arc<dyn Storage> = Arc::<Image>::clone(&file);
    check(&storage, repair, progress).map_err(|reason| Error::Format {
        path: path.to_owned(),
        word: image_type.word(),
        reason,
    })
}

/// As [`check_telling`], for who does not wait.
///
/// # Errors
/// As [`check_telling`].
pub fn check(path: &Path, image_type: ImageType, repair: bool) -> Result<Findings, Error> {
    check_telling(path, image_type, repair, &mut |_, _| {})
}

pub(crate) fn no_tool(path: &Path, image_type: ImageType, what: &'static str) -> Error {
    Error::NoTool {
        path: path.to_owned(),
        image_type,
        what,
    }
}
