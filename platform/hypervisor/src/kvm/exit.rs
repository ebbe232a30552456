//! Entering the guest and reading why it came back.
//!
//! The kernel shares a few pages with the thread that runs a processor (`struct kvm_run`). Another thread may
//! set one byte of the first page at any time (a kick), so no reference to the whole structure is ever made
//! here: fields are read through pointers, and the guest's data is lent out as slices of just that data.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings as kvm;
use kvm_ioctls::VcpuFd;

use super::{failure, requests};
use crate::{Error, Exit, Trap};

/// `HV_STATUS_INVALID_HYPERCALL_CODE` (Hyper-V TLFS, appendix B).
const HYPERV_NO_SUCH_CALL: u64 = 2;

/// Vector of the exception of `INT3` (Intel SDM volume 3A, table 6-1).
const BREAKPOINT: u32 = 3;

/// The pages shared with the kernel, of one processor.
pub(super) struct RunPage {
    run: NonNull<kvm::kvm_run>,
    fd: RawFd,
}

// SAFETY: a processor's pages may be used by any one thread at a time, and `RunPage` is the only user but for
// the byte that is accessed atomically.
unsafe impl Send for RunPage {}

/// How an attempt to enter the guest ended.
pub(super) enum Entry {
    /// The reason is in the shared page.
    Exited,
    /// By a kick, a signal or a change of the processor's run state.
    Interrupted,
    /// Memory of the guest cannot be used.
    MemoryFault,
}

impl RunPage {
    /// Only one may be made per processor, and it must not outlive `vcpu`.
    pub(super) fn new(vcpu: &mut VcpuFd) -> Self {
        let fd = vcpu.as_raw_fd();
        // From now on the structure is only reached through this pointer.
        Self {
            run: NonNull::from(vcpu.get_kvm_run()),
            fd,
        }
    }

    /// The byte that makes the next entry return at once.
    pub(super) fn immediate_exit(&self) -> NonNull<u8> {
        let run = self.run.as_ptr();
        // SAFETY: `run` points to a mapped `kvm_run`; no reference is made.
        let byte = unsafe { &raw mut (*run).immediate_exit };
        // SAFETY: it points into a mapping.
        unsafe { NonNull::new_unchecked(byte) }
    }

    /// Runs the guest. `KVM_RUN` first completes an access that the last exit asked the monitor to answer.
    pub(super) fn enter(&mut self) -> Result<Entry, Error> {
        // SAFETY: `fd` is that of a processor, open while `self` lives; the request has no argument. It changes
        // the shared pages and guest memory; no reference into the pages exists while `self` is borrowed
        // mutably here, and guest memory is expected to change (see `HostMemory`).
        let answer = unsafe { libc::ioctl(self.fd, requests::RUN as _, 0) };
        if answer == 0 {
            return Ok(Entry::Exited);
        }
        let source = io::Error::last_os_error();
        match source.raw_os_error() {
            Some(libc::EINTR) => {
                self.clear_immediate_exit();
                Ok(Entry::Interrupted)
            }
            // A processor that waited to be started has got INIT or its start-up IPI.
            Some(libc::EAGAIN) => Ok(Entry::Interrupted),
            Some(libc::EFAULT | libc::EHWPOISON) if self.reason() == kvm::KVM_EXIT_MEMORY_FAULT => {
                Ok(Entry::MemoryFault)
            }
            _ => Err(Error::Ioctl {
                call: "KVM_RUN",
                source,
            }),
        }
    }

    fn clear_immediate_exit(&self) {
        // SAFETY: the byte is mapped while `self` lives, and accessed atomically by everyone.
        let byte = unsafe { AtomicU8::from_ptr(self.immediate_exit().as_ptr()) };
        // Not a plain store: it must see what the thread that kicked did before it kicked.
        byte.swap(0, Ordering::SeqCst);
    }

    /// `exit_reason`.
    pub(super) fn reason(&self) -> u32 {
        let run = self.run.as_ptr();
        // SAFETY: `run` points to a mapped `kvm_run`, which the kernel changes only inside `enter`.
        unsafe { (*run).exit_reason }
    }

    /// The part that depends on the reason, as a `T`: the member of the union for the present reason.
    ///
    /// # Safety
    /// `T` must be plain data of at most 256 bytes, the size of the union.
    unsafe fn details<T: Copy>(&self) -> T {
        const { assert!(size_of::<T>() <= size_of::<kvm::kvm_run__bindgen_ty_1>()) };
        // SAFETY: as the caller promises; the union is mapped and aligned for every member.
        unsafe { self.union().cast::<T>().read() }
    }

    fn union(&self) -> *mut kvm::kvm_run__bindgen_ty_1 {
        let run = self.run.as_ptr();
        // SAFETY: `run` points to a mapped `kvm_run`; no reference is made.
        unsafe { &raw mut (*run).__bindgen_anon_1 }
    }

    /// Whether the exit asks for an access, which the next entry completes.
    pub(super) fn is_access(&self) -> bool {
        matches!(self.reason(), kvm::KVM_EXIT_IO | kvm::KVM_EXIT_MMIO)
    }

    /// Why the guest came back. The exit lends the guest's data. `rip` is asked for the guest's instruction
    /// pointer if it cannot go on.
    pub(super) fn exit(&mut self, rip: impl FnOnce() -> Option<u64>) -> Exit<'_> {
        match self.reason() {
            kvm::KVM_EXIT_IO => self.port_access(),
            kvm::KVM_EXIT_MMIO => self.mmio_access(),
            kvm::KVM_EXIT_HLT => Exit::Halted,
            kvm::KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            // Only Hyper-V guests on x86: their reset register.
            kvm::KVM_EXIT_SYSTEM_EVENT => Exit::Shutdown,
            kvm::KVM_EXIT_INTR => Exit::Interrupted,
            kvm::KVM_EXIT_IOAPIC_EOI => {
                // SAFETY: the kernel's `struct { __u8 vector; } eoi`.
                Exit::IoapicEoi(unsafe { self.details::<u8>() })
            }
            kvm::KVM_EXIT_DEBUG => {
                // SAFETY: a structure of the kernel's interface.
                let debug = unsafe { self.details::<kvm::kvm_debug_exit_arch>() };
                let trap = match debug.exception {
                    BREAKPOINT => Trap::Software,
                    _ => Trap::hardware(debug.dr6),
                };
                Exit::Debug {
                    address: debug.pc,
                    trap,
                }
            }
            _ => Exit::Failed(failure::describe(self, rip())),
        }
    }

    fn port_access(&mut self) -> Exit<'_> {
        // SAFETY: a structure of the kernel's interface.
        let io = unsafe { self.details::<kvm::kvm_run__bindgen_ty_1__bindgen_ty_4>() };
        let width = usize::from(io.size);
        let length = width * io.count as usize;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an offset in a mapping of this process"
        )]
        let offset = io.data_offset as usize;
        // SAFETY: the kernel gives an offset into the mapped pages.
        let start = unsafe { self.run.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: the kernel has the data of the access there, `count` items of `size` bytes, apart from
        // `kvm_run` itself; the slice borrows `self`, so the guest is not entered while it lives.
        let data = unsafe { slice::from_raw_parts_mut(start, length) };
        if u32::from(io.direction) == kvm::KVM_EXIT_IO_IN {
            Exit::PortRead {
                port: io.port,
                width,
                data,
            }
        } else {
            Exit::PortWrite {
                port: io.port,
                width,
                data,
            }
        }
    }

    fn mmio_access(&mut self) -> Exit<'_> {
        // SAFETY: a structure of the kernel's interface.
        let mmio = unsafe { self.details::<kvm::kvm_run__bindgen_ty_1__bindgen_ty_6>() };
        let length = mmio.data.len().min(mmio.len as usize);
        // SAFETY: the present member of the union is `mmio`; no reference to the union is made.
        let start = unsafe { &raw mut (*self.union()).mmio.data };
        // SAFETY: `length` bytes of the array `data`; the slice borrows `self`, so the guest is not entered
        // while it lives.
        let data = unsafe { slice::from_raw_parts_mut(start.cast::<u8>(), length) };
        if mmio.is_write == 0 {
            Exit::MmioRead {
                address: mmio.phys_addr,
                data,
            }
        } else {
            Exit::MmioWrite {
                address: mmio.phys_addr,
                data,
            }
        }
    }

    /// Answers exits that the monitor has no part in. `true`: enter the guest again.
    pub(super) fn answered(&mut self) -> bool {
        match self.reason() {
            kvm::KVM_EXIT_HYPERV => {
                self.answer_hyperv();
                true
            }
            kvm::KVM_EXIT_SYSTEM_EVENT => {
                // A Hyper-V guest reports that it has crashed. It asks for nothing and goes on by itself.
                // SAFETY: the kernel's `struct { __u32 type; ... } system_event`.
                unsafe { self.details::<u32>() == kvm::KVM_SYSTEM_EVENT_CRASH }
            }
            _ => false,
        }
    }

    /// Hyper-V's interrupt controller only tells that its pages have moved, which the kernel follows by itself;
    /// there are no hypercalls here beyond those of the kernel.
    fn answer_hyperv(&mut self) {
        // SAFETY: a structure of the kernel's interface.
        let hyperv = unsafe { self.details::<kvm::kvm_hyperv_exit>() };
        if hyperv.type_ == kvm::KVM_EXIT_HYPERV_HCALL {
            // SAFETY: the present member of the union is `hyperv`, that of its union is `hcall`.
            let result = unsafe { &raw mut (*self.union()).hyperv.u.hcall.result };
            // SAFETY: as above; nothing else refers to it.
            unsafe { result.write(HYPERV_NO_SUCH_CALL) };
        }
    }

    /// Details of `KVM_EXIT_FAIL_ENTRY`: the processor's reason and the host's processor number.
    pub(super) fn entry_failure(&self) -> (u64, u32) {
        // SAFETY: a structure of the kernel's interface.
        let failure = unsafe { self.details::<kvm::kvm_run__bindgen_ty_1__bindgen_ty_2>() };
        (failure.hardware_entry_failure_reason, failure.cpu)
    }

    /// Details of `KVM_EXIT_INTERNAL_ERROR`: its kind and data.
    pub(super) fn internal_error(&self) -> (u32, Vec<u64>) {
        // SAFETY: a structure of the kernel's interface.
        let error = unsafe { self.details::<kvm::kvm_run__bindgen_ty_1__bindgen_ty_13>() };
        (
            error.suberror,
            error.data.into_iter().take(error.ndata as usize).collect(),
        )
    }

    /// Details of `KVM_EXIT_MEMORY_FAULT`: guest physical address and size.
    pub(super) fn memory_fault(&self) -> (u64, u64) {
        // SAFETY: a structure of the kernel's interface.
        let fault = unsafe { self.details::<kvm::kvm_run__bindgen_ty_1__bindgen_ty_27>() };
        (fault.gpa, fault.size)
    }
}
