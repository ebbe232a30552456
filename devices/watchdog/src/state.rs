//! What is saved.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The clock at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Milliseconds until the reset; none if the guest has not pinged yet.
    left_ms: Option<u64>,
}

impl State {
    pub(crate) fn of(left: Option<Duration>) -> Self {
        let milliseconds = |left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Self {
            left_ms: left.map(milliseconds),
        }
    }

    /// The time left of `timeout`, or what is wrong with it.
    pub(crate) fn left(self, timeout: Duration) -> Result<Option<Duration>, String> {
        let left = self.left_ms.map(Duration::from_millis);
        match left {
            Some(left) if left > timeout => Err(format!("{left:?} are left of {timeout:?}")),
            _ => Ok(left),
        }
    }
}
