//! Persistent memory at rest.

use serde::{Deserialize, Serialize};

/// Version of [`PmemState`].
pub(crate) const VERSION: u32 = 1;

/// Where the guest has it. The contents are the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PmemState {
    /// First guest physical address.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) size: u64,
}
