//! What the user says about an image.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an image is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// The file or block device.
    pub path: PathBuf,
    /// Opened for reading only, and locked so that others may read it too.
    pub read_only: bool,
    /// Around the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Space that the guest discards or fills with zeros is given back to the host.
    pub sparse: bool,
    /// Format of the image.
    pub image_type: ImageType,
    /// How much of the file the lock covers.
    pub lock_granularity: LockGranularity,
    /// Files that the image names are opened too: backing files and data files.
    pub backing_files: bool,
    /// Never io_uring.
    pub disable_io_uring: bool,
    /// Never Linux AIO.
    pub disable_aio: bool,
}

impl OpenOptions {
    /// What holds for a disk of which only the path is known.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            direct: false,
            sparse: true,
            image_type: ImageType::Unknown,
            lock_granularity: LockGranularity::ByteRange,
            backing_files: false,
            disable_io_uring: false,
            disable_aio: false,
        }
    }
}

/// Format of a disk image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-flag-values" = {
    "vmdk": "FlatVmdk",
    "vhd": "FixedVhd",
    "unknown": null,
}))]
pub enum ImageType {
    /// VMDK with flat extents.
    FlatVmdk,
    /// VHD of fixed size.
    FixedVhd,
    /// QCOW2.
    Qcow2,
    /// The bytes of the disk and nothing else.
    Raw,
    /// VHDX.
    Vhdx,
    /// To be found out from the first bytes. A file without a known signature is taken for raw, and the guest cannot
    /// write its first sector.
    #[default]
    Unknown,
}

impl ImageType {
    /// The word for it in an option.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::FlatVmdk => "vmdk",
            Self::FixedVhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vhdx => "vhdx",
            Self::Unknown => "unknown",
        }
    }
}

/// How much of a file the lock covers that keeps other processes from using the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-flag-values" = { "byte-range": "ByteRange" }, "x-flag-case" = true))]
pub enum LockGranularity {
    /// The bytes that the disk has.
    #[default]
    ByteRange,
    /// All bytes that the file has or may ever have.
    Full,
}
