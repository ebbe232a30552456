//! What lies behind differencing images of VHD and VHDX. They can only be read.
//!
//! An image names its parent by a path, and whoever could write the image has chosen it: it is opened only with
//! `backing_files=on`, only to be read, and only if it has the id that the image says. Paths are Windows' own; what can be
//! followed are those that are relative to the image's folder, and absolute ones without a drive or a server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Mapping, Place, narrow};
use crate::behind::OpenFiles;
use crate::error::lost;
use crate::image::Image;
use crate::storage::Storage;
use crate::{Error, OpenOptions};

/// Bytes of a path, as UTF-16: what Linux takes has 4096 in UTF-8.
pub(crate) const LONGEST_NAME: usize = 8192;

/// An image that lies behind another one.
pub(crate) struct Layer {
    pub(crate) mapping: Arc<dyn Mapping>,
    /// What the mapping says where in it bytes are.
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) parent: Option<Box<Layer>>,
}

impl Layer {
    /// Fills `bytes` from `offset` on; with zeros behind the end.
    ///
    /// # Errors
    /// If something cannot be read, or an image contradicts itself.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let there = self.mapping.capacity().saturating_sub(offset);
        let (mut left, behind) = bytes.split_at_mut(narrow(there).min(bytes.len()));
        behind.fill(0);
        let mut at = offset;
        while !left.is_empty() {
            let (place, count) = self.mapping.find(at, left.len() as u64)?;
            if count == 0 {
                return Err(lost("a block of a parent has no bytes"));
            }
            let (part, rest) = left.split_at_mut(narrow(count).min(left.len()));
            match (place, &self.parent) {
                (Place::Data(start), _) => {
                    if self.storage.read(start, part)? < part.len() {
                        return Err(lost("the file of a parent became shorter"));
                    }
                }
                (Place::Parent, Some(parent)) => parent.read(at, part)?,
                (Place::Parent | Place::Zero, _) => part.fill(0),
            }
            at += part.len() as u64;
            left = rest;
        }
        Ok(())
    }
}

/// The images that are being opened, the one of the guest first.
pub(crate) struct Chain<'a> {
    pub(crate) options: &'a OpenOptions,
    refuse: fn(&Path, String) -> Error,
    files: OpenFiles,
    /// The files that images named.
    named: Vec<PathBuf>,
}

impl<'a> Chain<'a> {
    /// `refuse` makes the error of the format.
    pub(crate) fn new(options: &'a OpenOptions, refuse: fn(&Path, String) -> Error) -> Self {
        Self {
            options,
            refuse,
            files: OpenFiles::default(),
            named: Vec::new(),
        }
    }

    /// Opens the file of an image.
    ///
    /// # Errors
    /// Also if it is one of those before it, or there are too many.
    pub(crate) fn open_file(&mut self, path: &Path, read_only: bool) -> Result<Arc<Image>, Error> {
        self.files.open(self.options, path, read_only, self.refuse)
    }

    /// The files that are opened because images name them, if `open` can open them all.
    pub(crate) fn named_by<T>(
        mut self,
        open: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Vec<PathBuf> {
        match open(&mut self) {
            Ok(_) => self.named,
            Err(_) => Vec::new(),
        }
    }

    /// The parent's path, from the names that the image at `path` has for it, the best first.
    ///
    /// # Errors
    /// If it must not be followed, or none of them can be.
    pub(crate) fn resolve(&mut self, path: &Path, names: &[String]) -> Result<PathBuf, Error> {
        let refuse = |why| Err((self.refuse)(path, why));
        if !self.options.backing_files {
            return refuse(format!(
                "it is a differencing image, whose parent {names:?} is opened only with backing_files=on"
            ));
        }
        let Some(name) = names.iter().find_map(|name| followed(name)) else {
            return refuse(format!(
                "it names its parent by {names:?}; what can be followed is a path that begins in the image's folder"
            ));
        };
        let parent = path.parent().unwrap_or(Path::new("")).join(name);
        self.named.push(parent.clone());
        Ok(parent)
    }
}

/// A path of Windows as one of ours, if it has no drive and no server.
fn followed(name: &str) -> Option<String> {
    let path = name.replace('\\', "/");
    let is_foreign = path.is_empty()
        || path.starts_with("//")
        || path.contains(char::is_control)
        || path
            .split('/')
            .next()
            .is_some_and(|first| first.contains(':'));
    (!is_foreign).then_some(path)
}

/// Text of UTF-16, little-endian.
///
/// # Errors
/// If it is none, in words.
pub(crate) fn text_of(bytes: &[u8]) -> Result<String, String> {
    let units = bytes.chunks_exact(2);
    let units = units.map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.map_err(|_| "it names its parent by what is no text".to_owned())
}

#[test]
fn paths_of_windows_are_followed_where_they_can_be() {
    for (name, path) in [
        (r".\base.vhd", Some("./base.vhd")),
        (r"..\a b\base.vhd", Some("../a b/base.vhd")),
        ("base.vhd", Some("base.vhd")),
        ("/images/base.vhd", Some("/images/base.vhd")),
        (r"\images\a:b", Some("/images/a:b")),
        (r"C:\images\base.vhd", None),
        ("C:base.vhd", None),
        (r"\\server\share\base.vhd", None),
        ("a\nb", None),
        ("", None),
    ] {
        assert_eq!(followed(name).as_deref(), path, "{name}");
    }
}
