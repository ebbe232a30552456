//! The processor's extended state (`XSAVE` area).
//!
//! It was 4096 bytes until processors with AMX; since then its size depends on what guests of this process may
//! use, and is the kernel's answer about `KVM_CAP_XSAVE2`.

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::capabilities::XSAVE_MIN;
use crate::{Error, Result};

const WORD: usize = size_of::<u32>();

/// Reads the area, `size` bytes.
pub(super) fn read(fd: &VcpuFd, size: usize) -> Result<Vec<u8>> {
    let extra = (size - XSAVE_MIN).div_ceil(WORD);
    if extra == 0 {
        let area = fd.get_xsave().map_err(Error::ioctl("KVM_GET_XSAVE"))?;
        return Ok(area
            .region
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect());
    }
    let mut area = Xsave::new(extra).map_err(|_| Error::last("KVM_GET_XSAVE2"))?;
    // SAFETY: the area is as large as the kernel said when this processor was made, and that size does not
    // change once a processor exists (api.rst, 4.134).
    unsafe { fd.get_xsave2(&mut area) }.map_err(Error::ioctl("KVM_GET_XSAVE2"))?;
    let first = area.as_fam_struct_ref().xsave.region.iter();
    Ok(first
        .chain(area.as_slice())
        .flat_map(|word| word.to_le_bytes())
        .collect())
}

/// Sets the area, which has `size` bytes on this host.
pub(super) fn write(fd: &VcpuFd, bytes: &[u8], size: usize) -> Result<()> {
    let words = words(bytes, size)?;
    let (first, rest) = words.split_at(XSAVE_MIN / WORD);
    let mut region = [0; XSAVE_MIN / WORD];
    region.copy_from_slice(first);
    if rest.is_empty() {
        let area = kvm_xsave {
            region,
            ..Default::default()
        };
        // SAFETY: the kernel reads 4096 bytes, as it said when this processor was made.
        return unsafe { fd.set_xsave(&area) }.map_err(Error::ioctl("KVM_SET_XSAVE"));
    }
    let mut area = Xsave::new(rest.len()).map_err(|_| Error::last("KVM_SET_XSAVE"))?;
    area.as_mut_slice().copy_from_slice(rest);
    // SAFETY: the length of the flexible part is not changed.
    let fixed = unsafe { area.as_mut_fam_struct() };
    fixed.xsave.region = region;
    // SAFETY: the area is as large as the kernel said when this processor was made.
    unsafe { fd.set_xsave2(&area) }.map_err(Error::ioctl("KVM_SET_XSAVE"))
}

/// The area in words, cut or filled up to this host's size. What is cut must be unused, that is zero.
fn words(bytes: &[u8], size: usize) -> Result<Vec<u32>> {
    if bytes.len() < XSAVE_MIN {
        let text = format!(
            "its extended state has {} bytes, at least {XSAVE_MIN} are needed",
            bytes.len()
        );
        return Err(Error::BadState(text.into()));
    }
    let size = size.next_multiple_of(WORD);
    let (kept, cut) = bytes.split_at(bytes.len().min(size));
    if cut.iter().any(|&byte| byte != 0) {
        let text = format!(
            "its extended state uses {} bytes, this host's processors have {size}; start the source with fewer \
             CPU features",
            bytes.len()
        );
        return Err(Error::BadState(text.into()));
    }
    let mut words: Vec<u32> = kept
        .chunks(WORD)
        .map(|chunk| {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        })
        .collect();
    words.resize(size / WORD, 0);
    Ok(words)
}

#[cfg(test)]
mod tests;
