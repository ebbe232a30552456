//! What can go wrong: on the host, and in what a driver wrote.

/// Result of a virtio operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a device cannot be made, or what rule a driver broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be put on PCI.
    #[error("cannot put the device on PCI")]
    Pci(#[from] pci::Error),
    /// The process has no descriptors left.
    #[error("cannot make a doorbell for a queue")]
    Kick(#[source] std::io::Error),
    /// The machine was built without PCI.
    #[error("the machine has no PCI to put the device on")]
    NoPci,
    /// A saved state makes no sense.
    #[error("saved virtio state does not fit this device: {0}")]
    State(String),
    /// A device describes itself in a way that cannot be. A mistake in the device.
    #[error("a virtio device cannot be built like this: {0}")]
    Design(&'static str),

    /// A queue's size is 0, above the device's, or not a power of two (VIRTIO 1.3, 2.7).
    #[error("a queue of {size} descriptors is not possible, at most {max} and a power of two are")]
    QueueSize {
        /// What the driver wrote.
        size: u16,
        /// The most that the device allows.
        max: u16,
    },
    /// A part of a queue is misaligned (VIRTIO 1.3, 2.7).
    #[error("the {part} at {address:#x} is not aligned to {align} bytes")]
    Misaligned {
        /// Descriptor table, available or used ring.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
        /// What its address must be a multiple of.
        align: u64,
    },
    /// Something the driver points to is not RAM.
    #[error("{len:#x} bytes at {address:#x} for the {part} are not RAM")]
    NotRam {
        /// What was to be there.
        part: &'static str,
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        len: u64,
    },
    /// More chains are available than the queue can hold.
    #[error("{waiting} chains are said to be available in a queue of {size}")]
    TooManyAvailable {
        /// The difference of the indices.
        waiting: u16,
        /// The queue's size.
        size: u16,
    },
    /// A descriptor index is beyond its table.
    #[error("descriptor {index} is beyond the end of a table of {size}")]
    DescriptorIndex {
        /// The index.
        index: u32,
        /// The table's size.
        size: u32,
    },
    /// A chain visits more descriptors than there are (VIRTIO 1.3, 2.7.5).
    #[error("a chain goes round in a loop: it has more than {0} descriptors")]
    Loop(u32),
    /// A chain has more than 4 GiB (VIRTIO 1.3, 2.7.5).
    #[error("a chain has more than 4 GiB")]
    TooLong,
    /// The device could read a buffer after one that it writes (VIRTIO 1.3, 2.7.4.2).
    #[error("a buffer to read follows one to write")]
    Order,
    /// An indirect descriptor that is not allowed (VIRTIO 1.3, 2.7.5.3).
    #[error("a bad indirect descriptor: {0}")]
    Indirect(&'static str),
    /// The driver set `DRIVER_OK` before the features were agreed on (VIRTIO 1.3, 3.1.1).
    #[error("the driver went on without agreed features")]
    NotNegotiated,
    /// What a device type's own rules say about a request.
    #[error("{0}")]
    Request(&'static str),
}

impl From<Error> for device::Error {
    fn from(error: Error) -> Self {
        Self::Backend {
            what: "virtio".into(),
            source: Box::new(error),
        }
    }
}
