//! What a type of virtio device implements.

use std::any::Any;

use device::{Result, Saved};
use serde_json::Value;

use crate::{ConfigChange, Ring};

/// PCI class of a device: base class and subclass (PCI Code and ID Assignment specification, chapter 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Base class.
    pub base: u8,
    /// Subclass.
    pub sub: u8,
}

impl Class {
    /// A device that fits no class.
    pub const OTHER: Self = Self { base: 0xff, sub: 0 };
}

/// What a device tells every driver about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device type (VIRTIO 1.3, chapter 5): 4 is an entropy source.
    pub device_type: u16,
    /// PCI class.
    pub class: Class,
    /// Features offered, as masks. The transport adds `VERSION_1`, and `ACCESS_PLATFORM` where it applies.
    pub features: u64,
    /// The most descriptors of each queue; powers of two.
    pub queue_sizes: Vec<u16>,
    /// Length of the configuration fields in bytes; at most 4096.
    pub config_len: u32,
}

/// A virtio device without its transport.
///
/// All methods are called one at a time. `start` and `stop` alternate for each queue, and between them the
/// device owns the ring. Everything that a driver negotiated is in the ring ([`Ring::features`]) and does not change
/// while it is out.
pub trait VirtioDevice: Send + 'static {
    /// What it is. Always the same answer.
    fn identity(&self) -> Identity;

    /// Gives the device the means to tell the driver that configuration fields changed. Called once, before
    /// anything else.
    fn attach(&mut self, _change: ConfigChange) {}

    /// The driver reads configuration fields. `offset` and the length are inside
    /// [`config_len`](Identity::config_len); `out` holds zeros.
    fn read_config(&self, _offset: u32, _out: &mut [u8]) {}

    /// The driver writes configuration fields, in the same bounds.
    fn write_config(&mut self, _offset: u32, _data: &[u8]) {}

    /// A queue is ready. Chains may be in it already; its doorbell is rung once after this.
    ///
    /// # Errors
    /// If the queue cannot be served; the driver is then asked to reset the device.
    fn start(&mut self, index: u16, ring: Ring) -> Result<()>;

    /// Ends work on a queue: after this no guest memory is written and no interrupt sent, and every chain that was
    /// popped is completed or remembered by the device. `None` if the queue was not started, or was lost with the
    /// worker that had it.
    fn stop(&mut self, index: u16) -> Option<Ring>;

    /// The driver resets the device. All queues are stopped. What a driver told the device is forgotten.
    fn reset(&mut self) {}

    /// Its private state: neither queues nor features, which are the transport's. All queues are stopped.
    ///
    /// # Errors
    /// If there is no form for it.
    fn save(&self) -> Result<Saved>;

    /// Puts a state back. All queues are stopped.
    ///
    /// # Errors
    /// If it is of another kind, or damaged; the device is then as it was.
    fn restore(&mut self, saved: Saved) -> Result<()>;

    /// Changes it while it works, at the user's wish. See [`device::Device::update`].
    ///
    /// # Errors
    /// [`device::Error::NotChangeable`] unless the device knows how.
    fn update(&mut self, _change: Value) -> Result<()> {
        Err(device::Error::NotChangeable("this device"))
    }

    /// See [`device::Device::counters`].
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// See [`device::Device::histograms`].
    fn histograms(&self) -> Vec<device::Histogram> {
        Vec::new()
    }

    /// See [`device::Device::withheld`].
    fn withheld(&self) -> u64 {
        0
    }

    /// See [`device::Device::decided`].
    fn decided(&self) -> Option<Value> {
        None
    }

    /// Gives away what the host holds of it and the guest's reset does not touch, for the device that takes its
    /// place. Nothing else is asked of it after this. See [`device::Device::leave`].
    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        None
    }
}
