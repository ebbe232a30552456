//! What a guest can do to its machine's power.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
pub struct Power(Arc<Inner>);

struct Inner {
    was_requested: AtomicBool,
    deliver: Box<dyn Fn(PowerEvent) + Send + Sync>,
}

impl Power {
    /// `deliver` is called on vCPU threads: it must not block.
    pub fn new(deliver: impl Fn(PowerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            was_requested: AtomicBool::new(false),
            deliver: Box::new(deliver),
        }))
    }

    /// Asks for it. Returns at once; the guest goes on until the machine's owner acts.
    pub fn request(&self, event: PowerEvent) {
        self.0.was_requested.store(true, Ordering::Release);
        (self.0.deliver)(event);
    }

    /// Whether anything was asked for, also if the machine's owner has not heard it yet. Nothing of such a machine is
    /// left that is worth to be saved: its guest waits for the end.
    pub fn was_requested(&self) -> bool {
        self.0.was_requested.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").finish_non_exhaustive()
    }
}

#[test]
fn what_was_asked_for_is_known_before_it_is_heard() {
    let power = Power::new(|_| {});
    let other = power.clone();
    assert!(!power.was_requested());
    other.request(PowerEvent::Reset);
    assert!(power.was_requested());
}
