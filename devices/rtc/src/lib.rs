//! Clocks of the host over virtio (virtio-rtc; Linux 6.16 has the driver).
//!
//! The driver asks in one queue what clocks there are and what they show; every request is answered at once. The
//! messages are those of the header `include/uapi/linux/virtio_rtc.h`, which follows the chapter "RTC Device" of
//! the specification that comes after VIRTIO 1.3.
//!
//! | Clock | Type | What it shows |
//! |---|---|---|
//! | 0 | UTC, perhaps smeared | the host's `CLOCK_REALTIME` |
//! | 1 | monotonic | time that the device has been in use; stands still while the machine is paused or saved |
//! | 2 | TAI | the host's `CLOCK_TAI`; only if the host's kernel knows the offset from UTC |
//!
//! Whether the host's time source smears leap seconds is not known to its kernel, so clock 0 makes no promise.
//! Cross timestamps, a clock's reading together with a counter of the processor, are not offered: the monitor
//! does not know what the guest's counter showed at an instant of the host. Nor are alarms.
#![forbid(unsafe_code)]

mod clocks;
mod message;
mod state;

use device::{
    Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Saved, Syscalls,
};
use sandbox::Filter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{Class, Environment, Identity, OverPci, PciOptions, QueueTask, Ring, VirtioDevice};

use clocks::Clocks;
use message::Clerk;
use state::State;

#[cfg(test)]
mod tests;

/// Device type (VIRTIO 1.3, chapter 5).
const CLOCK: u16 = 17;
const QUEUE_SIZE: u16 = 256;
const STATE_VERSION: u32 = 1;

/// Clocks of the host for the guest to read, over virtio.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RtcConfig {
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// The kind.
#[derive(Debug)]
pub struct RtcKind;

impl Kind for RtcKind {
    const NAMES: Names = Names {
        kind: "rtc",
        option: Some(OptionNames {
            flag: "rtc",
            field: "rtc",
            form: Form::One,
        }),
        id: "__rtc",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const EXAMPLES: &'static [&'static str] = &["", "id=clocks,pci_device_id=12"];
    // Clocks are read without the kernel, or by what all threads may do.
    const SYSCALLS: Syscalls = Syscalls::NONE;
    type Config = RtcConfig;
    type Device = OverPci<Rtc>;

    fn check(config: &RtcConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        config.pci.check("--rtc")
    }

    fn build(config: RtcConfig, host: &mut Host<'_>) -> Result<OverPci<Rtc>> {
        let environment = Environment::of(host, &config.pci)?;
        let device = Rtc::new(host.id(), environment.rules.clone());
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}

/// The device.
#[derive(Debug)]
pub struct Rtc {
    /// The clocks at rest. While the queue works it has a copy, which runs.
    clocks: Clocks,
    queue: QueueTask<Clerk>,
}

impl Rtc {
    /// A device that answers on a thread of this name and these rules.
    #[must_use]
    pub fn new(thread: &str, rules: Filter) -> Self {
        let clocks = Clocks::of_host();
        Self {
            clocks,
            queue: QueueTask::new(thread.to_owned(), rules, Clerk(clocks)),
        }
    }
}

impl VirtioDevice for Rtc {
    fn identity(&self) -> Identity {
        Identity {
            device_type: CLOCK,
            class: Class::OTHER,
            features: 0,
            queue_sizes: vec![QUEUE_SIZE],
            config_len: 0,
        }
    }

    fn start(&mut self, _index: u16, ring: Ring) -> Result<()> {
        if let Some(clerk) = self.queue.service() {
            clerk.0.run();
        }
        self.queue.start(ring)
    }

    fn stop(&mut self, _index: u16) -> Option<Ring> {
        let ring = self.queue.stop();
        if let Some(clerk) = self.queue.service() {
            clerk.0.halt();
            self.clocks = clerk.0;
        }
        ring
    }

    fn save(&self) -> Result<Saved> {
        let state = State::of(&self.clocks);
        Saved::new(RtcKind::NAMES.kind, STATE_VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: State = saved.read(RtcKind::NAMES.kind, STATE_VERSION)?;
        let clerk = self.queue.service().ok_or_else(|| Error::BadState {
            kind: RtcKind::NAMES.kind,
            why: "its queue is at work".into(),
        })?;
        self.clocks = state.clocks();
        clerk.0 = self.clocks;
        Ok(())
    }
}
