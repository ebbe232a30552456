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
use crate::{Answer, Error, Reply, Result, descriptors, inspect, prepare, syscalls};

mod memory;

pub(crate) use self::memory::SharedMemory;
use self::memory::{Given, Plan};

/// The most children that one request makes.
const MOST_CHILDREN: usize = 256;
/// How long all children together may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How children get the parent's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForkMemory {
    /// It is frozen, and parent and children go on in private copies of the pages that they write. Only for memory with
    /// shared=on. A parent that was forked before, or is a child itself, runs while what it wrote since is copied.
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
    /// Microseconds for which the parent stood still, the longest time without a break; 0 if it was paused.
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

/// Children whose parent goes on already.
pub(crate) struct Children {
    receivers: Vec<(Receiver, VmConfig)>,
    state: MachineState,
    memory: Given,
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
    let taken = machine.take(plan, &|machine| machine.save(number, features))?;
    let memory_mode = match plan {
        Plan::Copy => ForkMemory::Copied,
        _ => ForkMemory::Frozen,
    };
    Ok(Children {
        receivers: receivers.into_iter().zip(configs).collect(),
        state: taken.state,
        memory: taken.memory,
        resume: wish.resume,
        forked: Forked {
            memory_mode,
            pause_us: u64::try_from(taken.pause.as_micros()).unwrap_or(u64::MAX),
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
        let bytes = self.memory.base.metadata();
        let bytes = bytes.map_err(Error::hand_over)?.len();
        let index = self.memory.index().map_err(Error::hand_over)?;
        let (mut waiting, mut failures) = (Vec::with_capacity(count), Vec::new());
        for (mut receiver, config) in self.receivers {
            let texts = Texts::of(&config, &self.state, bytes);
            let texts = texts.map_err(|error| Error::hand_over(error.into()))?;
            match send(
                &mut receiver,
                &texts,
                &self.memory,
                index.as_ref(),
                self.resume,
            ) {
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
    texts: &Texts,
    memory: &Given,
    index: Option<&File>,
    resume: bool,
) -> Result<()> {
    let config = sealed("fork_config", &texts.config).map_err(Error::hand_over)?;
    let state = sealed("fork_state", &texts.state).map_err(Error::hand_over)?;
    let body = format!("{{\"resume\":{resume}}}");
    let mut parts = vec![config.as_fd(), state.as_fd(), memory.base.as_fd()];
    parts.extend(index.map(AsFd::as_fd));
    parts.extend(memory.layers.iter().map(|layer| layer.file.as_fd()));
    Ok(receiver.send(&body, &parts)?)
}

#[cfg(test)]
mod tests;
