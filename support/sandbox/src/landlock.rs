//! Landlock: the file system as the process may use it from now on.
//!
//! Rules only add: what no rule mentions is out of reach once they are applied, for opening,
//! creating, removing, connecting (where the kernel can tell) and executing. Descriptors that are
//! already open stay usable. Rules name files or whole folders.
//!
//! ```no_run
//! use std::path::Path;
//! use sandbox::landlock::{Access, Rules};
//!
//! let mut rules = Rules::new();
//! rules.allow(Path::new("/srv/images"), Access::Read);
//! rules.apply()?;
//! # Ok::<(), sandbox::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use crate::Error;

/// The newest interface these rules were thought through for.
///
/// On an older kernel the rights it does not know are left out of what is restricted.
const INTERFACE: ABI = ABI::V9;

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Read files, list folders (the letter `r`).
    Read,
    /// Write to files, make and remove entries of folders, control devices (the letter `w`).
    Write,
    /// Both (the letters `rw`).
    ReadWrite,
    /// Create this one file, or empty it if it exists, and write to it.
    ///
    /// If it does not exist yet, Landlock can only be asked to permit that for its whole folder.
    Create,
    /// Listen on a Unix socket with this path, and remove it afterwards.
    ///
    /// Landlock can only be asked to permit that for its whole folder.
    Listen,
    /// Connect to Unix sockets in the folder that this path is in, whether they are there yet or not.
    ///
    /// Kernels that cannot restrict it permit it everywhere.
    Connect,
}

impl Access {
    /// The rights this needs on the path itself, or on its folder if that is what carries them.
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::Write => AccessFs::from_write(INTERFACE),
            Self::ReadWrite => read | AccessFs::from_write(INTERFACE),
            Self::Create => AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate,
            Self::Listen => AccessFs::MakeSock | AccessFs::RemoveFile,
            Self::Connect => AccessFs::ResolveUnix.into(),
        }
    }

    /// Whether the rule has to be on the folder that holds `path`.
    fn is_about_folder(self, path: &Path) -> bool {
        match self {
            Self::Read | Self::Write | Self::ReadWrite => false,
            Self::Create => !path.exists(),
            Self::Listen | Self::Connect => true,
        }
    }
}

impl FromStr for Access {
    type Err = Error;

    /// Reads the letters of `--landlock-rules access=`: `r`, `w`, or both.
    fn from_str(letters: &str) -> Result<Self, Error> {
        match letters {
            "r" | "rr" => Ok(Self::Read),
            "w" | "ww" => Ok(Self::Write),
            "rw" | "wr" => Ok(Self::ReadWrite),
            other => Err(Error::UnknownAccess(other.to_owned())),
        }
    }
}

/// The paths that stay within reach, gathered before they are applied at once.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    paths: BTreeMap<PathBuf, Vec<Access>>,
}

impl Rules {
    /// No rule yet: applied as they are, they put every file out of reach.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a path within reach; several rules for one path add up.
    pub fn allow(&mut self, path: &Path, access: Access) {
        self.paths.entry(path.to_owned()).or_default().push(access);
    }

    /// Restricts the process, for good.
    ///
    /// The calling thread is restricted, and with it every thread and process it starts later, so
    /// it must be the only one yet. No program can be executed afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::LandlockUnavailable`] if the kernel has no Landlock, [`Error::LandlockThreads`] if
    /// there are other threads, [`Error::LandlockPath`] for a path (or, of a file to be created,
    /// its folder) that cannot be opened, [`Error::Landlock`] for what the kernel refuses.
    pub fn apply(self) -> Result<(), Error> {
        if !is_only_thread() {
            return Err(Error::LandlockThreads);
        }
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(INTERFACE))?
            .create()?;
        for (path, accesses) in self.paths {
            for access in accesses {
                ruleset = ruleset.add_rule(rule(&path, access)?)?;
            }
        }
        match ruleset.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
            RulesetStatus::NotEnforced => Err(Error::LandlockUnavailable),
        }
    }
}

/// Binds a rule to the file that the path leads to now.
fn rule(path: &Path, access: Access) -> Result<PathBeneath<File>, Error> {
    let path = if access.is_about_folder(path) {
        folder(path)
    } else {
        path
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    let failed = |source: io::Error| Error::LandlockPath {
        path: path.to_owned(),
        source,
    };
    let file = opened.map_err(failed)?;
    // The rights of folders make no sense on other files, and the kernel refuses them there.
    let is_folder = file.metadata().map_err(failed)?.is_dir();
    let rights = access.rights();
    let rights = if is_folder {
        rights
    } else {
        rights & AccessFs::from_file(INTERFACE)
    };
    Ok(PathBeneath::new(file, rights))
}

/// The folder that holds the path.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Whether the process has one thread, without needing `/proc`.
fn is_only_thread() -> bool {
    // SAFETY: takes a number only. For a process with one thread the call changes nothing, for
    // others it fails (unshare(2), CLONE_THREAD).
    let result = unsafe { libc::unshare(libc::CLONE_THREAD) };
    result == 0
}

#[cfg(test)]
mod tests;
