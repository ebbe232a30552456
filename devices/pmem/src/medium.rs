//! The file, and its mapping.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use device::{Error, Result};
use keyvalue::ByteSize;
use memory::{FileWrites, Mapping};

use crate::{ALIGN, OPTION, PmemConfig};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is behind the memory. It outlives the guest's reset, as a memory module would. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Medium {
    config: PmemConfig,
    file: Arc<File>,
    mapping: Arc<Mapping>,
}

impl Medium {
    /// Opens and maps what the configuration names.
    ///
    /// # Errors
    /// [`Error::Backend`] if it cannot be opened or mapped, is neither a file, a block device nor a folder, or has a
    /// size that persistent memory cannot have.
    pub fn open(config: &PmemConfig) -> Result<Self> {
        Self::try_open(config).map_err(|source| Error::Backend {
            what: format!("{OPTION} file={}", config.file.display()),
            source,
        })
    }

    fn try_open(config: &PmemConfig) -> std::result::Result<Self, Failure> {
        // Before it is opened, because opening a pipe waits for the other side.
        let kind = config.file.metadata()?.file_type();
        let (file, size) = if kind.is_dir() {
            let Some(ByteSize(size)) = config.size else {
                return Err("it is a folder: give the size of the unnamed file with size=".into());
            };
            check_size(size, "size")?;
            (unnamed(&config.file, size)?, size)
        } else if kind.is_file() || kind.is_block_device() {
            let file = open(&config.file, config.discard_writes)?;
            let size = size_of(&file, config.size)?;
            (file, size)
        } else {
            return Err("it is neither a file, a block device nor a folder".into());
        };
        let writes = if config.discard_writes {
            FileWrites::Discarded
        } else {
            FileWrites::Kept
        };
        let file = Arc::new(file);
        let mapping = Arc::new(Mapping::of_file(&file, size, writes)?);
        Ok(Self {
            config: config.clone(),
            file,
            mapping,
        })
    }

    /// Whether this is what the configuration names.
    pub(crate) fn is_of(&self, config: &PmemConfig) -> bool {
        let of = |config: &PmemConfig| (config.file.clone(), config.size, config.discard_writes);
        of(&self.config) == of(config)
    }

    /// How messages name it.
    pub(crate) fn named(&self) -> String {
        format!("file={}", self.config.file.display())
    }

    /// The memory.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mapping.size()
    }

    /// Whether the guest wrote something that is gone with the machine, so that a copy of it elsewhere would not have
    /// it.
    pub(crate) fn would_lose(&self) -> io::Result<bool> {
        if self.config.discard_writes {
            return self.mapping.is_written();
        }
        // An unnamed file is one big hole until it is written.
        Ok(self.config.file.is_dir() && self.file.metadata()?.blocks() > 0)
    }

    /// Takes what was written until now to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.config.discard_writes {
            return Ok(());
        }
        self.file.sync_data()
    }
}

fn open(path: &Path, discard_writes: bool) -> std::result::Result<File, Failure> {
    let opened = OpenOptions::new()
        .read(true)
        .write(!discard_writes)
        .open(path);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !discard_writes => {
            format!("{error}; a file that may only be read needs discard_writes=on").into()
        }
        _ => error.into(),
    })
}

/// A file without a name. Its pages take room on the disk as the guest writes them.
fn unnamed(folder: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(folder)?;
    file.set_len(size)?;
    Ok(file)
}

/// How much of a file is mapped.
fn size_of(mut file: &File, wanted: Option<ByteSize>) -> std::result::Result<u64, Failure> {
    // A block device's metadata does not have its length.
    let length = file.seek(SeekFrom::End(0))?;
    let Some(ByteSize(size)) = wanted else {
        check_size(length, "its length")?;
        return Ok(length);
    };
    check_size(size, "size")?;
    if size > length {
        return Err(format!(
            "size={} is more than the {length} bytes that it has: make it longer first (truncate -s)",
            ByteSize(size)
        )
        .into());
    }
    Ok(size)
}

fn check_size(size: u64, what: &str) -> std::result::Result<(), Failure> {
    if size == 0 || !size.is_multiple_of(ALIGN) {
        return Err(format!(
            "{what} is {size} bytes, and persistent memory has whole multiples of 2 MiB: set size=, or change its \
             length (truncate -s %2M)"
        )
        .into());
    }
    Ok(())
}
