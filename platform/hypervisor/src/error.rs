//! What can go wrong between the monitor and the host's kernel.

use std::io;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the host's kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device file of the hypervisor could not be opened.
    #[error("cannot open {path}: {hint}")]
    Open {
        /// The device file.
        path: &'static str,
        /// What to do about it.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not offer the one stable version of KVM's interface.
    #[error(
        "the kernel's KVM interface has version {0}, not the stable version 12: update the kernel"
    )]
    ApiVersion(i32),
    /// A request was refused by the kernel.
    #[error("the kernel refused {call}")]
    Ioctl {
        /// Name of the request, as in the kernel's `Documentation/virt/kvm/api.rst`.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// This host cannot do what was asked for.
    #[error("this host has no {what}: {hint}")]
    Missing {
        /// What is absent.
        what: &'static str,
        /// Why, or what to do about it.
        hint: &'static str,
    },
    /// More processors than this host can give one machine, or an APIC id beyond its limit.
    #[error("{what} {value} is beyond this host's limit of {limit} per machine: lower --cpus max")]
    TooManyVcpus {
        /// Which limit: `processor` (a count) or `APIC id`.
        what: &'static str,
        /// What was asked for.
        value: u32,
        /// Largest value that is possible.
        limit: u32,
    },
    /// An APIC id that only x2APIC can express, in a machine without it.
    #[error(
        "APIC id {0} needs x2APIC, which is off for this machine; without it the largest is 254"
    )]
    NeedsX2apic(u32),
    /// Host memory could not be mapped into the guest.
    #[error("cannot map {size:#x} bytes of memory at guest address {guest_address:#x}: {hint}")]
    MapMemory {
        /// Guest physical address.
        guest_address: u64,
        /// Length in bytes.
        size: u64,
        /// What the kernel's answer means here.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// All memory slots of the machine are taken.
    #[error(
        "all {0} memory slots of this machine are taken: use fewer memory zones or shared memory devices"
    )]
    NoMemorySlot(u32),
    /// The number is not that of a pin of the I/O APIC.
    #[error("interrupt {0} is not a pin of the I/O APIC, which has pins 0 to {last}", last = crate::IOAPIC_PINS - 1)]
    NotAPin(u32),
    /// All routes for message signalled interrupts are taken.
    #[error(
        "all {0} message signalled interrupts of this machine are taken: use fewer devices or queues"
    )]
    NoMsiRoute(u32),
    /// A model-specific register does not take a value.
    #[error("model-specific register {index:#x} does not take the value {value:#x} on this host")]
    MsrRefused {
        /// Number of the register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// More `CPUID` answers than the kernel takes.
    #[error("{0} CPUID entries are more than the kernel takes")]
    TooManyCpuidEntries(usize),
    /// A saved processor state does not fit this host or is damaged.
    #[error("the saved processor state cannot be used: {0}")]
    BadState(Box<str>),
    /// The processor is in the middle of an access that the monitor has answered but the kernel has not yet
    /// taken back.
    #[error(
        "the processor is in the middle of an access: run it until it is interrupted, then save or restore it"
    )]
    Unfinished,
    /// An event descriptor could not be made.
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
    /// An event descriptor could not be signalled.
    #[error("cannot signal an event descriptor")]
    Signal(#[source] io::Error),
    /// The handler of the signal that interrupts processors could not be installed.
    #[error("cannot install the handler of the signal that interrupts processors")]
    SignalHandler(#[source] io::Error),
}

impl Error {
    /// For `map_err`: an error of the request `call`.
    pub(crate) fn ioctl<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Ioctl {
            call,
            source: source.into(),
        }
    }

    /// The error of a request that has just failed, from `errno`.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::Ioctl {
            call,
            source: io::Error::last_os_error(),
        }
    }
}
