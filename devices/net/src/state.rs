//! Saved state. The hardware address, the limits and the tap are in the configuration.

use serde::{Deserialize, Serialize};

/// Version of [`NetState`].
pub(crate) const VERSION: u32 = 1;

/// What the driver told the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetState {
    /// Pairs of queues that the driver uses.
    pub(crate) pairs: u16,
    /// Offloads that the driver chose at run time, as bits of [`crate::feature::GUEST_OFFLOADS`]; those it negotiated
    /// if none.
    pub(crate) offloads: Option<u64>,
    /// The driver was asked to announce itself and has not said that it did.
    pub(crate) announce: bool,
}
