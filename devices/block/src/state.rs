//! A disk's state at rest. These types are for nothing else.

use serde::{Deserialize, Serialize};

/// Version of [`BlockState`].
pub(crate) const VERSION: u32 = 1;

/// A disk, version 1. What was written is in the image; no request is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockState {
    /// The driver lets the device complete writes before they are durable.
    pub(crate) writeback: bool,
    /// The size in bytes that the driver was told.
    pub(crate) capacity: u64,
}
