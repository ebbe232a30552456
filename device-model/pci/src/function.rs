//! The interface of a function: its configuration space.

use std::sync::{Arc, Mutex};

/// The configuration space of one function (PCI Local Bus specification 3.0, chapter 6).
///
/// `offset` is 0 to 4095; `data` is 1, 2 or 4 bytes that lie in one aligned group of four. What the guest does
/// is never an error: a function ignores what it does not understand, as hardware does.
pub trait Function: Send {
    /// The guest reads. `data` holds ones; leave it where nothing is.
    fn read(&mut self, offset: u16, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, offset: u16, data: &[u8]);
}

/// A function in a slot: the bus and the device that made it share it.
pub type SharedFunction = Arc<Mutex<dyn Function>>;

/// Shares a function between its device and its slot.
pub fn share<F: Function + 'static>(function: F) -> Arc<Mutex<F>> {
    Arc::new(Mutex::new(function))
}
