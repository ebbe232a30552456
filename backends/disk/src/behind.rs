//! The files of an image and of what lies behind it, as they are opened one after the other.

use std::path::Path;
use std::sync::Arc;

use crate::image::Image;
use crate::{Error, ImageType, OpenOptions};

/// The most files that lie behind each other.
const MOST: usize = 32;

/// Those that are open.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    seen: Vec<(u64, u64, u64)>,
}

impl OpenFiles {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Opens one, as the options say of all. `refuse` makes the error of the format.
    ///
    /// # Errors
    /// Also if it is one of those before it, or there are too many.
    pub(crate) fn open(
        &mut self,
        options: &OpenOptions,
        path: &Path,
        read_only: bool,
        refuse: impl Fn(&Path, String) -> Error,
    ) -> Result<Arc<Image>, Error> {
        let file = Image::open(&OpenOptions {
            path: path.to_owned(),
            read_only,
            image_type: ImageType::Raw,
            ..options.clone()
        })?;
        let identity = file.identity().map_err(|source| Error::Ask {
            path: path.to_owned(),
            what: "the identity",
            source,
        })?;
        if self.seen.contains(&identity) {
            return Err(refuse(path, "it lies behind itself".into()));
        }
        if self.seen.len() >= MOST {
            let why = format!("more than {MOST} files lie behind each other");
            return Err(refuse(path, why));
        }
        self.seen.push(identity);
        Ok(Arc::new(file))
    }
}
