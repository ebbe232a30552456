//! What can be done with snapshots without a machine.

use std::path::{Path, PathBuf};

use config::VmConfig;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use snapshot::{Destination, Source};

use crate::state::MachineState;
use crate::{Result, paging};

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// How many snapshots: with those that it is an increment to.
    pub snapshots: usize,
    /// Bytes of the guest's memory.
    pub memory_bytes: u64,
    /// Memory files without checksums, of which nobody can tell whether they are damaged.
    pub without_checksums: Vec<PathBuf>,
}

/// Reads all of a snapshot, and of those that it is an increment to, and compares it with its checksums.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn check_snapshot(folder: &Path) -> Result<Checked> {
    let source = Source::open(folder)?;
    source.config::<VmConfig>()?;
    source.state::<MachineState>()?;
    let about = source.memory_paths().into_iter().zip(source.checksums()?);
    let without = about.filter_map(|(path, sums)| sums.is_none().then_some(path));
    let checked = Checked {
        snapshots: source.changes().len() + 1,
        memory_bytes: source.memory_bytes(),
        without_checksums: without.collect(),
    };
    paging::blocks(source.memory_bytes(), &source)?.check()?;
    Ok(checked)
}

/// Makes a whole snapshot of an increment and those below it, in an empty folder. These stay what they are.
///
/// # Errors
/// What is wrong with one of them, or why the new one cannot be written; nothing of that stays.
pub fn merge_snapshot(from: &Path, to: &Path) -> Result<()> {
    let source = Source::open(from)?;
    let (config, state) = (source.config::<Value>()?, source.state::<Box<RawValue>>()?);
    let blocks = paging::blocks(source.memory_bytes(), &source)?;
    let destination = Destination::create(to)?;
    let written = blocks.write_to(destination.memory())?;
    Ok(destination.commit(&config, &state, &written.sums)?)
}
