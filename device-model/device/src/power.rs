//! What a guest can do to its machine's power.

use std::fmt;
use std::sync::Arc;

/// A request of the guest, made through a device, that concerns the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Reset the machine: build it anew in the same process.
    Reset,
    /// Power it off (ACPI S5).
    Off,
}

/// Carries power requests to the thread that owns the machine. Cheap to clone.
#[derive(Clone)]
pub struct Power(Arc<dyn Fn(PowerEvent) + Send + Sync>);

impl Power {
    /// `deliver` is called on vCPU threads: it must not block.
    pub fn new(deliver: impl Fn(PowerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(deliver))
    }

    /// Asks for it. Returns at once; the guest goes on until the machine's owner acts.
    pub fn request(&self, event: PowerEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").finish_non_exhaustive()
    }
}
