//! A machine without processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arch::layout;
use device::{AnyKind, Board, Device, Facts, Host, Power};
use memory::{GuestRam, RamOptions, RegionSpec};
use pci::{Layout, Pci};
use sandbox::Mode;
use serde_json::Value;

/// Physical address bits of the processors that it does not have.
const BITS: u8 = 40;

/// A machine with memory, buses, interrupts and PCI. The hypervisor is this machine's.
#[derive(Debug)]
pub struct Rig {
    board: Arc<Board>,
    ram: GuestRam,
    pci: Arc<Pci>,
    wanted: Arc<AtomicBool>,
}

impl Rig {
    /// Bytes of RAM, from address 0.
    pub const RAM: u64 = 64 << 20;

    /// An empty machine. It needs `/dev/kvm`.
    #[must_use]
    pub fn new() -> Self {
        let hypervisor = hypervisor::open().expect("this needs /dev/kvm");
        let vm = hypervisor
            .create_vm(&hypervisor::VmOptions::default())
            .expect("a machine");
        let regions = [RegionSpec {
            start: 0,
            size: Self::RAM,
        }];
        let ram = GuestRam::new(&regions, &RamOptions::default()).expect("some memory");
        let wanted = Arc::<AtomicBool>::default();
        let attention = Arc::clone(&wanted);
        let board = Arc::new(Board::new(
            vm,
            ram.clone(),
            Power::new(|_| {}),
            Self::facts(),
            Mode::Off,
            layout::platform_area(BITS),
            move |_| attention.store(true, Ordering::Release),
        ));
        let plan = Layout {
            segments: 1,
            memory32: layout::MMIO32_START..layout::MMIO32_START + layout::MMIO32_SIZE,
            memory64: layout::device_area(Self::RAM, BITS).expect("there is room"),
        };
        let pci = Arc::new(Pci::new(board.ports(), board.mmio(), &plan).expect("empty buses"));
        board.provide(Arc::clone(&pci));
        Self {
            board,
            ram,
            pci,
            wanted,
        }
    }

    /// What its devices are told about it.
    #[must_use]
    pub fn facts() -> Facts {
        Facts {
            boot_vcpus: 4,
            ram_below_4g: Self::RAM,
            ..Facts::default()
        }
    }

    /// Builds a device, under the id that is its kind's.
    ///
    /// # Errors
    /// What a user would be told.
    pub fn build(&self, kind: &dyn AnyKind, config: &Value) -> Result<Box<dyn Device>, String> {
        let id = kind.names().id.to_owned();
        let mut host = Host::new(&self.board, id, kind.syscalls().worker);
        kind.build(config, &mut host).map_err(|error| chain(&error))
    }

    /// Its memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Its address spaces.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Its PCI.
    #[must_use]
    pub fn pci(&self) -> &Pci {
        &self.pci
    }

    /// Pays the attention that a device asked for, if it did.
    pub fn attend(&self, device: &mut dyn Device) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            device.attend();
        }
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
