//! Permission for guests to use Intel's Advanced Matrix Extensions.

use std::ffi::c_long;
use std::io;

use crate::{Error, Result};

/// `ARCH_REQ_XCOMP_GUEST_PERM` of `arch_prctl` (kernel `Documentation/arch/x86/xstate.rst`).
const REQUEST_GUEST_PERMISSION: c_long = 0x1025;
/// The state component "tile data" (Intel SDM volume 1, 13.1), which stands for AMX as a whole.
const TILE_DATA: c_long = 18;

/// Asks the kernel to let guests of this process use AMX. The permission makes each processor's saved state
/// larger, so it must be asked for, and before [`crate::open`] and the first processor.
///
/// # Errors
/// [`Error::Missing`] if the host's processor or kernel has no AMX for guests; [`Error::Ioctl`] if it is too
/// late because there is a processor already.
pub fn request_amx() -> Result<()> {
    // SAFETY: this request takes two numbers and touches no memory of this process.
    let answer =
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_GUEST_PERMISSION, TILE_DATA) };
    if answer == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    match source.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Err(Error::Missing {
            what: "AMX for guests",
            hint: "the processor does not have it or the kernel has it turned off; leave out the CPU feature amx",
        }),
        Some(libc::EINVAL) => Err(Error::Missing {
            what: "AMX for guests",
            hint: "the kernel is older than 5.17; leave out the CPU feature amx",
        }),
        _ => Err(Error::Ioctl {
            call: "ARCH_REQ_XCOMP_GUEST_PERM",
            source,
        }),
    }
}
