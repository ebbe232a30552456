//! What is saved.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clocks::Clocks;

/// The clocks at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// What the monotonic clock shows, in nanoseconds.
    monotonic_ns: u64,
    /// The driver was told of a TAI clock.
    tai: bool,
}

impl State {
    pub(crate) fn of(clocks: &Clocks) -> Self {
        Self {
            monotonic_ns: clocks.monotonic(),
            tai: clocks.has_tai(),
        }
    }

    pub(crate) fn clocks(self) -> Clocks {
        Clocks::new(Duration::from_nanos(self.monotonic_ns), self.tai)
    }
}
