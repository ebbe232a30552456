//! Panic notifier on PCI (pvpanic): the guest's kernel says that it has crashed.
//!
//! One byte of registers, in BAR 0, as the specification of pvpanic says. Reading it gives the bits that mean
//! something here; writing one tells what happened:
//!
//! | Bit | Meaning | `event` |
//! |---|---|---|
//! | 0 | the kernel has panicked | `panic` |
//! | 1 | the kernel has panicked, and its crash kernel takes over | `crash_loaded` |
//!
//! Each becomes an event `guest` `panic` for `--event-monitor`; nothing else happens to the machine. Other bits
//! alone are an `unknown_event`. Linux has the driver (`pvpanic-pci`).
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{
    Device, Error, Form, Host, Kind, Names, OptionNames, PciPlace, Presence, Result, Saved, Shared,
    Syscalls, Target,
};
use pci::{
    BarKind, Endpoint, EndpointBuilder, EndpointState, Identification, Pci, PciAddress, Segment,
    Slot, share,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use telemetry::rate::{BURST, Limiter, PERIOD};

#[cfg(test)]
mod tests;

const IDENTIFICATION: Identification = Identification {
    vendor: 0x1b36,
    device: 0x0011,
    revision: 1,
    // A base system peripheral of another kind (PCI Code and ID Assignment specification, 1.9).
    class: 0x08,
    subclass: 0x80,
    interface: 0,
    subsystem_vendor: 0x1b36,
    subsystem: 0x0011,
};
/// The smallest BAR of memory that PCI knows; all but the first byte is empty.
const BAR_SIZE: u64 = 16;
/// A page of its own, as drivers map pages.
const BAR_ALIGN: u64 = 4096;
/// What a guest can tell, by bit.
const EVENTS: [(u8, &str); 2] = [(1 << 0, "panic"), (1 << 1, "crash_loaded")];
const KNOWN: u8 = EVENTS[0].0 | EVENTS[1].0;
const STATE_VERSION: u32 = 1;

/// Add a device by which the guest's kernel tells that it has crashed, an event of --event-monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PvPanicConfig(pub bool);

/// The kind.
#[derive(Debug)]
pub struct PvPanicKind;

impl Kind for PvPanicKind {
    const NAMES: Names = Names {
        kind: "pvpanic",
        option: Some(OptionNames {
            flag: "pvpanic",
            field: "pvpanic",
            form: Form::Switch,
        }),
        id: "__pvpanic",
    };
    const PRESENCE: Presence = Presence::ByDefault;
    const EXAMPLES: &'static [&'static str] = &["on"];
    const SYSCALLS: Syscalls = Syscalls::NONE;
    type Config = PvPanicConfig;
    type Device = PvPanic;

    fn by_default() -> Option<PvPanicConfig> {
        Some(PvPanicConfig(false))
    }

    fn is_off(config: &PvPanicConfig) -> bool {
        !config.0
    }

    fn build(_config: PvPanicConfig, host: &mut Host<'_>) -> Result<PvPanic> {
        let pci: Arc<Pci> = host.service().ok_or_else(|| Error::Backend {
            what: "--pvpanic".into(),
            source: "the machine has no PCI to put the device on".into(),
        })?;
        Ok(PvPanic::new(pci.segment(0)?, host.pci_slot())?)
    }
}

/// The device.
pub struct PvPanic {
    // The guest finds nothing any more before anything is taken apart.
    slot: Slot,
    endpoint: Arc<Mutex<Endpoint>>,
    register: Shared<Register>,
}

/// What is saved, version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Configuration space and BAR.
    function: EndpointState,
}

impl PvPanic {
    /// Puts one into this slot of a segment, or the lowest free one.
    ///
    /// # Errors
    /// [`pci::Error`] if there is no slot or address for it.
    pub fn new(segment: &Arc<Segment>, slot: Option<u8>) -> pci::Result<Self> {
        let slot = segment.take(slot)?;
        let register = Shared::new(Register::default());
        let endpoint = EndpointBuilder::new(segment, &IDENTIFICATION)
            .bar(0, BarKind::Memory32, BAR_SIZE, BAR_ALIGN, register.clone())?
            .build();
        let endpoint = share(endpoint);
        slot.fill(endpoint.clone());
        Ok(Self {
            slot,
            endpoint,
            register,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.slot.address()
    }

    fn endpoint(&self) -> MutexGuard<'_, Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for PvPanic {
    fn start(&mut self) -> Result<()> {
        self.endpoint().appear();
        Ok(())
    }

    fn save(&self) -> Result<Saved> {
        let function = self.endpoint().save();
        Saved::new(PvPanicKind::NAMES.kind, STATE_VERSION, &State { function })
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: State = saved.read(PvPanicKind::NAMES.kind, STATE_VERSION)?;
        let restored = self.endpoint().restore(&state.function);
        restored.map_err(|error| Error::BadState {
            kind: PvPanicKind::NAMES.kind,
            why: error.to_string(),
        })
    }

    fn on_pci(&self) -> Option<PciPlace> {
        Some(PciPlace {
            address: self.address().to_string(),
            bars: self.endpoint().memory(),
        })
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let [panics, crash_loads] = self.register.lock().counts;
        vec![("panics", panics), ("crash_loads", crash_loads)]
    }
}

impl fmt::Debug for PvPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PvPanic")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// The register.
struct Register {
    /// By bit.
    counts: [u64; EVENTS.len()],
    /// A guest can write as often as it likes.
    limiter: Limiter,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            counts: [0; EVENTS.len()],
            limiter: Limiter::new(BURST, PERIOD),
        }
    }
}

impl Register {
    fn tell(&self, event: &'static str) {
        if let Some(admitted) = self.limiter.admit() {
            telemetry::warn!("pvpanic: the guest tells of \"{event}\"");
            if admitted.left_out > 0 {
                telemetry::warn!("pvpanic: {} events were left out", admitted.left_out);
            }
            telemetry::event!("guest", "panic", event = event);
        }
    }
}

impl Target for Register {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (0, [first, ..]) = (offset, data) {
            *first = KNOWN;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (0, &[value, ..]) = (offset, data) else {
            return;
        };
        for (index, (bit, event)) in EVENTS.into_iter().enumerate() {
            if value & bit != 0 {
                self.counts[index] = self.counts[index].saturating_add(1);
                self.tell(event);
            }
        }
        if value & KNOWN == 0 && value != 0 {
            self.tell("unknown_event");
        }
    }
}
