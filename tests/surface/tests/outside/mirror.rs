//! A device that no other file of the project knows: what a driver gives it comes back changed.
//!
//! All that a device needs is here: names, configuration, check, system calls, saved state and counters.
//!
//! # Not on its page
//!
//! What comes after the first heading.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use device::{
    Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Saved, Syscalls,
};
use sandbox::Filter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{
    Chain, Class, Environment, Identity, OverPci, PciOptions, QueueTask, Ring, Service,
    VirtioDevice,
};

/// A device that gives back what it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MirrorConfig {
    /// What is added to each byte. Not 0, which would be no change.
    #[serde(default = "one")]
    pub(crate) shift: u8,
    /// Place and name of the device.
    #[serde(flatten)]
    pub(crate) pci: PciOptions,
}

fn one() -> u8 {
    1
}

pub(crate) struct Mirror;

impl Kind for Mirror {
    const NAMES: Names = Names {
        kind: "mirror",
        option: Some(OptionNames {
            flag: "mirror",
            field: "mirrors",
            form: Form::Many,
        }),
        id: "_mirror",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const EXAMPLES: &'static [&'static str] = &["shift=32", "id=glass"];
    const SYSCALLS: Syscalls = Syscalls::NONE;
    type Config = MirrorConfig;
    type Device = OverPci<Glass>;

    fn check(config: &MirrorConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        if config.shift == 0 {
            return Err(Problem::new(
                "--mirror",
                "shift=0 changes nothing, use 1 to 255",
            ));
        }
        config.pci.check("--mirror")
    }

    fn build(config: MirrorConfig, host: &mut Host<'_>) -> Result<OverPci<Glass>> {
        let environment = Environment::of(host, &config.pci)?;
        let glass = Glass::new(config.shift, host.id(), environment.rules.clone());
        Ok(OverPci::new(Self::NAMES.kind, glass, environment)?)
    }
}

/// The device.
pub(crate) struct Glass {
    queue: QueueTask<Shift>,
    bytes: Arc<AtomicU64>,
}

impl Glass {
    fn new(shift: u8, thread: &str, rules: Filter) -> Self {
        let bytes = Arc::<AtomicU64>::default();
        let service = Shift(shift, Arc::clone(&bytes));
        Self {
            queue: QueueTask::new(thread.to_owned(), rules, service),
            bytes,
        }
    }
}

impl VirtioDevice for Glass {
    fn identity(&self) -> Identity {
        Identity {
            // Reserved for devices that are never specified (VIRTIO 1.3, chapter 5 ends at 48).
            device_type: 63,
            class: Class::OTHER,
            features: 0,
            queue_sizes: vec![8],
            config_len: 0,
        }
    }

    fn start(&mut self, _index: u16, ring: Ring) -> Result<()> {
        self.queue.start(ring)
    }

    fn stop(&mut self, _index: u16) -> Option<Ring> {
        self.queue.stop()
    }

    fn save(&self) -> Result<Saved> {
        Saved::new(Mirror::NAMES.kind, 1, &self.bytes.load(Ordering::Relaxed))
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let bytes = saved.read(Mirror::NAMES.kind, 1)?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes", self.bytes.load(Ordering::Relaxed))]
    }
}

struct Shift(u8, Arc<AtomicU64>);

impl Service for Shift {
    fn serve(&mut self, chain: &mut Chain) -> u32 {
        let mut bytes = Vec::new();
        let read = chain.reader().take(4096).read_to_end(&mut bytes);
        if read.is_err() {
            return 0;
        }
        for byte in &mut bytes {
            *byte = byte.wrapping_add(self.0);
        }
        let mut writer = chain.writer();
        // What does not fit is lost.
        let _ = writer.write_all(&bytes);
        let written = writer.written();
        self.1.fetch_add(written.into(), Ordering::Relaxed);
        written
    }
}
