//! Files named in the configuration, with what they are opened for as a type.

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::Hash;
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;
use crate::landlock::{Access, Rules};

/// How a [`HostFile`] is opened: one of the marker types of this module.
pub trait FileAccess:
    sealed::Sealed + Copy + fmt::Debug + Eq + Hash + Send + Sync + 'static
{
    /// What Landlock must permit for it.
    const ACCESS: Access;
    /// The words for an error message: "cannot open … for …".
    const PURPOSE: &'static str;
    #[doc(hidden)]
    fn set(options: &mut OpenOptions);
}

mod sealed {
    pub trait Sealed {}
}

/// The file is only read, such as a kernel or a firmware image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadOnly {}

/// The file exists and is changed in place, such as a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadWrite {}

/// The file is written anew, such as a log: created if absent (only the owner may use it),
/// emptied if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CreateTruncate {}

impl sealed::Sealed for ReadOnly {}
impl sealed::Sealed for ReadWrite {}
impl sealed::Sealed for CreateTruncate {}

impl FileAccess for ReadOnly {
    const ACCESS: Access = Access::Read;
    const PURPOSE: &'static str = "reading";
    fn set(options: &mut OpenOptions) {
        options.read(true);
    }
}

impl FileAccess for ReadWrite {
    const ACCESS: Access = Access::ReadWrite;
    const PURPOSE: &'static str = "reading and writing";
    fn set(options: &mut OpenOptions) {
        options.read(true).write(true);
    }
}

impl FileAccess for CreateTruncate {
    const ACCESS: Access = Access::Create;
    const PURPOSE: &'static str = "writing";
    fn set(options: &mut OpenOptions) {
        options.write(true).create(true).truncate(true).mode(0o600);
    }
}

/// A file named in the configuration, with the access it needs as a type.
///
/// In configuration text it is just its path. The type makes opening and permitting agree: what
/// [`HostFile::open`] will do is what [`HostFile::rules`] asks Landlock for.
///
/// ```
/// # use sandbox::{HostFile, ReadOnly};
/// let kernel: HostFile<ReadOnly> = "/boot/vmlinuz".into();
/// assert_eq!(kernel.path().to_str(), Some("/boot/vmlinuz"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostFile<A: FileAccess> {
    path: PathBuf,
    access: PhantomData<A>,
}

impl<A: FileAccess> HostFile<A> {
    /// Names a file; nothing is looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            access: PhantomData,
        }
    }

    /// The path as configured.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file; programs that this process executes do not inherit it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] with the path and the purpose.
    pub fn open(&self) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        A::set(&mut options);
        options.open(&self.path).map_err(|source| Error::Open {
            path: self.path.clone(),
            purpose: A::PURPOSE,
            source,
        })
    }

    /// Adds what [`HostFile::open`] needs to the Landlock rules of the process.
    pub fn rules(&self, rules: &mut Rules) {
        rules.allow(&self.path, A::ACCESS);
    }
}

impl<A: FileAccess> From<&str> for HostFile<A> {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl<A: FileAccess> From<PathBuf> for HostFile<A> {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}

impl<A: FileAccess> Serialize for HostFile<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.path.serialize(serializer)
    }
}

impl<'de, A: FileAccess> Deserialize<'de> for HostFile<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(Self::new)
    }
}

impl<A: FileAccess> JsonSchema for HostFile<A> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        PathBuf::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        PathBuf::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn read_only_reads_and_does_not_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        std::fs::write(&path, "bits").unwrap();
        let mut file = HostFile::<ReadOnly>::new(&path).open().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bits");
        file.write_all(b"x").unwrap_err();
    }

    #[test]
    fn read_write_keeps_contents_and_does_not_create() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let disk = HostFile::<ReadWrite>::new(&path);
        let error = disk.open().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot open {} for reading and writing", path.display())
        );
        assert!(!path.exists());
        std::fs::write(&path, "bits").unwrap();
        disk.open().unwrap().write_all(b"B").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "Bits");
    }

    #[test]
    fn create_truncate_empties_and_keeps_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = HostFile::<CreateTruncate>::new(&path);
        log.open().unwrap().write_all(b"long old text").unwrap();
        log.open().unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "mode {mode:o}");
    }

    #[test]
    fn is_its_path_in_configuration_text() {
        let file: HostFile<ReadOnly> = serde_json::from_str("\"/a b\"").unwrap();
        assert_eq!(file.path(), Path::new("/a b"));
        assert_eq!(serde_json::to_string(&file).unwrap(), "\"/a b\"");
        let schema = schemars::schema_for!(HostFile<ReadOnly>);
        assert_eq!(schema.get("type").unwrap(), "string");
    }
}
