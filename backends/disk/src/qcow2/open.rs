//! Opens an image and what lies behind it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::QcowDisk;
use super::header::{BackingName, Header, LONGEST_HEAD};
use super::map::Map;
use super::owner::Writer;
use super::read::{Layer, Qcow2};

use crate::behind::OpenFiles;
use crate::image::Image;
use crate::port::choose;
use crate::storage::Storage;
use crate::{Disk, Error, OpenOptions};

/// Opens an image as a disk.
///
/// # Errors
/// [`Error::Qcow2`] if it cannot be served, and what opening of files gives.
pub(crate) fn open(options: &OpenOptions) -> Result<Arc<dyn Disk>, Error> {
    let Opened {
        mut image,
        file,
        data,
    } = Chain::new(options).open(&options.path, options.read_only)?;
    if !options.read_only {
        check_direct(&image, &file, &options.path)?;
        let storage: Arc<dyn Storage> = Arc::<Image>::clone(&file);
        let writer = Writer::open(image.map(), &storage, options.sparse);
        image.writer = Some(writer.map_err(|reason| refuse(&options.path, reason))?);
    }
    let (engine, passed_over) = choose(options);
    Ok(Arc::new(QcowDisk {
        image: Arc::new(image),
        file,
        data,
        engine,
        passed_over,
        resizing: Mutex::default(),
    }))
}

/// The files that are opened with an image because it names them: backing files and data files, the latter to be
/// written if the image is.
pub(crate) fn behind(options: &OpenOptions) -> Vec<(PathBuf, bool)> {
    let mut chain = Chain::new(options);
    // What was named up to an error is of no use: without the rest the disk is not opened.
    match chain.open(&options.path, true) {
        Ok(_) => chain.named,
        Err(_) => Vec::new(),
    }
}

/// Two writes of parts of clusters must not be in each other's blocks.
fn check_direct(image: &Qcow2, file: &Image, path: &Path) -> Result<(), Error> {
    let block = file.alignment.memory.max(file.alignment.offset);
    let part = image.map().header().part();
    if u64::from(block) > part {
        return Err(refuse(
            path,
            format!(
                "its clusters are written in parts of {part} bytes, and direct=on needs {block} on this file \
                 system; direct=off uses the host's page cache"
            ),
        ));
    }
    Ok(())
}

fn refuse(path: &Path, reason: impl Into<String>) -> Error {
    Error::Qcow2 {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

struct Opened {
    image: Qcow2,
    file: Arc<Image>,
    data: Arc<Image>,
}

/// The images that are being opened, the one of the guest first.
struct Chain<'a> {
    options: &'a OpenOptions,
    files: OpenFiles,
    /// Files that images named, and whether they are written.
    named: Vec<(PathBuf, bool)>,
}

impl<'a> Chain<'a> {
    fn new(options: &'a OpenOptions) -> Self {
        Self {
            options,
            files: OpenFiles::default(),
            named: Vec::new(),
        }
    }

    fn open_file(&mut self, path: &Path, read_only: bool) -> Result<Arc<Image>, Error> {
        let refuse = |path: &Path, why| refuse(path, why);
        self.files.open(self.options, path, read_only, refuse)
    }

    fn open(&mut self, path: &Path, read_only: bool) -> Result<Opened, Error> {
        let file = self.open_file(path, read_only)?;
        let header = read_header(&file, path)?;
        let data = match &header.external_data {
            None => Arc::clone(&file),
            Some(name) => {
                let data = self.resolve(path, name, "data file")?;
                let is_first = self.files.count() == 1;
                self.named
                    .push((data.clone(), is_first && !self.options.read_only));
                self.open_file(&data, read_only)?
            }
        };
        let backing = match &header.backing {
            None => None,
            Some(backing) => Some(self.open_backing(path, backing)?),
        };
        let storage = |image: &Arc<Image>| -> Arc<dyn Storage> { Arc::<Image>::clone(image) };
        let map = Map::new(header, storage(&file));
        let image = Qcow2::new(map, storage(&file), storage(&data), backing);
        Ok(Opened { image, file, data })
    }

    fn open_backing(&mut self, path: &Path, backing: &BackingName) -> Result<Layer, Error> {
        let behind = self.resolve(path, &backing.name, "backing file")?;
        self.named.push((behind.clone(), false));
        match backing.format.as_deref() {
            Some("raw") => Ok(Layer::Raw(self.open_file(&behind, true)?)),
            Some("qcow2") => Ok(Layer::Qcow2(Box::new(self.open(&behind, true)?.image))),
            // To guess would be to trust whoever wrote the first bytes of it.
            None => Err(refuse(
                path,
                "it does not say the format of its backing file; qemu-img rebase -u -F FORMAT -b NAME \
                 adds it",
            )),
            Some(other) => Err(refuse(
                path,
                format!("its backing file has the format {other:?}; raw and qcow2 can be read"),
            )),
        }
    }

    /// The file that an image names, if it may.
    fn resolve(&self, path: &Path, name: &str, what: &str) -> Result<PathBuf, Error> {
        if !self.options.backing_files {
            return Err(refuse(
                path,
                format!("it has the {what} {name:?}, which is opened only with backing_files=on"),
            ));
        }
        let plain = name.strip_prefix("file:").unwrap_or(name);
        let scheme = plain.split_once(':').map(|(scheme, _)| scheme);
        if scheme.is_some_and(|scheme| !scheme.contains('/')) {
            return Err(refuse(
                path,
                format!("its {what} {name:?} is not named by a path"),
            ));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(folder.join(plain))
    }
}

fn read_header(file: &Image, path: &Path) -> Result<Header, Error> {
    let length = usize::try_from(file.length()).unwrap_or(LONGEST_HEAD);
    let mut head = vec![0; length.min(LONGEST_HEAD)];
    let count = file.read(0, &mut head).map_err(|source| Error::Ask {
        path: path.to_owned(),
        what: "the header",
        source,
    })?;
    head.truncate(count);
    Header::parse(&head, file.length()).map_err(|reason| refuse(path, reason))
}
