//! Reading and writing model-specific registers, a block at a time.

use arch::Msr;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::{Error, Result};

/// Registers per request. The kernel's limit is 255.
const BLOCK: usize = 128;

fn block(entries: impl Iterator<Item = (u32, u64)>) -> Result<Msrs> {
    let entries: Vec<_> = entries
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    // Not more than `BLOCK`, which fits.
    Msrs::from_entries(&entries).map_err(|_| Error::last("KVM_SET_MSRS"))
}

/// Reads registers. The kernel stops at the first one that it does not know: that one is left out.
pub(super) fn read(fd: &VcpuFd, mut indices: &[u32]) -> Result<Vec<Msr>> {
    let mut values = Vec::with_capacity(indices.len());
    while !indices.is_empty() {
        let asked = indices.len().min(BLOCK);
        let mut msrs = block(indices[..asked].iter().map(|&index| (index, 0)))?;
        let got = fd
            .get_msrs(&mut msrs)
            .map_err(Error::ioctl("KVM_GET_MSRS"))?
            .min(asked);
        let known = msrs.as_slice().iter().take(got);
        values.extend(known.map(|msr| Msr {
            index: msr.index,
            value: msr.data,
        }));
        let unknown = usize::from(got < asked);
        indices = &indices[got + unknown..];
    }
    Ok(values)
}

/// Writes registers in order. A register that refuses the value it has already is no error.
pub(super) fn write(fd: &VcpuFd, mut values: &[Msr]) -> Result<()> {
    while !values.is_empty() {
        let asked = values.len().min(BLOCK);
        let msrs = block(values[..asked].iter().map(|msr| (msr.index, msr.value)))?;
        let set = fd
            .set_msrs(&msrs)
            .map_err(Error::ioctl("KVM_SET_MSRS"))?
            .min(asked);
        values = &values[set..];
        if set < asked {
            let Msr { index, value } = values[0];
            let present = read(fd, &[index])?;
            if present.first().is_none_or(|msr| msr.value != value) {
                return Err(Error::MsrRefused { index, value });
            }
            values = &values[1..];
        }
    }
    Ok(())
}
