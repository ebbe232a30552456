//! Makes a machine of a saved one: it is built by the path of every machine, and then given its state.
//!
//! Whatever is in the files may be anybody's. What the machine consists of follows from the configuration, which is
//! checked as that of any machine; the state must fit to it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arch::CpuidEntry;
use config::{Problem, VmConfig};
use device::{Board, Host};
use hypervisor::{ClockState, Vcpu, VcpuState};
use memory::{GuestRam, Layer};
use pci::{Pci, PciAddress};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapshot::Source;
use telemetry::trace;

use crate::build::{self, Chassis, Ground, Machine, Restored, Slot};
use crate::fork::SharedMemory;
use crate::paging::{self, Paging};
use crate::save::memory_state;
use crate::state::{DeviceState, MachineState};
use crate::{Error, MemorySource, Received, Result, descriptors, prepare};

/// `IA32_TIME_STAMP_COUNTER` (Intel SDM volume 4).
const TSC: u32 = 0x10;

/// How memory comes from a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemoryRestoreMode {
    /// All of it is copied before the guest goes on.
    Copy,
    /// The kernel reads pages of the file when the guest touches them, and copies those that it writes. All who restore
    /// from the file share the others (ours; the reference has none).
    Mapped,
    /// The monitor copies pages when the guest touches them.
    OnDemand,
}

/// Which saved machine to restore, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The folder of the snapshot: `file:///<folder>`.
    #[schemars(extend("format" = "url"))]
    pub source_url: String,
    /// Have all memory there before the guest goes on.
    #[serde(default)]
    pub prefault: bool,
    /// How memory comes. Without: mapped for private memory, copied for memory with shared=on or hugepages=on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-values" = { "copy": "Copy", "mapped": "Mapped", "ondemand": "OnDemand" }))]
    pub memory_restore_mode: Option<MemoryRestoreMode>,
    /// Descriptors of the taps of network devices that had such, by the devices' ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    pub net_fds: Option<Vec<RestoredNet>>,
    /// Let the guest go on at once.
    #[serde(default)]
    pub resume: bool,
}

/// Descriptors of one network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoredNet {
    /// Id of the device.
    pub id: String,
    /// Taps that were open when the monitor started, one for each pair of queues.
    pub fds: Vec<i32>,
}

/// A saved machine whose files were opened.
pub(crate) struct SavedMachine {
    pub(crate) config: VmConfig,
    pub(crate) state: MachineState,
    source: Source,
    mode: MemorySource,
    prefault: bool,
}

impl Restore {
    /// The folder of the snapshot.
    ///
    /// # Errors
    /// If the URL names none.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(snapshot::folder(&self.source_url)?)
    }

    /// The folder of the snapshot, and those of the ones that it is an increment to.
    ///
    /// # Errors
    /// If the snapshot cannot be read.
    pub fn folders(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder()?;
        let mut folders = Source::open(&folder)?.below().to_vec();
        folders.push(folder);
        Ok(folders)
    }

    /// The device of the host's that is opened for it.
    #[must_use]
    pub fn device(&self) -> Option<&'static Path> {
        let on_demand = self.memory_restore_mode == Some(MemoryRestoreMode::OnDemand);
        on_demand.then(|| Path::new(memory::USERFAULT_DEVICE))
    }

    /// The configuration of the saved machine, for those who prepare the process for it.
    ///
    /// # Errors
    /// If the snapshot cannot be read, or the configuration cannot work.
    pub fn config(&self) -> Result<VmConfig> {
        let source = Source::open(&self.folder()?)?;
        self.config_of(&source)
    }

    fn config_of(&self, source: &Source) -> Result<VmConfig> {
        let mut config: VmConfig = source.config()?;
        self.lend_descriptors(&mut config)?;
        prepare::check(&config)?;
        Ok(config)
    }

    /// Puts descriptors in the place of those that the saved machine had.
    fn lend_descriptors(&self, config: &mut VmConfig) -> Result<()> {
        let lent = self.net_fds.as_deref().unwrap_or_default();
        let problem = |text: String| Error::from(Problem::new("net_fds", text));
        let mut lent: HashMap<&str, &[i32]> = lent
            .iter()
            .map(|net| (net.id.as_str(), net.fds.as_slice()))
            .collect();
        let nets = config.devices.get_mut("net").and_then(Value::as_array_mut);
        for net in nets.into_iter().flatten() {
            let Some(wanted) = net.get("fds").and_then(Value::as_array).map(Vec::len) else {
                continue;
            };
            let id = net.get("id").and_then(Value::as_str).unwrap_or_default();
            let fds = lent.remove(id).filter(|fds| fds.len() == wanted);
            let fds = fds.ok_or_else(|| {
                problem(format!(
                    "network device {id} had {wanted} descriptors of its tap, and needs as many now: \
                     net_fds=[{id}@[<descriptors>]]"
                ))
            })?;
            net["fds"] = fds.into();
        }
        match lent.keys().next() {
            Some(id) => Err(problem(format!(
                "there is no network device {id} that takes descriptors"
            ))),
            None => Ok(()),
        }
    }

    /// The mode that was asked for, or that follows from the memory.
    fn mode(&self, config: &VmConfig) -> Result<MemoryRestoreMode> {
        let shared = config.memory.shared || config.memory.hugepages;
        let refused = |text: &str| Err(Problem::new("memory_restore_mode", text).into());
        match self.memory_restore_mode {
            None if shared => Ok(MemoryRestoreMode::Copy),
            None => Ok(MemoryRestoreMode::Mapped),
            Some(MemoryRestoreMode::Mapped) if shared => refused(
                "memory with shared=on or hugepages=on cannot be mapped from the snapshot: use copy",
            ),
            Some(MemoryRestoreMode::OnDemand) if self.prefault => {
                refused("ondemand leaves memory for later, prefault=on does not: give one of them")
            }
            Some(MemoryRestoreMode::OnDemand) if config.memory.hugepages => refused(
                "a huge page would have to be read as a whole when a byte of it is touched: use copy for memory with \
                 hugepages=on",
            ),
            Some(mode) => Ok(mode),
        }
    }
}

impl SavedMachine {
    /// Opens and checks the files.
    ///
    /// # Errors
    /// Whatever is wrong with them or with what is asked for.
    pub(crate) fn open(wish: &Restore) -> Result<Self> {
        let source = Source::open(&wish.folder()?)?;
        let config = wish.config_of(&source)?;
        let mode = wish.mode(&config)?.into();
        Self::of(source, config, mode, wish.prefault)
    }

    /// Checks a machine that another monitor hands over.
    ///
    /// # Errors
    /// Whatever is wrong with its parts.
    pub(crate) fn received(received: &Received) -> Result<Self> {
        let source = Source::received(Path::new("what the other monitor sent"), received.parts())?;
        let config: VmConfig = source.config()?;
        prepare::check(&config)?;
        descriptors::refuse(&config)?;
        Self::of(source, config, MemorySource::Forked, false)
    }

    fn of(source: Source, config: VmConfig, mode: MemorySource, prefault: bool) -> Result<Self> {
        let state: MachineState = source.state()?;
        check_number(state.number)?;
        let (there, wanted) = (state.vcpus.len(), config.cpus.boot_vcpus);
        if u32::try_from(there) != Ok(wanted) {
            let text = format!("it has {there} processors, its configuration {wanted}");
            return Err(Error::Unrestorable(text));
        }
        let (there, wanted) = (source.memory_bytes(), config.memory.size.0);
        if there != wanted {
            let text = format!("it has {there} bytes of memory, its configuration {wanted}");
            return Err(Error::Unrestorable(text));
        }
        Ok(Self {
            config,
            state,
            source,
            mode,
            prefault,
        })
    }

    fn layers(&self) -> Vec<Layer> {
        let changes = self.source.changes().iter();
        let layers = changes.map(|changes| Layer {
            file: Arc::clone(&changes.memory),
            parts: changes.parts.clone(),
        });
        layers.collect()
    }

    /// Of a fork: the memory that others have as well.
    fn shared(&self) -> Option<SharedMemory> {
        let forked = self.mode == MemorySource::Forked;
        forked.then(|| SharedMemory::new(Arc::clone(self.source.memory()), self.layers()))
    }

    fn ram(&self) -> Result<GuestRam> {
        let mut options = self.config.memory.ram_options();
        options.prefault |= self.prefault;
        let file = self.source.memory();
        let regions = build::ram_regions(&self.config);
        let layers = self.layers();
        let ram = match self.mode {
            MemorySource::Mapped => GuestRam::over_layers(&regions, &options, file, &layers)?,
            MemorySource::Forked => {
                // What the configuration says of shared=on, prefault=on and reserve=on is about the next boot: here
                // pages are those of the parent until they are written.
                options.shared = false;
                options.prefault = false;
                options.reserve = false;
                GuestRam::over_sealed_files(&regions, &options, file, &layers)?
            }
            MemorySource::OnDemand => {
                // As with forks: the configuration speaks of the next boot, where all of it is allocated.
                options.prefault = false;
                options.reserve = false;
                GuestRam::new(&regions, &options)?
            }
            MemorySource::Copy => GuestRam::new(&regions, &options)?,
        };
        let here = ram.ranges().into_iter().map(memory_state);
        if !here.eq(self.state.memory.iter().copied()) {
            let text = "its memory is not where that of a machine of its configuration is";
            return Err(Error::Unrestorable(text.into()));
        }
        if self.mode == MemorySource::Copy {
            ram.read_blocks(&paging::blocks(ram.size(), &self.source)?)?;
        }
        ram.prefault()?.join()?;
        Ok(ram)
    }
}

impl Machine {
    /// Builds the machine that was saved. It stands still.
    ///
    /// # Errors
    /// Whatever keeps it from going on as it was; nothing stays behind.
    pub(crate) fn restore(
        config: &VmConfig,
        saved: &SavedMachine,
        mut ground: Ground<'_>,
    ) -> Result<Self> {
        let _step = trace::step("restore");
        let state = &saved.state;
        check_features(&state.features, &ground.features.get()?)?;
        let tsc_khz = state.vcpus.first().and_then(|vcpu| vcpu.tsc_khz);
        let ram = saved.ram()?;
        let (mode, source) = (saved.mode, &saved.source);
        let lost = std::mem::replace(&mut ground.reports.memory_lost, Box::new(|_| {}));
        let paging = (mode == MemorySource::OnDemand)
            .then(|| Paging::start(&ram, source, ground.seccomp, lost))
            .transpose()?;
        let mut chassis = Chassis::new(config, ground, ram, |_| {
            Ok((state.features.as_slice().into(), tsc_khz))
        })?;
        let devices = restore_devices(config, &chassis.board, &chassis.pci, &state.devices)?;
        chassis.vm.set_clock(&state.clock)?;
        let clock = chassis.vm.clock()?;
        for ((vcpu, saved), index) in chassis.vcpus.iter_mut().zip(&state.vcpus).zip(0..) {
            vcpu.set_cpuid(&chassis.profile.for_vcpu(index))?;
            restore_vcpu(&mut **vcpu, saved, &state.clock, &clock)?;
        }
        // What devices have read so far may have been zeros otherwise.
        paging.as_ref().map_or(Ok(()), Paging::check)?;
        let origin = (mode == MemorySource::Mapped).then(|| source.mark());
        let restored = Restored {
            clock,
            mode,
            origin,
            paging,
        };
        let mut machine = chassis.finish(devices, Some(restored))?;
        machine.shared = saved.shared();
        Ok(machine)
    }
}

/// Gives a processor its state. Its counter goes on by the time by which the clock does.
fn restore_vcpu(
    vcpu: &mut dyn Vcpu,
    state: &VcpuState,
    then: &ClockState,
    now: &ClockState,
) -> Result<()> {
    let mut state = state.clone();
    let nanoseconds = now.nanoseconds.saturating_sub(then.nanoseconds);
    let khz = state.tsc_khz.unwrap_or(0);
    let ticks = u128::from(nanoseconds) * u128::from(khz) / 1_000_000;
    for msr in state.msrs.iter_mut().filter(|msr| msr.index == TSC) {
        msr.value = msr.value.wrapping_add(u64::try_from(ticks).unwrap_or(0));
    }
    vcpu.restore(&state)?;
    Ok(vcpu.notify_paused()?)
}

/// Builds the devices, each of which gets its state before the next one is built: so it leaves the addresses that it
/// had for a moment to those that had them in the saved machine.
fn restore_devices(
    config: &VmConfig,
    board: &Arc<Board>,
    pci: &Pci,
    states: &[DeviceState],
) -> Result<Vec<Slot>> {
    let bad = |text: String| Error::Unrestorable(text);
    let mut by_id: HashMap<&str, &DeviceState> = HashMap::with_capacity(states.len());
    for state in states {
        if by_id.insert(&state.id, state).is_some() {
            return Err(bad(format!("it has device {} twice", state.id)));
        }
        if let Some(address) = address(state)? {
            pci.segment(address.segment)?.keep(address.device);
        }
    }
    let mut slots = Vec::new();
    for planned in catalog::plan(&config.devices) {
        let id = planned.id.clone();
        let state = by_id.remove(id.as_str());
        let state = state.ok_or_else(|| bad(format!("it has no state of device {id}")))?;
        let slot = address(state)?.map(|address| address.device);
        let worker = planned.kind.syscalls().worker;
        let host = Host::new(board, id.clone(), worker).with_pci_slot(slot);
        let mut slot = Slot::build_on(planned, host)?;
        let restored = slot.device.restore(state.saved.clone());
        restored.map_err(|source| Error::DeviceState {
            act: "restore",
            id: id.clone(),
            source,
        })?;
        if slot.device.on_pci().map(|place| place.address) != state.pci {
            let was = state.pci.as_deref().unwrap_or("not on PCI");
            return Err(bad(format!("device {id} was {was}, and cannot be there")));
        }
        slots.push(slot);
    }
    match by_id.keys().next() {
        Some(id) => Err(bad(format!(
            "it has device {id}, which its configuration has not"
        ))),
        None => Ok(slots),
    }
}

fn address(state: &DeviceState) -> Result<Option<PciAddress>> {
    let Some(text) = &state.pci else {
        return Ok(None);
    };
    let address = text.parse().ok();
    let address = address.ok_or_else(|| {
        Error::Unrestorable(format!("{text:?} is no address of device {}", state.id))
    });
    address.map(Some)
}

/// Answers of `CPUID` of which each bit is a feature: leaf, subleaf, and which of EAX, EBX, ECX and EDX (Intel SDM
/// volume 2A, "CPUID"; AMD APM volume 3, appendix E).
const FEATURES: &[(u32, u32, [bool; 4])] = &[
    (0x1, 0, [false, false, true, true]),
    (0x7, 0, [false, true, true, true]),
    (0x7, 1, [true, true, true, true]),
    (0x7, 2, [false, false, false, true]),
    (0xd, 0, [true, false, false, true]),
    (0xd, 1, [true, false, true, true]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0008, 0, [false, true, false, false]),
    (0x8000_0021, 0, [true, false, false, false]),
];

/// The host must have what the saved machine's had.
fn check_features(saved: &[CpuidEntry], host: &[CpuidEntry]) -> Result<()> {
    let registers = |list: &[CpuidEntry], leaf, subleaf| {
        let mut list = list.iter();
        let entry = list.find(|entry| (entry.leaf, entry.subleaf) == (leaf, subleaf));
        entry.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    };
    for (leaf, subleaf, are_features) in FEATURES {
        let had = registers(saved, *leaf, *subleaf);
        let has = registers(host, *leaf, *subleaf);
        let names = ["EAX", "EBX", "ECX", "EDX"].into_iter();
        for (((name, had), has), is_feature) in names.zip(had).zip(has).zip(are_features) {
            let missing = had & !has;
            if *is_feature && missing != 0 {
                return Err(Error::Unrestorable(format!(
                    "its processors have features that this host's have not: CPUID {leaf:#x}.{subleaf}, {name} bits \
                     {missing:#x}"
                )));
            }
        }
    }
    Ok(())
}

/// The number goes into ids, and up with each device that comes.
fn check_number(number: u64) -> Result<()> {
    if number > u32::MAX.into() {
        let text = format!("its next device would have number {number}");
        return Err(Error::Unrestorable(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
