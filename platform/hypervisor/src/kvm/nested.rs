//! State of nested virtualisation (`KVM_GET_NESTED_STATE`).
//!
//! It is kept as the kernel gives it, because its larger part is a block of bytes that only the kernel
//! understands: a header of 128 bytes, then the nested guest's control blocks, up to two pages.

use std::ops::Range;
use std::os::fd::AsRawFd;

use kvm_bindings::KVM_STATE_NESTED_GIF_SET;
use kvm_ioctls::VcpuFd;

use super::requests;
use crate::{Error, Result};

/// Header and two pages (Intel; AMD needs one).
const MAX_SIZE: usize = HEADER + 2 * 4096;
const HEADER: usize = 128;

const FLAGS: Range<usize> = 0..2;
const FORMAT: Range<usize> = 2..4;
const SIZE: Range<usize> = 4..8;
/// Intel: address of the VMXON region, all ones outside of VMX operation.
const VMXON_ADDRESS: Range<usize> = 8..16;

const FORMAT_VMX: [u8; 2] = [0, 0];

/// The buffer for the kernel, aligned as its structure.
#[repr(C, align(8))]
struct Buffer([u8; MAX_SIZE]);

/// The state, unless the guest does not use nested virtualisation. Only if the kernel has the capability.
pub(super) fn read(fd: &VcpuFd) -> Result<Option<Vec<u8>>> {
    let mut buffer = Buffer([0; MAX_SIZE]);
    #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
    buffer.0[SIZE].copy_from_slice(&(MAX_SIZE as u32).to_ne_bytes());
    // SAFETY: the request reads the size from the buffer and writes at most that many bytes to it.
    let answer = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            requests::GET_NESTED_STATE as _,
            &raw mut buffer,
        )
    };
    if answer != 0 {
        return Err(Error::last("KVM_GET_NESTED_STATE"));
    }
    let size = declared_size(&buffer.0).clamp(HEADER, MAX_SIZE);
    let state = &buffer.0[..size];
    Ok((!is_idle(state)).then(|| state.to_vec()))
}

/// Sets the state.
pub(super) fn write(fd: &VcpuFd, state: &[u8]) -> Result<()> {
    check(state)?;
    let mut buffer = Buffer([0; MAX_SIZE]);
    buffer.0[..state.len()].copy_from_slice(state);
    // SAFETY: the request reads as many bytes as the size in the buffer says, which is not more than the
    // buffer has: see `check`.
    let answer = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            requests::SET_NESTED_STATE as _,
            &raw const buffer,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(Error::last("KVM_SET_NESTED_STATE"))
    }
}

/// A state comes from a file or a peer: its declared size must be its size.
fn check(state: &[u8]) -> Result<()> {
    let fits = (HEADER..=MAX_SIZE).contains(&state.len()) && declared_size(state) == state.len();
    if fits {
        return Ok(());
    }
    Err(Error::BadState(
        format!(
            "its nested virtualisation state of {} bytes is damaged",
            state.len()
        )
        .into(),
    ))
}

/// The size field of a state of at least [`HEADER`] bytes.
fn declared_size(state: &[u8]) -> usize {
    let mut size = [0; 4];
    size.copy_from_slice(&state[SIZE]);
    u32::from_ne_bytes(size) as usize
}

/// Whether it is what a new processor has.
fn is_idle(state: &[u8]) -> bool {
    if state.len() > HEADER {
        return false;
    }
    if state[FORMAT] == FORMAT_VMX {
        return state[VMXON_ADDRESS].iter().all(|&byte| byte == 0xff);
    }
    let flags = u32::from(u16::from_ne_bytes([
        state[FLAGS.start],
        state[FLAGS.start + 1],
    ]));
    flags == KVM_STATE_NESTED_GIF_SET
}

#[cfg(test)]
mod tests;
