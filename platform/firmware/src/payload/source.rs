//! A file that the user named, read with every offset checked.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Error;

/// What a file is for; error messages name it, and the option it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `--kernel`.
    Kernel,
    /// `--firmware`.
    Firmware,
    /// `--initramfs`.
    Initramfs,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Firmware => "firmware",
            Self::Initramfs => "initramfs",
        })
    }
}

/// A file, its size and its role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a File,
    pub(crate) size: u64,
    pub(crate) role: Role,
}

impl<'a> Source<'a> {
    /// Looks at the file's size. Only a regular file has one, and can be read at any offset.
    pub(crate) fn new(file: &'a File, role: Role) -> Result<Self, Error> {
        let metadata = file
            .metadata()
            .map_err(|source| Error::Read { role, source })?;
        if !metadata.is_file() {
            return Err(Error::NotRegularFile { role });
        }
        if metadata.len() == 0 {
            return Err(Error::EmptyFile { role });
        }
        Ok(Self {
            file,
            size: metadata.len(),
            role,
        })
    }

    /// Reads up to `len` bytes from the start, fewer if the file is shorter.
    pub(crate) fn head(&self, len: usize) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(self.size).map_or(len, |size| size.min(len));
        self.read(0, len)
    }

    /// Reads exactly `len` bytes; nothing is allocated before they are known to be there.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        self.check_range(offset, len as u64)?;
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| Error::Read {
                role: self.role,
                source,
            })?;
        Ok(bytes)
    }

    /// Checks that the file has `len` bytes at `offset`.
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::Truncated {
                role: self.role,
                offset,
                len,
                size: self.size,
            }),
        }
    }
}
