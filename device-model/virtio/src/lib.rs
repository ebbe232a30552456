//! Queues, transport and state that all virtio devices share (VIRTIO 1.3).
//!
//! A virtio device and its driver in the guest share *queues* in the guest's memory. The driver puts *chains* of
//! buffers into a queue and rings a doorbell; the device reads or fills them, gives them back and sends an
//! interrupt. How the driver finds the device, agrees with it on *features* and tells it where the queues are
//! is the *transport*: PCI here.
//!
//! To write a device, implement [`VirtioDevice`]: what it is ([`Identity`]), its configuration fields, and
//! [`start`](VirtioDevice::start) and [`stop`](VirtioDevice::stop) for each queue. `start` hands over a
//! [`Ring`], which is everything a queue has: chains to [`pop`](Ring::pop) and [`complete`](Ring::complete), the
//! doorbell to wait for and the interrupt to send. `stop` gives it back. Pause, reset, snapshot and restore
//! follow from these two and are done by the transport. Most devices serve a queue on a thread that does
//! nothing else: a [`QueueTask`] around a [`Service`].
//!
//! ```text
//!  guest's driver                       OverPci<D>: device::Device
//!    BAR 0 ──────────────▶ Registers ── negotiation, queue addresses (frozen at DRIVER_OK)
//!    MSI-X ◀── Line ◀──┐      │ start(index, Ring)         ▲ stop(index) -> Ring
//!    doorbell ─▶ Kick ─┤      ▼                            │
//!    queues ◀──────── Ring ─ D: VirtioDevice ── QueueTask ── Service: one chain after the other
//! ```
//!
//! # Hostile drivers
//!
//! Whatever a driver writes is checked before anything is done with it: a chain is walked to its end, and all of
//! its buffers are known to be RAM, before the device sees the first one. A driver that breaks the rules finds
//! its device asking to be reset (`DEVICE_NEEDS_RESET`) and its queue dead; nothing else in the machine notices.
//!
//! # Why the queue is our own
//!
//! The crate `virtio-queue` ends a malformed chain like a complete one, so a device cannot tell them apart before it
//! has acted on half of it; it logs each time the guest does something wrong, without a limit; and it does not
//! know the flag with which a driver that polls turns interrupts off. What is left to share is arithmetic.
#![forbid(unsafe_code)]

mod chain;
mod common;
mod device_trait;
mod environment;
mod error;
pub mod feature;
mod layout;
mod line;
mod options;
mod over_pci;
mod queue;
mod registers;
mod ring;
mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod walk;
mod worker;

pub use chain::{Buffer, Chain, Reader, Writer};
pub use device_trait::{Class, Identity, VirtioDevice};
pub use environment::{Attention, Doorbells, Environment, NoDoorbells};
pub use error::{Error, Result};
pub use line::{ConfigChange, Line};
pub use options::PciOptions;
pub use over_pci::OverPci;
pub use queue::{QueueAddresses, QueueSetup};
pub use ring::{Ring, RingParts};
pub use worker::{QueueTask, QueueWorker, Service};
