//! Reads a snapshot that may be anybody's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::envelope::{Base, Envelope, FORMAT, Head, Part};
use crate::{BLOCK, CHECKSUMS, CONFIG, Error, MEMORY, MOST_LAYERS, Result, STATE, VERSION, WHOLE};

/// Largest configuration: that of a machine with some thousand devices.
const MOST_CONFIG: u64 = 1 << 20;
/// Largest state: 1024 processors with AMX have 32 MiB.
const MOST_STATE: u64 = 64 << 20;
/// Largest text that says what is in layers: 16,384 parts take less than 512 KiB.
const MOST_LAYER_INDEX: u64 = 1 << 20;
/// What errors call it.
const LAYERS: &str = "layers";

/// A snapshot that is complete and fits together.
#[derive(Clone, Debug)]
pub struct Source {
    folder: PathBuf,
    config: Vec<u8>,
    state: Vec<u8>,
    memory: Arc<File>,
    memory_bytes: u64,
    /// What `state.json` is.
    mark: Part,
    base: Option<Base>,
    /// Of an increment: those below it but the lowest, whose memory is `memory`, and its own.
    changes: Vec<Changes>,
    /// The folders of those below it.
    below: Vec<PathBuf>,
    /// The tables of checksums, its own and of those below it.
    tables: Vec<Option<Part>>,
}

/// Numbers of blocks and their CRC-32.
pub type Checksums = Vec<(u32, u32)>;

/// Memory that an increment has.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Its memory file, as long as that of the base.
    pub memory: Arc<File>,
    /// What in it counts. Not checked.
    pub parts: Vec<Range<u64>>,
}

impl Source {
    /// Opens all files of a snapshot for reading, and checks what they say about each other.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be opened or read, [`Error::Bad`] or [`Error::Version`] if it is not what a
    /// snapshot has.
    pub fn open(folder: &Path) -> Result<Self> {
        let open = |name| open(&folder.join(name));
        let source = Self::of(folder, &open(STATE)?, &open(CONFIG)?, || open(MEMORY))?;
        source.with_bases()
    }

    /// Opens what an increment lies above.
    fn with_bases(mut self) -> Result<Self> {
        let mut next = self.base.clone();
        let mut folder = self.folder.clone();
        while let Some(base) = next {
            let path = folder.join(STATE);
            if self.changes.len() == MOST_LAYERS {
                let why = format!("more than {MOST_LAYERS} snapshots lie above each other");
                return Err(Error::Bad { path, why });
            }
            folder = folder.join(&base.folder);
            let open = |name| open(&folder.join(name));
            let below = Self::of(&folder, &open(STATE)?, &open(CONFIG)?, || open(MEMORY))?;
            if below.mark != base.state {
                return Err(Error::OtherBase { base: folder, path });
            }
            let parts = base.changed.iter().map(|(start, end)| *start..*end);
            let memory = std::mem::replace(&mut self.memory, below.memory);
            self.changes.push(Changes {
                memory,
                parts: parts.collect(),
            });
            if below.memory_bytes != self.memory_bytes {
                let why = format!(
                    "its memory has not the size of that in {}",
                    folder.display()
                );
                return Err(Error::Bad { path, why });
            }
            self.below.push(folder.clone());
            self.tables.extend(below.tables);
            next = below.base;
        }
        self.changes.reverse();
        Ok(self)
    }

    /// The same of files that another process sent. Their names in errors are those below `from`.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn received(from: &Path, files: &Parts) -> Result<Self> {
        for (name, file) in [
            (CONFIG, &files.config),
            (STATE, &files.state),
            (MEMORY, &files.memory),
        ] {
            check_kind(&from.join(name), file)?;
        }
        let memory = files.memory.try_clone();
        let memory = memory.map_err(failed("open", &from.join(MEMORY)));
        let mut source = Self::of(from, &files.state, &files.config, || memory)?;
        if let Some((index, layers)) = &files.layers {
            source.changes = received_layers(&from.join(LAYERS), index, layers)?;
        }
        if source.base.is_some() {
            let why = "it is an increment, which is no VM that goes on".into();
            return Err(Error::Bad {
                path: from.join(STATE),
                why,
            });
        }
        Ok(source)
    }

    fn of(
        folder: &Path,
        state: &File,
        config: &File,
        memory: impl FnOnce() -> Result<File>,
    ) -> Result<Self> {
        let state = read(&folder.join(STATE), state, MOST_STATE)?;
        let config = read(&folder.join(CONFIG), config, MOST_CONFIG)?;
        let bad = |name: &str, why: String| Error::Bad {
            path: folder.join(name),
            why,
        };
        let unreadable = |error: serde_json::Error| bad(STATE, error.to_string());
        let head: Head = serde_json::from_slice(&state).map_err(unreadable)?;
        if head.format != FORMAT {
            return Err(bad(STATE, format!("its format is {:?}", head.format)));
        }
        if !(WHOLE..=VERSION).contains(&head.version) {
            return Err(Error::Version {
                path: folder.join(STATE),
                found: head.version,
            });
        }
        let envelope: Envelope<'_> = serde_json::from_slice(&state).map_err(unreadable)?;
        let text = envelope.state.get().as_bytes();
        if crc32fast::hash(text) != envelope.state_crc32 {
            return Err(bad(STATE, "its checksum is wrong, it is damaged".into()));
        }
        if Part::of(&config) != envelope.config {
            let why = "it has not the length and checksum that state.json says, it is damaged";
            return Err(bad(CONFIG, why.into()));
        }
        let memory_bytes = envelope.memory_bytes;
        let (mark, base) = (Part::of(&state), envelope.base.clone());
        if base.is_some() != (head.version > WHOLE) {
            let why = format!("an increment has a base, and version {VERSION}");
            return Err(bad(STATE, why));
        }
        let (text, table) = (text.to_vec(), envelope.memory_checksums);
        let memory = memory()?;
        let length = memory
            .metadata()
            .map_err(failed("read", &folder.join(MEMORY)))?
            .len();
        if length != memory_bytes {
            let why = format!("it has {length} bytes instead of {memory_bytes}");
            return Err(bad(MEMORY, why));
        }
        Ok(Self {
            folder: folder.to_owned(),
            config,
            state: text,
            memory: Arc::new(memory),
            memory_bytes,
            mark,
            base,
            changes: Vec::new(),
            below: Vec::new(),
            tables: vec![table],
        })
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`Error::Bad`] if it does not read as that.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        self.parse(CONFIG, &self.config)
    }

    /// The state.
    ///
    /// # Errors
    /// [`Error::Bad`] if it does not read as that.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T> {
        self.parse(STATE, &self.state)
    }

    /// What its `state.json` is: increments to it have this.
    #[must_use]
    pub fn mark(&self) -> Part {
        self.mark
    }

    /// What lies above [`Source::memory`], the lowest first.
    #[must_use]
    pub fn changes(&self) -> &[Changes] {
        &self.changes
    }

    /// The folders of the snapshots that an increment lies above.
    #[must_use]
    pub fn below(&self) -> &[PathBuf] {
        &self.below
    }

    /// RAM's contents, open for reading; of an increment those of the lowest one below it.
    #[must_use]
    pub fn memory(&self) -> &Arc<File> {
        &self.memory
    }

    /// The memory files: the lowest one's, those of the increments above it, and its own at last.
    #[must_use]
    pub fn memory_paths(&self) -> Vec<PathBuf> {
        let folders = self.below.iter().rev().chain([&self.folder]);
        folders.map(|folder| folder.join(MEMORY)).collect()
    }

    /// Reads the checksums of [`Source::memory_paths`], in their order: the number of a block ([`BLOCK`](crate::BLOCK))
    /// and its CRC-32, ascending. Blocks that are not there are empty. `None` for snapshots that have none.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Bad`] if a table cannot be read, or is not what was written.
    pub fn checksums(&self) -> Result<Vec<Option<Checksums>>> {
        let folders = [&self.folder].into_iter().chain(&self.below);
        let tables: Vec<(&PathBuf, &Option<Part>)> = folders.zip(&self.tables).collect();
        let read = tables.into_iter().rev().map(|(folder, table)| {
            table
                .map(|part| self.table(&folder.join(CHECKSUMS), part))
                .transpose()
        });
        read.collect()
    }

    fn table(&self, path: &Path, part: Part) -> Result<Checksums> {
        let blocks = self.memory_bytes.div_ceil(BLOCK);
        let bytes = read(path, &open(path)?, blocks.saturating_mul(8))?;
        let bad = |why: &str| Error::Bad {
            path: path.to_owned(),
            why: why.into(),
        };
        if Part::of(&bytes) != part {
            return Err(bad(
                "it has not the length and checksum that state.json says, it is damaged",
            ));
        }
        let (entries, rest) = bytes.as_chunks::<8>();
        let sums: Checksums = entries
            .iter()
            .map(|[a, b, c, d, e, f, g, h]| {
                let number = u32::from_le_bytes([*a, *b, *c, *d]);
                (number, u32::from_le_bytes([*e, *f, *g, *h]))
            })
            .collect();
        let ascending = sums.is_sorted_by(|one, two| one.0 < two.0);
        let inside = sums
            .last()
            .is_none_or(|(last, _)| u64::from(*last) < blocks);
        if !rest.is_empty() || !ascending || !inside {
            return Err(bad("its entries are no blocks of the memory, in order"));
        }
        Ok(sums)
    }

    /// Length of RAM's contents in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, text: &[u8]) -> Result<T> {
        serde_json::from_slice(text).map_err(|error| Error::Bad {
            path: self.folder.join(name),
            why: error.to_string(),
        })
    }
}

/// The parts of a saved machine as open files.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub config: File,
    /// The state, in its envelope.
    pub state: File,
    /// RAM's contents.
    pub memory: File,
    /// Where RAM is not only in `memory`: the text that says which parts are in files above it, and these, the lowest
    /// first.
    pub layers: Option<(File, Vec<File>)>,
}

/// A file that is read at positions of its own.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}

/// What is in layers that another process sent.
fn received_layers(from: &Path, index: &File, layers: &[File]) -> Result<Vec<Changes>> {
    check_kind(from, index)?;
    let bad = |why: String| Error::Bad {
        path: from.to_owned(),
        why,
    };
    let parts: Vec<Vec<(u64, u64)>> = serde_json::from_slice(&read(from, index, MOST_LAYER_INDEX)?)
        .map_err(|error| bad(error.to_string()))?;
    if parts.len() != layers.len() {
        let (said, came) = (parts.len(), layers.len());
        return Err(bad(format!("it tells of {said} layers, and {came} came")));
    }
    let all = parts.into_iter().zip(layers).map(|(parts, file)| {
        check_kind(from, file)?;
        let memory = file.try_clone().map_err(failed("open", from))?;
        Ok(Changes {
            memory: Arc::new(memory),
            parts: parts.into_iter().map(|(start, end)| start..end).collect(),
        })
    });
    all.collect()
}

fn failed<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        act,
        path: path.to_owned(),
        source,
    }
}

/// Opens a file that is one: a pipe would be waited for, a device could be anything.
fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed("open", path))?;
    check_kind(path, &file)?;
    Ok(file)
}

fn check_kind(path: &Path, file: &File) -> Result<()> {
    if file.metadata().map_err(failed("read", path))?.is_file() {
        return Ok(());
    }
    Err(Error::Bad {
        path: path.to_owned(),
        why: "it is not a file".into(),
    })
}

/// Reads from the start, whatever the position is: others may have the same open file, and read it too.
fn read(path: &Path, file: &File, most: u64) -> Result<Vec<u8>> {
    let length = file.metadata().map_err(failed("read", path))?.len();
    // One byte more, so that the end is found without another buffer.
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(most)).unwrap_or(0) + 1);
    let read = FromStart { file, at: 0 }
        .take(most + 1)
        .read_to_end(&mut bytes);
    read.map_err(failed("read", path))?;
    if bytes.len() as u64 > most {
        return Err(Error::Bad {
            path: path.to_owned(),
            why: format!("it has more than {most} bytes"),
        });
    }
    Ok(bytes)
}
