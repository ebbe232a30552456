//! What can go wrong with a device.

use std::fmt;

/// Result of a device operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a device cannot be built, driven, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for something that cannot be.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// An address range is taken by another device.
    #[error("{kind} {start:#x}-{end:#x} overlaps {other_start:#x}-{other_end:#x}, which is taken")]
    Overlap {
        /// Address space: `I/O ports` or `memory`.
        kind: &'static str,
        /// First address asked for.
        start: u64,
        /// Last address asked for.
        end: u64,
        /// First address of the range that is there.
        other_start: u64,
        /// Last address of the range that is there.
        other_end: u64,
    },
    /// An address range is empty or wraps.
    #[error("a range of {len:#x} bytes at {start:#x} is not possible")]
    BadRange {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// No interrupt line is left for an allocation.
    #[error("all {0} interrupt lines are taken")]
    NoInterruptLine(u32),
    /// No space is left in the platform's own MMIO area.
    #[error("the platform area has no {0:#x} bytes left")]
    NoPlatformSpace(u64),
    /// The hypervisor refused.
    #[error("the hypervisor refused")]
    Hypervisor(#[from] hypervisor::Error),
    /// A worker thread could not start or stop.
    #[error("cannot run worker thread {name}")]
    Worker {
        /// The thread's name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The host side of the device (file, socket, terminal) could not be opened or used.
    #[error("{what}")]
    Backend {
        /// What was being done, with the option that names it.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A system-call filter could not be made.
    #[error("cannot make the seccomp filter")]
    Filter(#[from] sandbox::Error),
    /// A saved state belongs to another kind of device or to a later version.
    #[error(
        "saved state is of {found} version {found_version}, this device reads {expected} up to version {version}"
    )]
    WrongState {
        /// Kind in the saved state.
        found: String,
        /// Version in the saved state.
        found_version: u32,
        /// Kind of this device.
        expected: &'static str,
        /// Latest version that this device reads.
        version: u32,
    },
    /// A saved state does not parse or makes no sense.
    #[error("saved state of {kind} is damaged: {why}")]
    BadState {
        /// Kind of the device.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The device cannot be changed while it is there.
    #[error("{0} cannot be changed while the machine has it")]
    NotChangeable(&'static str),
}

/// A configuration that cannot work. The text says what is wrong, why, and which option changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which option, as the user writes it: `--serial`.
    pub option: String,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Problem {
    /// A problem with `option`.
    pub fn new(option: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            option: option.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.text)
    }
}

impl std::error::Error for Problem {}
