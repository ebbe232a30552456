//! Why an image cannot be opened.

use std::io;
use std::path::PathBuf;

use crate::ImageType;

/// Why an image cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] sandbox::Error),
    /// `O_DIRECT` is not possible for this file.
    #[error(
        "{} cannot be opened with direct=on: its file system or device has no direct I/O; \
         direct=off uses the host's page cache", path.display()
    )]
    NoDirect {
        /// The image.
        path: PathBuf,
        /// What the system said, if it was asked by opening.
        source: Option<io::Error>,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a file nor a block device", .0.display())]
    NotAnImage(PathBuf),
    /// The kernel does not say what is to be known about the file.
    #[error("cannot find out {what} of {}", path.display())]
    Ask {
        /// The image.
        path: PathBuf,
        /// What was asked for.
        what: &'static str,
        /// Why there was no answer.
        source: io::Error,
    },
    /// The format is known but cannot be served.
    #[error(
        "{} is to be opened as {}, which this version does not have yet; \
         qemu-img convert -O raw makes a raw image of it", path.display(), image_type.word()
    )]
    NotYet {
        /// The image.
        path: PathBuf,
        /// The format that was asked for.
        image_type: ImageType,
    },
    /// The image is broken, or has what cannot be served.
    #[error("{} cannot be opened as QCOW2: {reason}", path.display())]
    Qcow2 {
        /// The image, or the file behind it.
        path: PathBuf,
        /// Why not, and what changes it.
        reason: String,
    },
    /// The image is broken, or has what cannot be served.
    #[error("{} cannot be opened as {word}: {reason}", path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// The format.
        word: &'static str,
        /// Why not, and what changes it.
        reason: String,
    },
    /// The format has no such tool.
    #[error("{} is {}, which cannot {what}", path.display(), image_type.word())]
    NoTool {
        /// The image.
        path: PathBuf,
        /// Its format.
        image_type: ImageType,
        /// What cannot be done, as in "cannot ...".
        what: &'static str,
    },
    /// A new image cannot be made.
    #[error("cannot make {}", path.display())]
    Create {
        /// The image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No format was said, and the image has the signature of one that is not raw.
    #[error(
        "{} looks like {word}: say image_type={word}, or image_type=raw to give the guest the \
         bytes of the file as they are", path.display(), word = image_type.word()
    )]
    LooksLike {
        /// The image.
        path: PathBuf,
        /// The format whose signature it has.
        image_type: ImageType,
    },
    /// Another process, or another disk of this one, has it open.
    #[error(
        "{} is in use by another process, or by another disk of this machine; only disks with \
         readonly=on share an image", .0.display()
    )]
    InUse(PathBuf),
    /// The file system does not lock.
    #[error("cannot lock {}: its file system has to support locks (fcntl(2), F_OFD_SETLK)", path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The image contradicts itself, or not all of it is there.
pub(crate) fn corrupt(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Bytes of the disk are lost, but nothing is wrong with the tables that lead to others.
pub(crate) fn lost(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// What cannot be done with the image.
pub(crate) fn impossible(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}
