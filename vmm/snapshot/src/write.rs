//! Writes a snapshot, all of it or nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::envelope::{Base, Envelope, FORMAT, Part};
use crate::{CHECKSUMS, CONFIG, Error, MEMORY, Result, STATE, VERSION, WHOLE, give_name};

/// What names have while they are written.
const PARTIAL: &str = ".partial";

/// What goes into the files, but for memory.
#[derive(Clone, Debug)]
pub struct Texts {
    /// The configuration.
    pub config: Vec<u8>,
    /// The state in its envelope, which has the length and checksum of the configuration.
    pub state: Vec<u8>,
}

/// What an increment has, and above what.
#[derive(Clone, Debug)]
pub struct Increment {
    /// Folder of the base.
    pub base: PathBuf,
    /// The base's `state.json`.
    pub state: Part,
    /// Parts of memory that it has.
    pub changed: Vec<Range<u64>>,
}

impl Increment {
    /// Folders beside each other may be moved together.
    fn seen_from(&self, folder: &Path) -> Base {
        let beside = self.base.parent() == folder.parent();
        let beside = self.base.file_name().filter(|_| beside);
        Base {
            folder: beside.map_or_else(|| self.base.clone(), |name| Path::new("..").join(name)),
            state: self.state,
            changed: self
                .changed
                .iter()
                .map(|part| (part.start, part.end))
                .collect(),
        }
    }
}

impl Texts {
    /// Writes both. `memory_bytes` is the length of RAM's contents.
    ///
    /// # Errors
    /// If one of them has no form as JSON.
    pub fn of(
        config: &impl Serialize,
        state: &impl Serialize,
        memory_bytes: u64,
    ) -> serde_json::Result<Self> {
        Self::above(config, state, memory_bytes, None, None)
    }

    fn above(
        config: &impl Serialize,
        state: &impl Serialize,
        memory_bytes: u64,
        memory_checksums: Option<Part>,
        base: Option<Base>,
    ) -> serde_json::Result<Self> {
        let config = serde_json::to_vec_pretty(config)?;
        let state = serde_json::value::to_raw_value(state)?;
        let envelope = Envelope {
            format: FORMAT.to_owned(),
            version: if base.is_some() { VERSION } else { WHOLE },
            config: Part::of(&config),
            memory_bytes,
            memory_checksums,
            base,
            state_crc32: crc32fast::hash(state.get().as_bytes()),
            state: &state,
        };
        let state = serde_json::to_vec(&envelope)?;
        Ok(Self { config, state })
    }
}

/// A snapshot that is being written. Dropping it without [`Destination::commit`] removes what was written.
#[derive(Debug)]
pub struct Destination {
    folder: PathBuf,
    memory: File,
    /// Files that are to be removed if it comes to nothing.
    made: Vec<PathBuf>,
}

impl Destination {
    /// Begins a snapshot in a folder that exists.
    ///
    /// # Errors
    /// [`Error::Exists`] if one of its files is there already, [`Error::File`] if they cannot be made.
    pub fn create(folder: &Path) -> Result<Self> {
        for name in [STATE, CONFIG, CHECKSUMS, MEMORY] {
            let path = folder.join(name);
            // A name that leads nowhere is taken, too.
            if path.symlink_metadata().is_ok() {
                return Err(Error::Exists(path));
            }
        }
        let mut made = Vec::new();
        let memory = partial(folder, MEMORY, &mut made)?;
        Ok(Self {
            folder: folder.to_owned(),
            memory,
            made,
        })
    }

    /// Where RAM's contents go.
    #[must_use]
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// Writes the rest and gives all files their names. `sums` are those of the memory's blocks that are not empty
    /// ([`Source::checksums`](crate::Source::checksums)).
    ///
    /// # Errors
    /// [`Error::File`] if something cannot be written, [`Error::Exists`] if a name was taken meanwhile; nothing stays
    /// behind.
    pub fn commit(
        self,
        config: &impl Serialize,
        state: &impl Serialize,
        sums: &[(u32, u32)],
    ) -> Result<()> {
        self.commit_above(config, state, sums, None)
    }

    /// The same of an increment, whose memory file has only what was changed.
    ///
    /// # Errors
    /// As [`Destination::commit`].
    pub fn commit_above(
        mut self,
        config: &impl Serialize,
        state: &impl Serialize,
        sums: &[(u32, u32)],
        increment: Option<&Increment>,
    ) -> Result<()> {
        let about = self.memory.metadata();
        let memory_bytes = about.map_err(|source| self.failed("write", MEMORY, source))?;
        let base = increment.map(|increment| increment.seen_from(&self.folder));
        let words = sums.iter().flat_map(|(block, sum)| [*block, *sum]);
        let table: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let checksums = Some(Part::of(&table));
        let texts = Texts::above(config, state, memory_bytes.len(), checksums, base);
        let Texts { config, state } =
            texts.map_err(|error| self.failed("write", STATE, error.into()))?;
        let synced = self.memory.sync_all();
        synced.map_err(|source| self.failed("write", MEMORY, source))?;
        for (name, bytes) in [(CONFIG, &config), (CHECKSUMS, &table), (STATE, &state)] {
            let mut file = partial(&self.folder, name, &mut self.made)?;
            let written = file.write_all(bytes).and_then(|()| file.sync_all());
            written.map_err(|source| self.failed("write", name, source))?;
        }
        for name in [MEMORY, CHECKSUMS, CONFIG, STATE] {
            self.rename(name)?;
        }
        // The names, too, are to outlive a loss of power.
        let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
        folder.map_err(|source| self.failed("write", "", source))?;
        self.made.clear();
        Ok(())
    }

    fn rename(&mut self, name: &'static str) -> Result<()> {
        let (from, to) = (partial_path(&self.folder, name), self.folder.join(name));
        match give_name(&from, &to) {
            Ok(()) => {
                self.made.push(to);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(to)),
            Err(source) => Err(self.failed("create", name, source)),
        }
    }

    fn failed(&self, act: &'static str, name: &str, source: io::Error) -> Error {
        Error::File {
            act,
            path: self.folder.join(name),
            source,
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        for path in &self.made {
            // What has another name by now is gone here.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn partial_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{PARTIAL}"))
}

/// Makes a file under its temporary name. One that an interrupted snapshot left is removed.
fn partial(folder: &Path, name: &str, made: &mut Vec<PathBuf>) -> Result<File> {
    let path = partial_path(folder, name);
    let failed = |source| Error::File {
        act: "create",
        path: path.clone(),
        source,
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let file = file.map_err(failed)?;
    made.push(path);
    Ok(file)
}
