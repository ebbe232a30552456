//! The life of a machine, as a table: what may be asked of it in which state, and what comes of it.

use std::fmt;

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none: nobody has said what it is to be.
    Absent,
    /// It is configured and was never started.
    Created,
    /// It runs.
    Running,
    /// It is built and stands still.
    Paused,
    /// It was taken apart; its configuration is kept, and it can be started again.
    ShutDown,
}

impl State {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Absent,
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::ShutDown,
    ];

    /// Whether there are processors and devices.
    #[must_use]
    pub fn is_built(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Its name in `vm.info`, where a machine that was shut down is one that can be started.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent | Self::Created | Self::ShutDown => "Created",
            Self::Running => "Running",
            Self::Paused => "Paused",
        }
    }
}

/// What can be asked of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Say what it is to be.
    Create,
    /// Forget it.
    Delete,
    /// Build it and let it run.
    Boot,
    /// Take it apart and keep its configuration.
    Shutdown,
    /// Take it apart, build it anew and let it run.
    Reboot,
    /// Stop its processors and devices where they are.
    Pause,
    /// Let it run on.
    Resume,
    /// Save all of it.
    Snapshot,
    /// Make further machines of it.
    Fork,
    /// Make it from what was saved; it stands still then.
    Restore,
    /// Press the guest's power button, inject a non-maskable interrupt, read counters, resize a disk: whatever takes
    /// a machine that is built.
    Use,
    /// Look at its configuration or change it.
    Configure,
}

impl Act {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Create,
        Self::Delete,
        Self::Boot,
        Self::Shutdown,
        Self::Reboot,
        Self::Pause,
        Self::Resume,
        Self::Snapshot,
        Self::Fork,
        Self::Restore,
        Self::Use,
        Self::Configure,
    ];
}

/// Why a machine in this state does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no configuration yet.
    Absent,
    /// It has one already.
    AlreadyCreated,
    /// It has been started already.
    AlreadyStarted,
    /// It is not running, nor paused.
    NotStarted,
    /// There is nothing to start anew.
    NothingToReboot,
    /// It is paused already.
    AlreadyPaused,
    /// It is not paused.
    NotPaused,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "there is no VM: create one first (vm.create)",
            Self::AlreadyCreated => {
                "there is a VM already: this monitor has one at a time (vm.delete removes it)"
            }
            Self::AlreadyStarted => "the VM has been booted already",
            Self::NotStarted => "the VM is not running: boot it first (vm.boot)",
            Self::NothingToReboot => {
                "the VM is not running, there is nothing to reboot: boot it first (vm.boot)"
            }
            Self::AlreadyPaused => "the VM is paused already",
            Self::NotPaused => "the VM is not paused",
        })
    }
}

impl std::error::Error for Refusal {}

/// The state after `act` in `state`.
///
/// # Errors
/// Why not.
pub fn after(state: State, act: Act) -> Result<State, Refusal> {
    use State::{Absent, Created, Paused, Running, ShutDown};
    match (act, state) {
        (Act::Create, Absent) => Ok(Created),
        (Act::Restore, Absent) => Ok(Paused),
        (Act::Create | Act::Restore, _) => Err(Refusal::AlreadyCreated),
        (Act::Delete, _) => Ok(Absent),
        (Act::Boot, Created | ShutDown) => Ok(Running),
        (Act::Boot | Act::Configure, Absent) => Err(Refusal::Absent),
        (Act::Boot, Running | Paused) => Err(Refusal::AlreadyStarted),
        (Act::Reboot, Running | Paused) => Ok(Running),
        (Act::Reboot, _) => Err(Refusal::NothingToReboot),
        (Act::Shutdown, Running | Paused) => Ok(ShutDown),
        (Act::Pause, Running) => Ok(Paused),
        (Act::Pause, Paused) => Err(Refusal::AlreadyPaused),
        (Act::Resume, Paused) => Ok(Running),
        (Act::Snapshot, Paused) => Ok(Paused),
        (Act::Resume | Act::Snapshot, Running) => Err(Refusal::NotPaused),
        (Act::Use | Act::Fork, Running | Paused) => Ok(state),
        (Act::Shutdown | Act::Pause | Act::Resume | Act::Snapshot | Act::Fork | Act::Use, _) => {
            Err(Refusal::NotStarted)
        }
        (Act::Configure, _) => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line for each act: the outcome in each state, in the order of [`State::ALL`].
    #[test]
    fn the_whole_table() {
        use State::{Absent, Created, Paused, Running, ShutDown};
        let no = |refusal| Err(refusal);
        let (absent, idle) = (no(Refusal::Absent), no(Refusal::NotStarted));
        let (there, started) = (no(Refusal::AlreadyCreated), no(Refusal::AlreadyStarted));
        let nothing = no(Refusal::NothingToReboot);
        let table: &[(Act, [Result<State, Refusal>; 5])] = &[
            (Act::Create, [Ok(Created), there, there, there, there]),
            (Act::Delete, [Ok(Absent); 5]),
            (
                Act::Boot,
                [absent, Ok(Running), started, started, Ok(Running)],
            ),
            (
                Act::Shutdown,
                [idle, idle, Ok(ShutDown), Ok(ShutDown), idle],
            ),
            (
                Act::Reboot,
                [nothing, nothing, Ok(Running), Ok(Running), nothing],
            ),
            (
                Act::Pause,
                [idle, idle, Ok(Paused), no(Refusal::AlreadyPaused), idle],
            ),
            (
                Act::Resume,
                [idle, idle, no(Refusal::NotPaused), Ok(Running), idle],
            ),
            (
                Act::Snapshot,
                [idle, idle, no(Refusal::NotPaused), Ok(Paused), idle],
            ),
            (Act::Fork, [idle, idle, Ok(Running), Ok(Paused), idle]),
            (Act::Restore, [Ok(Paused), there, there, there, there]),
            (Act::Use, [idle, idle, Ok(Running), Ok(Paused), idle]),
            (
                Act::Configure,
                [absent, Ok(Created), Ok(Running), Ok(Paused), Ok(ShutDown)],
            ),
        ];
        assert_eq!(table.len(), Act::ALL.len());
        for (act, outcomes) in table {
            for (state, outcome) in State::ALL.iter().zip(outcomes) {
                assert_eq!(after(*state, *act), *outcome, "{act:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_machine_that_was_shut_down_is_shown_as_one_that_can_be_booted() {
        let names: Vec<&str> = State::ALL.iter().map(|state| state.name()).collect();
        assert_eq!(
            names,
            ["Created", "Created", "Running", "Paused", "Created"]
        );
    }
}
