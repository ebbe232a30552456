//! The balloon at rest.

use serde::{Deserialize, Serialize};

/// Version of [`BalloonState`].
pub(crate) const VERSION: u32 = 1;

/// What the user wants and what the guest says, in pages of 4 KiB. Which pages the balloon holds is known to the
/// guest only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BalloonState {
    /// How large the balloon is to be.
    pub(crate) target: u32,
    /// How large it is.
    pub(crate) actual: u32,
}
