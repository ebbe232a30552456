//! What can go wrong with a machine.

use crate::life::Refusal;

/// Result of an operation on a machine.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a machine cannot be built or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] config::Problem),
    /// The machine is not in a state for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not built yet.
    #[error("{0} is not in this version yet; docs/compatibility.md says what is")]
    Later(&'static str),
    /// The monitor ends, and does nothing else any more.
    #[error("the monitor is ending")]
    Ending,
    /// There is no device with this id.
    #[error("there is no device with the id \"{0}\"; vm.info lists those that there are")]
    NoDevice(String),
    /// A device cannot come while the machine runs.
    #[error(
        "device {id} ({kind}) is there from boot on or not at all: shut the VM down first (vm.shutdown), add it, and \
         boot the VM again"
    )]
    Fixed {
        /// Its id.
        id: String,
        /// Its kind.
        kind: &'static str,
    },
    /// A device cannot go while the machine runs.
    #[error(
        "device {0} cannot leave a running VM: disks, networks, persistent memory and sockets can; others go when the \
         VM is shut down first (vm.shutdown)"
    )]
    Unremovable(String),
    /// A file of a device that is to come is not among those that the monitor may open.
    #[error(
        "cannot create device {id}: the monitor is confined by Landlock, and may open the files that were named when \
         it was started, --landlock-rules names further ones"
    )]
    Confined {
        /// Its id.
        id: String,
        /// Why.
        source: device::Error,
    },
    /// Files of a saved machine cannot be written or used.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// The file of a core dump cannot be made.
    #[error("cannot {act} {}", .path.display())]
    CoreDump {
        /// `create` or `write`.
        act: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is something already.
    #[error("{} is there already: a core dump replaces nothing, give another name", .0.display())]
    Exists(std::path::PathBuf),
    /// A saved machine does not fit together, or not to this host.
    #[error("the saved VM cannot be restored here: {0}")]
    Unrestorable(String),
    /// A device's state cannot be saved or put back.
    #[error("cannot {act} the state of device {id}")]
    DeviceState {
        /// `save` or `restore`.
        act: &'static str,
        /// Its id.
        id: String,
        /// Why.
        source: device::Error,
    },
    /// The guest is about to reset or to power off.
    #[error(
        "the guest asked for a reset or power-off just before it was paused: let it go on (vm.resume), nothing of it \
         is left to save"
    )]
    Postponed,
    /// Not all children of a machine came to be.
    #[error("{failed} of {count} children did not come to be, the others did: {why}")]
    Children {
        /// How many did not.
        failed: usize,
        /// How many there were to be.
        count: usize,
        /// Why.
        why: String,
    },
    /// Memory of a machine that was restored on demand cannot be had.
    #[error(
        "the guest's memory cannot be read from its snapshot, and the VM cannot go on without it: {0}"
    )]
    MemoryLost(String),
    /// The parts of a machine that is handed over cannot be made.
    #[error("cannot make the files with which a child is handed over")]
    HandOver(#[source] std::io::Error),
    /// A device cannot be changed.
    #[error("cannot change device {id}")]
    Change {
        /// Its id.
        id: String,
        /// Why.
        source: device::Error,
    },
    /// Processors do not come out of the guest or of a device.
    #[error("{0} of the machine's processors did not answer in time: it goes on as before")]
    Stuck(usize),
    /// The hypervisor refused.
    #[error("cannot create the virtual machine")]
    Hypervisor(#[from] hypervisor::Error),
    /// Memory could not be had.
    #[error("cannot set up the memory of the machine")]
    Memory(#[from] memory::Error),
    /// The guest's processors cannot address all of its memory.
    #[error(
        "{} MiB of memory and the devices above them do not fit in the {bits} address bits of the machine's \
         processors: lower --memory size, or raise --cpus max_phys_bits if the host's processor has more", .size >> 20
    )]
    AddressWidth {
        /// Bytes of memory.
        size: u64,
        /// Width of a guest physical address.
        bits: u8,
    },
    /// A file that the machine runs could not be opened.
    #[error("cannot open {path}, given with {option}")]
    Open {
        /// The flag that names it.
        option: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel or firmware could not be loaded.
    #[error("cannot load the kernel or firmware")]
    Payload(#[source] firmware::Error),
    /// The firmware tables could not be made.
    #[error("cannot make the firmware tables")]
    Tables(#[source] firmware::Error),
    /// The processors' features cannot be had.
    #[error("cannot give the processors what --cpus asks for")]
    Cpus(#[from] arch::Error),
    /// A device could not be built or started.
    #[error("cannot create device {id}")]
    Device {
        /// Its id.
        id: String,
        /// Why.
        source: device::Error,
    },
    /// The PCI bus could not be set up.
    #[error("cannot set up the PCI bus")]
    Pci(#[from] pci::Error),
    /// A thread could not be started.
    #[error("cannot start thread {name}")]
    Thread {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The thread's own rules could not be set.
    #[error("cannot confine thread {name}")]
    Confine {
        /// Its name.
        name: String,
        /// Why.
        source: sandbox::Error,
    },
    /// A processor cannot go on.
    #[error("processor {index} cannot go on: {why}")]
    ProcessorFailed {
        /// Which one.
        index: u32,
        /// What the hypervisor said.
        why: String,
    },
    /// A thread of ours panicked.
    #[error("thread {0} panicked")]
    Panicked(String),
}

/// What kind of failure an error is, for those who have to say it in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is nothing that it could be about.
    Absent,
    /// It is not built yet.
    Later,
    /// It was tried, or cannot be.
    Failed,
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(Refusal::Absent | Refusal::NothingToReboot) => Kind::Absent,
            Self::Later(_) => Kind::Later,
            _ => Kind::Failed,
        }
    }

    pub(crate) fn hand_over(source: std::io::Error) -> Self {
        Self::HandOver(source)
    }

    pub(crate) fn thread(name: &str) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Thread {
            name: name.to_owned(),
            source,
        }
    }

    pub(crate) fn confine(name: &str) -> impl FnOnce(sandbox::Error) -> Self + '_ {
        move |source| Self::Confine {
            name: name.to_owned(),
            source,
        }
    }
}
