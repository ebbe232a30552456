//! The time since the program started.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Starts the clock that log lines and events are stamped with; called first in `main`.
///
/// Later calls change nothing. Without any call, the clock starts when it is first looked at.
pub fn start_clock() {
    START.get_or_init(Instant::now);
}

/// The monotonic time since [`start_clock`].
pub fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}
