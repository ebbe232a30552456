//! Tests on this machine's `/dev/kvm`, with small guests in real mode.

use std::fs;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::{Exit, HostMemory, Hypervisor, MemoryRegion, MemorySlot, Vcpu, Vm, VmOptions};

mod debug;
mod exits;
mod grants;
mod interrupts;
mod kicks;
mod limits;
mod states;

/// Where guests start.
const CODE: u16 = 0x1000;
/// Port that guests use to say something.
const PORT: u16 = 0xe9;
/// Guest memory from address 0.
const RAM_SIZE: usize = 0x1_0000;

/// Host memory, all zero at first.
struct Ram {
    address: *mut u8,
    size: usize,
}

// SAFETY: the pointer is to a mapping of its own, accessed only with atomics.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

// SAFETY: the mapping is made in `new` and lives until `drop`; its contents are only accessed atomically.
unsafe impl HostMemory for Ram {
    fn address(&self) -> *mut u8 {
        self.address
    }

    fn size(&self) -> u64 {
        self.size as u64
    }
}

impl Ram {
    fn new(size: usize) -> Arc<Self> {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at a place that the kernel chooses.
        let address = unsafe { libc::mmap(ptr::null_mut(), size, prot, flags, -1, 0) };
        assert_ne!(address, libc::MAP_FAILED);
        Arc::new(Self {
            address: address.cast(),
            size,
        })
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.size);
        // SAFETY: inside of the mapping.
        let byte = unsafe { self.address.add(at) };
        // SAFETY: mapped while `self` lives, and only accessed atomically.
        unsafe { AtomicU8::from_ptr(byte) }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        for (offset, &byte) in bytes.iter().enumerate() {
            self.byte(at + offset).store(byte, Ordering::SeqCst);
        }
    }

    fn read(&self, at: usize) -> u8 {
        self.byte(at).load(Ordering::SeqCst)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; nothing borrows it any more.
        unsafe { libc::munmap(self.address.cast(), self.size) };
    }
}

/// The hypervisor, unless this machine has none.
fn host() -> Option<Arc<dyn Hypervisor>> {
    if !fs::exists("/dev/kvm").unwrap() {
        eprintln!("skipped: no /dev/kvm");
        return None;
    }
    Some(crate::open().unwrap())
}

/// A machine with one processor that is about to execute `code` in real mode.
struct Guest {
    vcpu: Box<dyn Vcpu>,
    vm: Arc<dyn Vm>,
    ram: Arc<Ram>,
    slot: MemorySlot,
    host: Arc<dyn Hypervisor>,
}

impl Guest {
    fn new(code: &[u8]) -> Option<Self> {
        Self::with_log(code, false)
    }

    fn with_log(code: &[u8], log_dirty: bool) -> Option<Self> {
        let host = host()?;
        let vm = host.create_vm(&VmOptions::default()).unwrap();
        let ram = Ram::new(RAM_SIZE);
        ram.write(CODE.into(), code);
        let slot = vm.map_memory(region(&ram, 0, log_dirty)).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut guest = Self {
            vcpu,
            vm,
            ram,
            slot,
            host,
        };
        guest.start_at_code();
        Some(guest)
    }

    fn start_at_code(&mut self) {
        let mut special = self.vcpu.special_regs().unwrap();
        special.cs.base = 0;
        special.cs.selector = 0;
        self.vcpu.set_special_regs(&special).unwrap();
        let mut regs = self.vcpu.regs().unwrap();
        regs.rip = CODE.into();
        regs.rflags = 2;
        regs.rsp = 0x8000;
        self.vcpu.set_regs(&regs).unwrap();
    }

    /// Sets the local APIC's software enable bit (Intel SDM volume 3A, "Spurious-Interrupt Vector Register"),
    /// without which it takes no interrupts.
    fn enable_apic(&mut self) {
        let mut page = self.vcpu.lapic().unwrap();
        page[0xf0..0xf4].copy_from_slice(&0x1ff_u32.to_le_bytes());
        self.vcpu.set_lapic(&page).unwrap();
    }

    /// Completes the access of the last exit, and executes nothing more.
    fn finish_access(&mut self) {
        self.vcpu.kicker().kick();
        assert_eq!(self.vcpu.run().unwrap(), Exit::Interrupted);
    }

    /// Runs until the guest writes to [`PORT`], and gives what it wrote.
    fn said(&mut self) -> Vec<u8> {
        loop {
            match self.vcpu.run().unwrap() {
                Exit::PortWrite {
                    port: PORT, data, ..
                } => return data.to_vec(),
                Exit::Interrupted => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

fn region(ram: &Arc<Ram>, guest_address: u64, log_dirty: bool) -> MemoryRegion {
    MemoryRegion {
        guest_address,
        host: Arc::clone(ram) as _,
        read_only: false,
        log_dirty,
    }
}

/// Waits for what another thread or the kernel does in its own time.
fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}
