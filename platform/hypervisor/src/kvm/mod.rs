//! KVM, the hypervisor of the Linux kernel (`Documentation/virt/kvm/api.rst`).
//!
//! [`Host`] is the opened `/dev/kvm`; [`vm`] makes machines with it and grants them memory, interrupts and
//! doorbells; [`vcpu`] runs processors. Each keeps the one above it alive.

mod amx;
mod capabilities;
mod convert;
mod doorbell;
mod exit;
mod failure;
mod kick;
mod msrs;
mod nested;
mod numbers;
mod requests;
mod routes;
mod save;
mod slots;
mod vcpu;
mod vm;
mod xsave;

use std::io;
use std::os::fd::FromRawFd;
use std::sync::{Arc, OnceLock};

use arch::CpuidEntry;
use kvm_bindings::{KVM_CAP_SET_GUEST_DEBUG2, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

use crate::{Capabilities, Error, Hypervisor, Result, Vm, VmOptions};

pub use amx::request_amx;
pub(crate) use kick::KvmKicker;
pub use requests::{VCPU_IOCTLS, VM_IOCTLS};

const PATH: &str = "/dev/kvm";

/// The only version that the interface ever had since it was declared stable.
const API_VERSION: i32 = 12;

/// The opened device file and what was learned from it.
struct Host {
    kvm: Kvm,
    capabilities: Capabilities,
    state_msrs: OnceLock<Vec<u32>>,
    /// Flags of `KVM_SET_GUEST_DEBUG` that the kernel knows.
    guest_debug: u32,
}

impl Host {
    /// The registers of a processor's state; asked for when a state is first saved.
    fn state_msrs(&self) -> Result<&[u32]> {
        if let Some(known) = self.state_msrs.get() {
            return Ok(known);
        }
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(Error::ioctl("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(self.state_msrs.get_or_init(|| list.as_slice().to_vec()))
    }
}

struct KvmHypervisor(Arc<Host>);

/// Opens `/dev/kvm` and asks what it can do. See [`crate::open`].
pub(crate) fn open() -> Result<Arc<dyn Hypervisor>> {
    let fd = Kvm::open_with_cloexec(true).map_err(|error| explain_open(error.into()))?;
    // SAFETY: the descriptor was just opened and nothing else owns it.
    let kvm = unsafe { Kvm::from_raw_fd(fd) };
    let version = kvm.get_api_version();
    if version < 0 {
        return Err(explain_open(io::Error::last_os_error()));
    }
    if version != API_VERSION {
        return Err(Error::ApiVersion(version));
    }
    let capabilities = capabilities::probe(&kvm)?;
    // An error is the answer of a kernel that does not say.
    let guest_debug = kvm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into());
    Ok(Arc::new(KvmHypervisor(Arc::new(Host {
        kvm,
        capabilities,
        state_msrs: OnceLock::new(),
        guest_debug: u32::try_from(guest_debug).unwrap_or(0),
    }))))
}

fn explain_open(source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            "load the kernel module kvm_intel or kvm_amd, or enable virtualisation in the firmware"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "no permission to use it: add the user to the group kvm, or change the file's permissions"
        }
        Some(libc::ENOTTY | libc::EINVAL) => "something else than KVM's device is there",
        _ => "the hypervisor cannot be used",
    };
    Error::Open {
        path: PATH,
        hint,
        source,
    }
}

impl Hypervisor for KvmHypervisor {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>> {
        let cpuid = self
            .0
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(cpuid.as_slice().iter().map(convert::from_cpuid).collect())
    }

    fn state_msrs(&self) -> Result<Vec<u32>> {
        Ok(self.0.state_msrs()?.to_vec())
    }

    fn create_vm(&self, options: &VmOptions) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(vm::KvmVm::new(&self.0, options)?))
    }
}

#[cfg(test)]
mod tests;
