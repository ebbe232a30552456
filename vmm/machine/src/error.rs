//! What can go wrong with a machine.

/// Result of an operation on a machine.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a machine cannot be built or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] config::Problem),
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

impl Error {
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
