//! The vocabulary in which code declares the system calls it makes.

use libc::c_long;

/// One permitted system call, optionally only with certain argument values.
///
/// Values are made in constants next to the code that makes the calls. Several for the same call
/// widen each other: a call is permitted when any of them permits it.
///
/// ```
/// # use sandbox::Allow;
/// const SYSCALLS: &[Allow] = &[
///     Allow::call(libc::SYS_pread64),
///     Allow::ioctl(&[libc::TIOCGWINSZ]),
///     Allow::arg32(libc::SYS_socket, 0, &[libc::AF_UNIX as u64]),
/// ];
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Allow {
    pub(crate) number: c_long,
    pub(crate) condition: Option<Condition>,
}

/// The argument's bits under `mask` equal one of `values`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Condition {
    pub(crate) index: u8,
    pub(crate) mask: u64,
    pub(crate) values: &'static [u64],
}

/// The kernel looks at the low half only of an argument it declares as `int` or `unsigned int`.
const LOW_HALF: u64 = 0xffff_ffff;

impl Allow {
    /// Permits the call with any arguments.
    pub const fn call(number: c_long) -> Self {
        Self {
            number,
            condition: None,
        }
    }

    /// Permits `ioctl` with one of these requests (32 bits each) on any descriptor.
    pub const fn ioctl(requests: &'static [u64]) -> Self {
        Self::masked(libc::SYS_ioctl, 1, LOW_HALF, requests)
    }

    /// Permits the call if argument `index` (0 to 5), a 64-bit one, is one of `values`.
    ///
    /// Use [`Allow::arg32`] for an argument that the kernel declares as `int`.
    ///
    /// # Panics
    ///
    /// If `index` is above 5; in a constant this is a compile error.
    pub const fn arg(number: c_long, index: u8, values: &'static [u64]) -> Self {
        Self::masked(number, index, u64::MAX, values)
    }

    /// Permits the call if the low 32 bits of argument `index` (0 to 5) are one of `values`.
    ///
    /// The upper half of the register that carries an `int` is undefined, and ignored by the
    /// kernel: so must the filter.
    ///
    /// # Panics
    ///
    /// If `index` is above 5; in a constant this is a compile error.
    pub const fn arg32(number: c_long, index: u8, values: &'static [u64]) -> Self {
        Self::masked(number, index, LOW_HALF, values)
    }

    /// Permits the call if argument `index` (0 to 5), with the bits outside `mask` cleared, is one
    /// of `values`.
    ///
    /// `Allow::masked(SYS_mmap, 2, PROT_EXEC, &[0])` permits mappings that are not executable.
    /// Bits of a value outside the mask are ignored.
    ///
    /// # Panics
    ///
    /// If `index` is above 5; in a constant this is a compile error.
    pub const fn masked(number: c_long, index: u8, mask: u64, values: &'static [u64]) -> Self {
        assert!(
            index < 6,
            "a system call has six arguments, numbered from 0"
        );
        Self {
            number,
            condition: Some(Condition {
                index,
                mask,
                values,
            }),
        }
    }
}
