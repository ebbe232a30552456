//! Makes further machines of one that goes on.
//!
//! ```text
//!  driver thread: connect to the children's monitors, [pause], save, freeze memory, [resume]
//!  thread "fork": send each child configuration, state and memory; wait for all; answer
//! ```
//!
//! The children are made in monitors that others have started. The monitor cannot start any: it may run no program,
//! and a process that it made would inherit its filter of system calls.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arch::CpuidEntry;
use config::{Problem, VmConfig};
use sandbox::Filter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use snapshot::Texts;
use snapshot::handover::{Receiver, sealed};
use telemetry::event;

use crate::build::Machine;
use crate::state::MachineState;
use crate::{Answer, Error, MemorySource, Reply, Result, descriptors, inspect, prepare, syscalls};

/// The most children that one request makes.
const MOST_CHILDREN: usize = 256;
/// How long all children together may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How children get the parent's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForkMemory {
    /// It is frozen, and parent and children go on in private copies of the pages that they write. Nothing is copied
    /// while the parent stands still. Only for memory with shared=on.
    Frozen,
    /// All of it that was touched is copied while the parent stands still.
    Copied,
}

/// Children to make of a machine that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// Who takes them: from 1 to 256.
    pub children: Vec<ForkChild>,
    /// How they get memory. Without: frozen, and refused where that is not possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mode: Option<ForkMemory>,
    /// Let the children run at once.
    #[serde(default)]
    pub resume: bool,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkChild {
    /// API socket of a monitor that has no VM.
    pub api_socket: PathBuf,
    /// What is other than in the parent's devices, by their ids: members of the device's configuration, null for
    /// those that it is not to have.
    #[serde(default)]
    #[schemars(default)]
    pub devices: Map<String, Value>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Forked {
    /// How the children got memory.
    pub memory_mode: ForkMemory,
    /// Microseconds for which the parent stood still; 0 if it was paused.
    pub pause_us: u64,
}

impl Fork {
    /// The configurations of the children, each checked as that of any machine.
    fn configs(&self, parent: &VmConfig) -> Result<Vec<VmConfig>> {
        if !(1..=MOST_CHILDREN).contains(&self.children.len()) {
            let text = format!("there can be 1 to {MOST_CHILDREN} in one request");
            return Err(Problem::new("children", text).into());
        }
        let mut taken = Taken::default();
        taken.add(parent, "the parent")?;
        let mut sockets = HashSet::with_capacity(self.children.len());
        let mut configs = Vec::with_capacity(self.children.len());
        for child in &self.children {
            let config = child.config(parent)?;
            prepare::check(&config)?;
            descriptors::refuse(&config)?;
            if !sockets.insert(&child.api_socket) {
                let text = format!("{} is there twice", child.api_socket.display());
                return Err(Problem::new("children.api_socket", text).into());
            }
            taken.add(&config, &child.name())?;
            configs.push(config);
        }
        Ok(configs)
    }
}

impl ForkChild {
    fn name(&self) -> String {
        format!("the child at {}", self.api_socket.display())
    }

    fn config(&self, parent: &VmConfig) -> Result<VmConfig> {
        let mut config = parent.clone();
        for (id, members) in &self.devices {
            let problem = |text: String| Problem::new("children.devices", text);
            let device = catalog::config_of(&mut config.devices, id).and_then(Value::as_object_mut);
            let device = device.ok_or_else(|| Error::NoDevice(id.clone()))?;
            let members = members
                .as_object()
                .ok_or_else(|| problem(format!("what {id} is to have are members of an object")))?;
            for (name, value) in members {
                if name == "id" {
                    return Err(problem(format!("{id} cannot have another id")).into());
                }
                if value.is_null() {
                    device.shift_remove(name);
                } else {
                    device.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(config)
    }
}

/// What of the host machines have that no other one can have, and who has it.
#[derive(Default)]
struct Taken(HashMap<String, String>);

impl Taken {
    fn add(&mut self, config: &VmConfig, who: &str) -> Result<()> {
        for planned in catalog::plan(&config.devices) {
            for thing in planned.kind.exclusive(planned.config)? {
                let id = &planned.id;
                let before = self.0.insert(thing.clone(), who.to_owned());
                let Some(before) = before.filter(|before| before != who) else {
                    continue;
                };
                let text = format!(
                    "device {id} of {who} would have {thing}, which {before} has and writes to: give the child another \
                     by devices={{\"{id}\": {{...}}}}, or boot the parent with a device that only reads it (for a disk: \
                     readonly=on)"
                );
                return Err(Problem::new("children", text).into());
            }
        }
        Ok(())
    }
}

/// Where the children's memory comes from.
enum Plan {
    /// Memory was frozen before, and nobody has written to it since.
    Again(Arc<File>),
    Freeze,
    Copy,
}

impl Machine {
    fn plan_memory(&self, wish: Option<ForkMemory>, config: &VmConfig) -> Result<Plan> {
        let refused = |text: &str| Err(Problem::new("memory_mode", text).into());
        if config.memory.hugepages {
            return refused("memory with hugepages=on cannot be forked: use small pages");
        }
        if wish == Some(ForkMemory::Copied) {
            return Ok(Plan::Copy);
        }
        let frozen = self.ram.frozen_file();
        match frozen.filter(|_| !self.memory_used) {
            Some(file) => Ok(Plan::Again(file)),
            None if self.ram.can_freeze() => Ok(Plan::Freeze),
            None if config.memory.shared => refused(
                "the VM was forked and has run since, so that its memory is its own: Copied copies it while the VM \
                 stands still; a VM that stays paused can be forked any number of times",
            ),
            None => refused(
                "the VM has private memory: boot it with --memory shared=on, or give Copied, which copies its memory \
                 while it stands still",
            ),
        }
    }

    /// Takes its state and memory. Only while it is paused.
    fn divide(
        &mut self,
        plan: &Plan,
        number: u64,
        features: &[CpuidEntry],
    ) -> Result<(MachineState, Arc<File>)> {
        let state = self.save(number, features)?;
        let memory = match plan {
            Plan::Again(file) => Arc::clone(file),
            Plan::Freeze => {
                let file = self.ram.freeze()?;
                self.restored = Some(MemorySource::Forked);
                self.memory_used = false;
                file
            }
            Plan::Copy => self.ram.copy_to_memory()?,
        };
        Ok((state, memory))
    }
}

/// Children whose parent goes on already.
pub(crate) struct Children {
    receivers: Vec<(Receiver, VmConfig)>,
    state: MachineState,
    memory: Arc<File>,
    resume: bool,
    forked: Forked,
}

/// Divides a machine that runs or is paused. It is afterwards what it was before; if it cannot go on, it is paused.
pub(crate) fn divide(
    wish: &Fork,
    config: &VmConfig,
    machine: &mut Machine,
    number: u64,
    features: &[CpuidEntry],
) -> Result<Children> {
    let plan = machine.plan_memory(wish.memory_mode, config)?;
    let shown = inspect::info(config, Some(machine), "Paused").config;
    let configs = wish.configs(&shown)?;
    let sockets = wish.children.iter().map(|child| &child.api_socket);
    let receivers = sockets.map(|path| Ok(Receiver::connect(path)?));
    let receivers: Vec<Receiver> = receivers.collect::<Result<_>>()?;
    machine.wait_for_memory()?;
    let runs = !machine.is_paused();
    if runs && matches!(plan, Plan::Freeze) {
        machine.ram.prepare_freeze()?;
    }
    let begin = Instant::now();
    if runs {
        machine.pause()?;
    }
    let paused = begin.elapsed();
    let taken = machine.divide(&plan, number, features);
    let divided = begin.elapsed();
    if runs {
        machine.resume()?;
    }
    let pause = if runs {
        begin.elapsed()
    } else {
        Duration::ZERO
    };
    let (state, memory) = taken?;
    telemetry::info!(
        "the VM was forked and stood still for {} us: {} to pause, {} to save, {} to go on",
        pause.as_micros(),
        paused.as_micros(),
        (divided - paused).as_micros(),
        pause.saturating_sub(divided).as_micros(),
    );
    let copied = matches!(plan, Plan::Copy);
    let memory_mode = if copied {
        ForkMemory::Copied
    } else {
        ForkMemory::Frozen
    };
    Ok(Children {
        receivers: receivers.into_iter().zip(configs).collect(),
        state,
        memory,
        resume: wish.resume,
        forked: Forked {
            memory_mode,
            pause_us: u64::try_from(pause.as_micros()).unwrap_or(u64::MAX),
        },
    })
}

impl Children {
    const THREAD: &str = "fork";

    /// Hands them over on a thread of its own, and answers when all are there.
    pub(crate) fn hand_over(self, seccomp: sandbox::Mode, reply: Reply) {
        let (sender, work) = channel::<(Self, Reply)>();
        let started = Filter::compile(seccomp, &syscalls::fork())
            .map_err(Error::confine(Self::THREAD))
            .and_then(|filter| {
                let run = move || {
                    let Ok((children, reply)) = work.recv() else {
                        return;
                    };
                    let confined = filter.apply().map_err(Error::confine(Self::THREAD));
                    reply.send(confined.and_then(|()| children.deliver()));
                };
                let thread = std::thread::Builder::new().name(Self::THREAD.into());
                thread.spawn(run).map_err(Error::thread(Self::THREAD))
            });
        match started {
            // Who cannot be sent to answers when it is dropped.
            Ok(_) => drop(sender.send((self, reply))),
            Err(error) => reply.send(Err(error)),
        }
    }

    /// All are sent before the first is waited for, so that they come to life at the same time.
    fn deliver(self) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        let count = self.receivers.len();
        let (state, memory, resume) = (&self.state, &self.memory, self.resume);
        let bytes = memory.metadata().map_err(Error::hand_over)?.len();
        let (mut waiting, mut failures) = (Vec::with_capacity(count), Vec::new());
        for (mut receiver, config) in self.receivers {
            match send(&mut receiver, &config, state, memory, bytes, resume) {
                Ok(()) => waiting.push(receiver),
                Err(error) => failures.push(telemetry::chain(&error).join(": ")),
            }
        }
        for receiver in waiting {
            if let Err(error) = receiver.wait(deadline) {
                failures.push(telemetry::chain(&error).join(": "));
            }
        }
        event!("vm", "forked");
        if failures.is_empty() {
            return Ok(Answer::Forked(self.forked));
        }
        Err(Error::Children {
            failed: failures.len(),
            count,
            why: failures.join("; "),
        })
    }
}

fn send(
    receiver: &mut Receiver,
    config: &VmConfig,
    state: &MachineState,
    memory: &File,
    bytes: u64,
    resume: bool,
) -> Result<()> {
    let texts = Texts::of(config, state, bytes).map_err(|error| Error::hand_over(error.into()))?;
    let config = sealed("fork_config", &texts.config).map_err(Error::hand_over)?;
    let state = sealed("fork_state", &texts.state).map_err(Error::hand_over)?;
    let body = format!("{{\"resume\":{resume}}}");
    Ok(receiver.send(&body, [config.as_fd(), state.as_fd(), memory.as_fd()])?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parent() -> VmConfig {
        let mut config = VmConfig::default();
        config.payload = Some(config::PayloadConfig {
            kernel: Some("/k".into()),
            ..Default::default()
        });
        let disks = json!([
            {"path": "/d", "id": "d"},
            {"path": "/r", "id": "r", "readonly": true},
        ]);
        config.devices.insert("disks".into(), disks);
        config
            .devices
            .insert("vsock".into(), json!({"cid": 3, "socket": "/v", "id": "v"}));
        config
            .devices
            .insert("net".into(), json!([{"tap": "t", "id": "n"}]));
        prepare::settle(&mut config);
        config
    }

    fn configs(children: &Value) -> Result<Vec<VmConfig>> {
        let wish: Fork = serde_json::from_value(json!({"children": children})).unwrap();
        wish.configs(&parent())
    }

    fn own(number: u32) -> Value {
        json!({
            "api_socket": format!("/s{number}"),
            "devices": {
                "d": {"path": format!("/d{number}")},
                "v": {"socket": format!("/v{number}")},
                "n": {"tap": format!("t{number}"), "mac": "2e:00:00:00:00:01"},
            },
        })
    }

    #[test]
    fn children_have_what_they_are_given_and_share_what_is_only_read() {
        let configs = configs(&json!([own(1), own(2)])).unwrap();
        let disks = &configs[1].devices["disks"];
        assert_eq!(
            (&disks[0]["path"], &disks[1]["path"]),
            (&json!("/d2"), &json!("/r"))
        );
        assert_eq!(configs[0].devices["net"][0]["mac"], "2e:00:00:00:00:01");
    }

    #[test]
    fn what_two_cannot_have_is_refused_by_its_device() {
        let without = |id: &str| {
            let mut child = own(1);
            child["devices"].as_object_mut().unwrap().remove(id);
            configs(&json!([child])).unwrap_err().to_string()
        };
        for (id, thing) in [("d", "/d,"), ("v", "/v,"), ("n", "tap t,")] {
            let error = without(id);
            assert!(error.contains(&format!("device {id} of")), "{error}");
            assert!(
                error.contains(thing) && error.contains("the parent"),
                "{error}"
            );
        }
        let mut other = own(1);
        other["api_socket"] = json!("/s2");
        let twice = configs(&json!([own(1), other])).unwrap_err().to_string();
        assert!(twice.contains("which the child at /s1 has"), "{twice}");
    }

    #[test]
    fn wishes_that_mean_nothing_are_refused() {
        for children in [
            json!([]),
            json!([own(1), own(1)]),
            json!([{
                "api_socket": "/s",
                "devices": {
                    "d": {"path": "/d1"},
                    "v": {"socket": "/v1"},
                    "n": {"tap": null, "fds": [3]},
                },
            }]),
            json!([{"api_socket": "/s", "devices": {"x": {}}}]),
            json!([{"api_socket": "/s", "devices": {"d": "/d1"}}]),
            json!([{"api_socket": "/s", "devices": {"d": {"id": "e"}}}]),
            json!([{"api_socket": "/s", "devices": {"d": {"pth": "/d1"}}}]),
        ] {
            assert!(configs(&children).is_err(), "{children}");
        }
    }
}
