//! The kernel's requests for taps and interfaces: netdevice(7), Documentation/networking/tuntap.rst.
//!
//! All `unsafe` of the crate is here.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_uint};

/// Length of an interface's name with its final zero.
pub(crate) const NAME_SPACE: usize = libc::IFNAMSIZ;

/// `struct ifreq`: the interface, and a value whose layout depends on the request. As bytes, so that no union
/// is read; the kernel copies it and does not ask for an alignment.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InterfaceRequest {
    name: [u8; NAME_SPACE],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    /// A request about an interface. Names are checked before: what is too long is cut.
    pub(crate) fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self::default();
        let bytes = &name.as_bytes()[..name.len().min(NAME_SPACE - 1)];
        request.name[..bytes.len()].copy_from_slice(bytes);
        request.value[..value.len()].copy_from_slice(value);
        request
    }

    pub(crate) fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.name[..end.unwrap_or(NAME_SPACE)]).into_owned()
    }

    pub(crate) fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.value[offset..offset + N]);
        bytes
    }

    pub(crate) fn u16(&self) -> u16 {
        u16::from_ne_bytes(self.bytes(0))
    }

    pub(crate) fn i32(&self) -> i32 {
        i32::from_ne_bytes(self.bytes(0))
    }
}

/// `struct in6_ifreq` (linux/ipv6.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressRequest {
    pub(crate) address: [u8; 16],
    pub(crate) prefix: u32,
    pub(crate) index: c_int,
}

fn result(value: c_int) -> io::Result<()> {
    if value < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a request whose argument is an `ifreq`.
pub(crate) fn interface(
    fd: impl AsFd,
    request: libc::Ioctl,
    argument: &mut InterfaceRequest,
) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no more than an `ifreq`, of which this has the size.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) })
}

/// Adds an IPv6 address to an interface.
pub(crate) fn add_address(fd: impl AsFd, argument: &AddressRequest) -> io::Result<()> {
    // SAFETY: the kernel reads an `in6_ifreq`, which this is.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCSIFADDR, argument) })
}

/// Sets the length of the header before each frame.
pub(crate) fn set_header_length(fd: impl AsFd, length: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an `int`.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETVNETHDRSZ, &length) })
}

/// Says which offloads the reader of a tap copes with.
pub(crate) fn set_offloads(fd: impl AsFd, flags: c_uint) -> io::Result<()> {
    // SAFETY: the argument is a number.
    result(unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    })
}
