//! Memory slots: host memory in the guest's physical address space.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use vmm_sys_util::errno;

use super::vm::{Machine, lock};
use crate::grant::{Revoke, Slot};
use crate::{Error, MemoryRegion, MemorySlot, Result};

struct KvmSlot {
    machine: Arc<Machine>,
    number: u32,
    region: MemoryRegion,
}

/// Takes a free slot and maps `region` with it. The slot is given back when the guard is dropped.
pub(super) fn map(machine: &Arc<Machine>, region: MemoryRegion) -> Result<MemorySlot> {
    if region.host.size() == 0 {
        // To the kernel, size 0 is the request to unmap.
        return Err(explain(&region, io::Error::from_raw_os_error(libc::EINVAL)));
    }
    if region.read_only && !machine.host.capabilities.read_only_memory {
        let hint = "KVM_CAP_READONLY_MEM is absent; map the memory writable";
        return Err(Error::Missing {
            what: "memory that guests cannot write",
            hint,
        });
    }
    let limit = machine.host.capabilities.max_memory_slots;
    let number = lock(&machine.slots)
        .take()
        .ok_or(Error::NoMemorySlot(limit))?;
    let slot = KvmSlot {
        machine: Arc::clone(machine),
        number,
        region: region.clone(),
    };
    if let Err(error) = slot.set(region.host.size(), region.log_dirty) {
        lock(&machine.slots).give_back(number);
        return Err(explain(&region, error.into()));
    }
    Ok(MemorySlot {
        number,
        region,
        owner: Box::new(slot),
    })
}

fn explain(region: &MemoryRegion, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::EEXIST) => "it overlaps memory that is mapped already",
        Some(libc::EINVAL) => {
            "address and size must be multiples of the page size, and lie in the guest's address space"
        }
        Some(libc::ENOMEM) => "the host's kernel is out of memory for its tables",
        _ => "the kernel does not take it",
    };
    Error::MapMemory {
        guest_address: region.guest_address,
        size: region.host.size(),
        hint,
        source,
    }
}

impl KvmSlot {
    /// `KVM_SET_USER_MEMORY_REGION`. Size 0 unmaps.
    fn set(&self, size: u64, log_dirty: bool) -> std::result::Result<(), errno::Error> {
        let mut flags = 0;
        if log_dirty {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        if self.region.read_only {
            flags |= KVM_MEM_READONLY;
        }
        let request = kvm_userspace_memory_region {
            slot: self.number,
            flags,
            guest_phys_addr: self.region.guest_address,
            memory_size: size,
            userspace_addr: self.region.host.address().expose_provenance() as u64,
        };
        // SAFETY: `HostMemory` promises that the mapping is valid, and may be written by the guest, while the
        // value lives. `region` holds it until the slot is unmapped: see `revoke`.
        unsafe { self.machine.fd.set_user_memory_region(request) }
    }
}

impl Slot for KvmSlot {
    fn log_dirty(&self, on: bool) -> Result<()> {
        self.set(self.region.host.size(), on)
            .map_err(Error::ioctl("KVM_SET_USER_MEMORY_REGION"))
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>> {
        // The size fits: it is that of a mapping of this process.
        let size = usize::try_from(self.region.host.size()).unwrap_or(usize::MAX);
        self.machine
            .fd
            .get_dirty_log(self.number, size)
            .map_err(Error::ioctl("KVM_GET_DIRTY_LOG"))
    }
}

impl Revoke for KvmSlot {
    fn revoke(&self) {
        if self.set(0, false).is_ok() {
            lock(&self.machine.slots).give_back(self.number);
        } else {
            // The guest can still reach the memory, so it must outlive the machine; and the number stays taken.
            lock(&self.machine.stuck).push(Arc::clone(&self.region.host));
        }
    }
}
