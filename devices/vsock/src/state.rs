//! Saved state. Connections are not part of it: they end with the machine that had them.

use serde::{Deserialize, Serialize};

/// Version of [`VsockState`].
pub(crate) const VERSION: u32 = 1;

/// The device's own state, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VsockState {
    /// The host's port for the next connection that a host program makes. The guest may remember the ports before.
    pub(crate) next_port: u32,
}
