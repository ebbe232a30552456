//! How a machine comes to be: the one path for boot and reset.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use arch::{CpuProfile, CpuidEntry, layout};
use config::VmConfig;
use device::{Board, Device, Facts, Given, Host, Power};
use hypervisor::{ClockState, HostMemory, Hypervisor, MemorySlot, Vcpu, Vm, VmOptions};
use memory::{GuestRam, RegionSpec};
use pci::Pci;
use sandbox::Filter;
use telemetry::trace;

use crate::features::Features;
use crate::fork::SharedMemory;
use crate::loader::Loader;
use crate::paging::{Lost, Paging};
use crate::processors::{Processors, Rules};
use crate::{Debugger, Error, MemorySource, Result, syscalls, tables};

mod vcpus;

pub(crate) use vcpus::check_host_limits;
use vcpus::{cpu_profile, create_vcpus, needs_x2apic, prepare_vcpus, tsc_khz};

/// What a machine reports to its owner while it runs.
pub(crate) struct Reports {
    /// The guest wants to reset or to power off.
    pub(crate) power: Power,
    /// The device with this id wants [`Device::attend`].
    pub(crate) attention: Box<dyn Fn(&str) + Send + Sync>,
    /// A processor cannot go on.
    pub(crate) failed: Box<dyn Fn(u32, String) + Send + Sync>,
    /// Memory that was still to come cannot be had.
    pub(crate) memory_lost: Lost,
}

/// What machines are built on.
pub(crate) struct Ground<'a> {
    pub(crate) hypervisor: &'a dyn Hypervisor,
    pub(crate) features: &'a Features,
    pub(crate) seccomp: sandbox::Mode,
    /// Open descriptors that devices were given.
    pub(crate) given: &'a Arc<Given>,
    pub(crate) debugger: Option<Arc<Debugger>>,
    pub(crate) reports: Reports,
}

/// A running machine. Dropping it stops its processors, then its devices, then gives back its memory.
pub struct Machine {
    // In order of dropping.
    pub(crate) processors: Processors,
    pub(crate) devices: Vec<Slot>,
    _memory: Vec<MemorySlot>,
    /// Memory that comes from a snapshot while the guest runs.
    pub(crate) paging: Option<Paging>,
    pub(crate) vm: Arc<dyn Vm>,
    /// What the guest has asked for.
    pub(crate) power: Power,
    /// For devices that come later.
    pub(crate) board: Arc<Board>,
    pub(crate) pci: Arc<Pci>,
    /// While it is paused: the guest's clock, which stands still.
    pub(crate) clock: Option<ClockState>,
    pub(crate) ram: GuestRam,
    /// If it was restored or forked: where its memory comes from.
    pub(crate) restored: Option<MemorySource>,
    /// The snapshot that its memory is private pages over.
    pub(crate) origin: Option<snapshot::Part>,
    /// If it was forked or is a fork: memory that others have as well.
    pub(crate) shared: Option<SharedMemory>,
    /// It has run since it was made, or since `shared` has all of its memory.
    pub(crate) memory_used: bool,
}

/// What the devices of a machine before its reset leave to those after it, by their ids.
pub(crate) type Legacy = HashMap<String, Box<dyn Any + Send>>;

/// A device in its place.
pub(crate) struct Slot {
    pub(crate) id: String,
    pub(crate) device: Box<dyn Device>,
    /// It may leave while the guest runs.
    pub(crate) hot_plug: bool,
}

impl Machine {
    /// Builds the machine that `config` describes and lets it run.
    ///
    /// # Errors
    /// Whatever keeps it from running; nothing stays behind.
    pub(crate) fn build(
        config: &VmConfig,
        ground: Ground<'_>,
        legacy: &mut Legacy,
    ) -> Result<Self> {
        let features = ground.features;
        let step = trace::step("memory");
        let ram = new_ram(config)?;
        let loader = Loader::start(config, &ram)?;
        let prefault = ram.prefault()?;
        step.end();
        let mut chassis = Chassis::new(config, ground, ram, |vcpus| {
            Ok((features.get()?, tsc_khz(vcpus)))
        })?;
        let step = trace::step("devices");
        let mut devices = build_devices(config, &chassis.board, &chassis.pci, legacy)?;
        step.end();
        let mut nodes = chassis.pci.nodes();
        nodes.extend(devices.iter().flat_map(|slot| slot.device.nodes()));
        let step = trace::step("wait for the payload");
        let loaded = loader.finish()?;
        step.end();
        let step = trace::step("wait for the memory");
        prefault.join()?;
        step.end();
        let step = trace::step("tables and registers");
        let (profile, mcfg) = (&chassis.profile, chassis.pci.mcfg());
        let boot = tables::write(config, profile, &nodes, &mcfg, &loaded, &chassis.ram)?;
        prepare_vcpus(&mut chassis.vcpus, profile, &boot, needs_x2apic(config)?)?;
        step.end();
        for slot in &mut devices {
            slot.start()?;
        }
        chassis.finish(devices, None)
    }

    /// Takes the machine apart for a reset. What its devices keep of the host is for their successors.
    pub(crate) fn leave(self) -> Legacy {
        drop(self.processors);
        self.devices.into_iter().filter_map(Slot::leave).collect()
    }
}

/// A machine before its devices: the same whether it boots or was saved.
pub(crate) struct Chassis<'a> {
    // In order of dropping.
    pub(crate) pci: Arc<Pci>,
    pub(crate) board: Arc<Board>,
    pub(crate) vcpus: Vec<Box<dyn Vcpu>>,
    memory: Vec<MemorySlot>,
    pub(crate) vm: Arc<dyn Vm>,
    ram: GuestRam,
    pub(crate) profile: CpuProfile,
    config: &'a VmConfig,
    seccomp: sandbox::Mode,
    power: Power,
    failed: Box<dyn Fn(u32, String) + Send + Sync>,
    debugger: Option<Arc<Debugger>>,
}

/// What is special about a machine that was saved: it begins paused.
pub(crate) struct Restored {
    /// Its clock, which stands still.
    pub(crate) clock: ClockState,
    /// Where its memory comes from.
    pub(crate) mode: MemorySource,
    /// The snapshot that its memory lies over.
    pub(crate) origin: Option<snapshot::Part>,
    /// Memory that is still to come.
    pub(crate) paging: Option<Paging>,
}

impl<'a> Chassis<'a> {
    /// Makes one. `host` says what its processors can have: the answers of `CPUID`, and how fast their time stamp
    /// counters run. It is asked late, because the first one may not be known yet.
    ///
    /// # Errors
    /// Whatever the host cannot give; nothing stays behind.
    pub(crate) fn new(
        config: &'a VmConfig,
        ground: Ground<'_>,
        ram: GuestRam,
        host: impl FnOnce(&[Box<dyn Vcpu>]) -> Result<(Arc<[CpuidEntry]>, Option<u32>)>,
    ) -> Result<Self> {
        let Ground {
            hypervisor,
            seccomp,
            given,
            debugger,
            reports,
            ..
        } = ground;
        let step = trace::step("virtual machine");
        let vm = hypervisor.create_vm(&VmOptions {
            x2apic: needs_x2apic(config)?,
        })?;
        step.end();
        let step = trace::step("memory slots");
        let memory = map_ram(&*vm, &ram)?;
        step.end();
        let step = trace::step("processors");
        let vcpus = create_vcpus(config, &*vm)?;
        step.end();
        let step = trace::step("wait for processor features");
        let (features, tsc_khz) = host(&vcpus)?;
        step.end();
        let step = trace::step("profile and board");
        let profile = cpu_profile(config, hypervisor, &features, tsc_khz)?;
        check_address_width(&ram, profile.phys_bits())?;
        let board = Arc::new(Board::new(
            Arc::clone(&vm),
            ram.clone(),
            reports.power.clone(),
            facts(config, &ram),
            seccomp,
            layout::platform_area(profile.phys_bits()),
            reports.attention,
        ));
        board.provide(Arc::clone(given));
        let pci = new_pci(&board, &ram, profile.phys_bits())?;
        step.end();
        Ok(Self {
            pci,
            board,
            vcpus,
            memory,
            vm,
            ram,
            profile,
            config,
            seccomp,
            power: reports.power,
            failed: reports.failed,
            debugger,
        })
    }

    /// Starts the processors, which have their state.
    ///
    /// # Errors
    /// If their threads cannot be started.
    pub(crate) fn finish(self, devices: Vec<Slot>, restored: Option<Restored>) -> Result<Machine> {
        let _step = trace::step("start of processors");
        let filter =
            Filter::compile(self.seccomp, &syscalls::vcpu()).map_err(Error::confine("vcpu"))?;
        let rules = Rules {
            cpus: &self.config.cpus,
            filter,
            paused: restored.is_some(),
            debugger: self.debugger.map(|debugger| (debugger, self.ram.clone())),
        };
        let board = Arc::clone(&self.board);
        let power = self.power.clone();
        let processors = Processors::start(self.vcpus, board, self.power, &rules, self.failed)?;
        let mut restored = restored;
        let paging = restored
            .as_mut()
            .and_then(|restored| restored.paging.take());
        Ok(Machine {
            processors,
            devices,
            _memory: self.memory,
            paging,
            vm: self.vm,
            power,
            board: self.board,
            pci: self.pci,
            restored: restored.as_ref().map(|restored| restored.mode),
            origin: restored.as_ref().and_then(|restored| restored.origin),
            shared: None,
            memory_used: restored.is_none(),
            clock: restored.map(|restored| restored.clock),
            ram: self.ram,
        })
    }
}

impl Slot {
    /// Builds a device: at boot, and while the guest runs.
    pub(crate) fn build(
        planned: catalog::Planned<'_>,
        board: &Arc<Board>,
        inheritance: Option<Box<dyn Any + Send>>,
    ) -> Result<Self> {
        let worker = planned.kind.syscalls().worker;
        let host = Host::new(board, planned.id.clone(), worker).with_inheritance(inheritance);
        Self::build_on(planned, host)
    }

    /// Builds a device that sees the machine like this.
    pub(crate) fn build_on(planned: catalog::Planned<'_>, mut host: Host<'_>) -> Result<Self> {
        let id = planned.id;
        let _step = trace::step_of("build", &id);
        match planned.kind.build(planned.config, &mut host) {
            Ok(device) => Ok(Self {
                id,
                device,
                hot_plug: planned.kind.hot_plug(),
            }),
            Err(source) => Err(Error::Device { id, source }),
        }
    }

    /// Stops the device and takes what it keeps. A device that fails to stop starts anew.
    fn leave(mut self) -> Option<(String, Box<dyn Any + Send>)> {
        match self.device.stop() {
            Ok(()) => Some((self.id, self.device.leave()?)),
            Err(error) => {
                telemetry::error!("{}: {}", self.id, telemetry::chain(&error).join(": "));
                None
            }
        }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let id = &self.id;
        let _step = trace::step_of("start", id);
        self.device.start().map_err(|source| Error::Device {
            id: id.clone(),
            source,
        })
    }
}

fn new_ram(config: &VmConfig) -> Result<GuestRam> {
    Ok(GuestRam::new(
        &ram_regions(config),
        &config.memory.ram_options(),
    )?)
}

/// Where RAM is in the guest's address space.
pub(crate) fn ram_regions(config: &VmConfig) -> Vec<RegionSpec> {
    layout::ram_regions(config.memory.size.0)
        .into_iter()
        .map(|(start, size)| RegionSpec { start, size })
        .collect()
}

fn map_ram(vm: &dyn Vm, ram: &GuestRam) -> Result<Vec<MemorySlot>> {
    ram.regions()
        .map(|region| {
            Ok(vm.map_memory(hypervisor::MemoryRegion {
                guest_address: region.start(),
                host: Arc::clone(region.mapping()) as Arc<dyn HostMemory>,
                read_only: false,
                log_dirty: false,
            })?)
        })
        .collect()
}

/// RAM must end below the devices at the top of what the guest's processors can address.
fn check_address_width(ram: &GuestRam, bits: u8) -> Result<()> {
    let end = ram.regions().map(|r| r.start() + r.size()).max();
    match layout::device_area(end.unwrap_or(0), bits) {
        Some(_) => Ok(()),
        None => Err(Error::AddressWidth {
            size: ram.size(),
            bits,
        }),
    }
}

/// PCI with its host bridge, for devices to sit on. It stays for as long as the board.
fn new_pci(board: &Board, ram: &GuestRam, phys_bits: u8) -> Result<Arc<Pci>> {
    let plan = pci::Layout {
        segments: 1,
        memory32: layout::MMIO32_START..layout::MMIO32_START + layout::MMIO32_SIZE,
        memory64: layout::device_area(layout::ram_end(ram.size()), phys_bits).unwrap_or(0..0),
    };
    let pci = Arc::new(Pci::new(board.ports(), board.mmio(), &plan)?);
    board.provide(Arc::clone(&pci));
    Ok(pci)
}

fn facts(config: &VmConfig, ram: &GuestRam) -> Facts {
    let below: u64 = ram
        .regions()
        .filter(|r| r.start() < layout::HIGH_RAM_START)
        .map(|r| r.size())
        .sum();
    Facts {
        boot_vcpus: config.cpus.boot_vcpus,
        ram_below_4g: below,
        ram_above_4g: ram.size() - below,
        nested_hyperv: tables::nested_hyperv(config),
        shared_memory: config.memory.shared || config.memory.hugepages,
    }
}

fn build_devices(
    config: &VmConfig,
    board: &Arc<Board>,
    pci: &Pci,
    legacy: &mut Legacy,
) -> Result<Vec<Slot>> {
    let plan = catalog::plan(&config.devices);
    // Whoever asks for a slot by number gets it, whoever comes first.
    for (segment, slot) in plan.iter().filter_map(catalog::Planned::chosen_slot) {
        pci.segment(segment)?.keep(slot);
    }
    let mut slots = Vec::new();
    for planned in plan {
        let inheritance = legacy.remove(&planned.id);
        slots.push(Slot::build(planned, board, inheritance)?);
    }
    Ok(slots)
}
