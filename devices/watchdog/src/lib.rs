//! Watchdog over virtio: resets a machine whose guest has stopped asking not to be.
//!
//! VIRTIO 1.3 reserves device type 35 and has no chapter for it, and the driver is not part of Linux. What driver
//! and device agree on is little: there is one queue, and each buffer in it is a *ping*. The device gives it back
//! at once, with the byte 1 at its start if there is room. The first ping starts the clock; from then on a
//! guest that does not ping for 20 seconds is reset. Drivers ping every 15 seconds or more often. The clock
//! ends when the driver resets the device, as one does that is unloaded.
//!
//! The clock stands still while the machine is paused, and a restored machine has the time that was left when it
//! was saved.
#![forbid(unsafe_code)]

mod state;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use device::{
    Error, Form, Host, Kind, Names, OptionNames, Power, Presence, Result, Saved, Syscalls,
};
use reactor::Task;
use sandbox::Filter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{Class, Environment, Identity, OverPci, PciOptions, Ring, VirtioDevice};

use state::State;
use worker::{Counts, Guard};

#[cfg(test)]
mod tests;

/// Device type (VIRTIO 1.3, chapter 5).
const WATCHDOG: u16 = 35;
const QUEUE_SIZE: u16 = 8;
/// How long a guest may be silent.
const TIMEOUT: Duration = Duration::from_secs(20);
const STATE_VERSION: u32 = 1;

/// Add a watchdog: a guest that has begun to ping it and is then silent for 20 seconds is reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct WatchdogConfig(pub bool);

/// The kind.
#[derive(Debug)]
pub struct WatchdogKind;

impl Kind for WatchdogKind {
    const NAMES: Names = Names {
        kind: "watchdog",
        option: Some(OptionNames {
            flag: "watchdog",
            field: "watchdog",
            form: Form::Switch,
        }),
        id: "__watchdog",
    };
    const PRESENCE: Presence = Presence::ByDefault;
    const EXAMPLES: &'static [&'static str] = &["on"];
    const SYSCALLS: Syscalls = Syscalls::NONE;
    type Config = WatchdogConfig;
    type Device = OverPci<Watchdog>;

    fn by_default() -> Option<WatchdogConfig> {
        Some(WatchdogConfig(false))
    }

    fn is_off(config: &WatchdogConfig) -> bool {
        !config.0
    }

    fn build(_config: WatchdogConfig, host: &mut Host<'_>) -> Result<OverPci<Watchdog>> {
        let environment = Environment::of(host, &PciOptions::default())?;
        let device = Watchdog::new(TIMEOUT, host.power(), host.id(), environment.rules.clone());
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}

/// The device.
#[derive(Debug)]
pub struct Watchdog {
    name: String,
    rules: Filter,
    timeout: Duration,
    counts: Arc<Counts>,
    /// The worker while it does not run; gone if it failed.
    idle: Option<Guard>,
    task: Option<Task<Guard>>,
}

impl Watchdog {
    /// A device that requests a reset from `power` after `timeout`. Its thread has this name and these rules.
    #[must_use]
    pub fn new(timeout: Duration, power: Power, thread: &str, rules: Filter) -> Self {
        let counts = Arc::<Counts>::default();
        Self {
            name: thread.to_owned(),
            rules,
            timeout,
            idle: Some(Guard::new(timeout, power, Arc::clone(&counts))),
            counts,
            task: None,
        }
    }

    fn bad_state(why: String) -> Error {
        Error::BadState {
            kind: WatchdogKind::NAMES.kind,
            why,
        }
    }
}

impl VirtioDevice for Watchdog {
    fn identity(&self) -> Identity {
        Identity {
            device_type: WATCHDOG,
            class: Class::OTHER,
            features: 0,
            queue_sizes: vec![QUEUE_SIZE],
            config_len: 0,
        }
    }

    fn start(&mut self, _index: u16, ring: Ring) -> Result<()> {
        let failed = |source| Error::Worker {
            name: self.name.clone(),
            source,
        };
        let Some(mut guard) = self.idle.take() else {
            return Err(failed(io::Error::other("it failed before")));
        };
        guard.ring = Some(ring);
        self.task = Some(Task::spawn(&self.name, self.rules.clone(), guard).map_err(failed)?);
        Ok(())
    }

    fn stop(&mut self, _index: u16) -> Option<Ring> {
        match self.task.take()?.stop() {
            Ok(mut guard) => {
                let ring = guard.pause();
                self.idle = Some(guard);
                ring
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.name, telemetry::chain(&error).join(": "));
                None
            }
        }
    }

    fn reset(&mut self) {
        if let Some(guard) = &mut self.idle {
            guard.left = None;
        }
    }

    fn save(&self) -> Result<Saved> {
        let guard = self.idle.as_ref();
        let guard = guard.ok_or_else(|| Self::bad_state("its thread failed".into()))?;
        let state = State::of(guard.left);
        Saved::new(WatchdogKind::NAMES.kind, STATE_VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: State = saved.read(WatchdogKind::NAMES.kind, STATE_VERSION)?;
        let left = state.left(self.timeout).map_err(Self::bad_state)?;
        let guard = self.idle.as_mut();
        guard
            .ok_or_else(|| Self::bad_state("its thread failed".into()))?
            .left = left;
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counts.read()
    }
}
