//! What children get of their parent's memory.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{Problem, VmConfig};
use memory::{Draft, GuestRam, Layer, Watch};
use snapshot::handover::sealed;

use super::ForkMemory;
use crate::build::Machine;
use crate::state::MachineState;
use crate::{Error, MemorySource, Result};

/// Most layers that lie above each other. Another one has what all of them have, and replaces them.
const MOST_LAYERS: usize = 8;
/// The same if they have more parts than this: each is a mapping of the host for each child.
const MOST_PARTS: usize = 4096;
/// What is copied while the guest stands still, in bytes: about half a millisecond's work.
const AT_ONCE: u64 = 1 << 20;
/// How often the guest stands still before all is copied that is left.
const MOST_LOOKS: u32 = 5;

/// Memory that several machines have as long as they do not write to it.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    /// All of RAM.
    base: Arc<File>,
    /// What was written before later forks, the first one first.
    layers: Vec<Layer>,
    /// Knows what was written since the last layer.
    watch: Option<Watch>,
}

/// What one child gets.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) base: Arc<File>,
    pub(super) layers: Vec<Layer>,
}

impl Given {
    /// Says which parts of memory are in layers, if there are any.
    pub(super) fn index(&self) -> io::Result<Option<File>> {
        if self.layers.is_empty() {
            return Ok(None);
        }
        let layers = self.layers.iter().map(|layer| {
            let parts = layer.parts.iter().map(|part| (part.start, part.end));
            parts.collect::<Vec<_>>()
        });
        let text = serde_json::to_vec(&layers.collect::<Vec<_>>())?;
        sealed("fork_layers", &text).map(Some)
    }
}

impl SharedMemory {
    pub(crate) fn new(base: Arc<File>, layers: Vec<Layer>) -> Self {
        Self {
            base,
            layers,
            watch: None,
        }
    }

    fn given(&self) -> Given {
        Given {
            base: Arc::clone(&self.base),
            layers: self.layers.clone(),
        }
    }

    /// Begins another layer, or one that replaces all.
    fn begin(&mut self, ram: &GuestRam) -> Result<Next> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(Watch::new(ram)?),
        };
        watch.look()?;
        let parts: usize = self.layers.iter().map(|layer| layer.parts.len()).sum();
        let replaces = self.layers.len() >= MOST_LAYERS || parts > MOST_PARTS;
        if replaces {
            watch.find_all()?;
        }
        Ok(Next {
            draft: watch.draft()?,
            replaces,
        })
    }

    fn watch(&mut self) -> Result<&mut Watch> {
        self.watch.as_mut().ok_or(Error::Ending)
    }

    fn add(&mut self, next: Next) -> Result<()> {
        let layer = self.watch()?.finish(next.draft)?;
        if next.replaces {
            self.layers.clear();
        }
        if !layer.parts.is_empty() {
            self.layers.push(layer);
        }
        Ok(())
    }

    fn give_up(&mut self, next: Next) {
        if let Some(watch) = &mut self.watch {
            watch.take_back(next.draft);
        }
    }
}

/// A layer that is being made.
struct Next {
    draft: Draft,
    /// It has what all layers before it have.
    replaces: bool,
}

/// Where the children's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// All of it is shared, and nobody has written to it since.
    Again,
    Freeze,
    /// What was written since it was shared last is copied, most of it while the guest runs.
    Layer,
    Copy,
}

/// What was taken of a machine, and how long it stood still for that.
pub(super) struct Taken {
    pub(super) state: MachineState,
    pub(super) memory: Given,
    /// The longest time without a break.
    pub(super) pause: Duration,
}

impl Machine {
    pub(super) fn plan_memory(&self, wish: Option<ForkMemory>, config: &VmConfig) -> Result<Plan> {
        let refused = |text: &str| Err(Problem::new("memory_mode", text).into());
        if config.memory.hugepages {
            return refused("memory with hugepages=on cannot be forked: use small pages");
        }
        if wish == Some(ForkMemory::Copied) {
            return Ok(Plan::Copy);
        }
        match &self.shared {
            Some(_) if !self.memory_used => Ok(Plan::Again),
            Some(_) => Ok(Plan::Layer),
            None if self.ram.can_freeze() => Ok(Plan::Freeze),
            None => refused(
                "the VM has private memory: boot it with --memory shared=on, or give Copied, which copies its memory \
                 while it stands still",
            ),
        }
    }

    /// Takes its state and memory. It is afterwards what it was before; if it cannot go on, it is paused.
    pub(super) fn take(
        &mut self,
        plan: Plan,
        save: &impl Fn(&Self) -> Result<MachineState>,
    ) -> Result<Taken> {
        if plan == Plan::Layer {
            return self.take_layer(save);
        }
        if plan == Plan::Freeze && !self.is_paused() {
            self.ram.prepare_freeze()?;
        }
        let mut taken = None;
        let pause = self.stand_still(&mut |machine| {
            let state = save(machine)?;
            taken = Some((state, machine.memory_now(plan)?));
            Ok(())
        })?;
        let (state, memory) = taken.ok_or(Error::Ending)?;
        Ok(Taken {
            state,
            memory,
            pause,
        })
    }

    /// Does something while the machine stands still; for how long it did.
    fn stand_still(&mut self, act: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<Duration> {
        if self.is_paused() {
            act(self)?;
            return Ok(Duration::ZERO);
        }
        let begin = Instant::now();
        self.pause()?;
        let paused = begin.elapsed();
        let done = act(self);
        let acted = begin.elapsed();
        self.resume()?;
        let pause = begin.elapsed();
        done?;
        telemetry::info!(
            "the VM stood still for {} us for a fork: {} to pause, {} to take what is needed, {} to go on",
            pause.as_micros(),
            paused.as_micros(),
            (acted - paused).as_micros(),
            (pause - acted).as_micros(),
        );
        Ok(pause)
    }

    fn memory_now(&mut self, plan: Plan) -> Result<Given> {
        if plan == Plan::Freeze {
            self.shared = Some(SharedMemory::new(self.ram.freeze()?, Vec::new()));
            self.restored = Some(MemorySource::Forked);
            self.memory_used = false;
        }
        match &self.shared {
            Some(shared) if plan != Plan::Copy => Ok(shared.given()),
            _ => Ok(Given {
                base: self.ram.copy_to_memory()?,
                layers: Vec::new(),
            }),
        }
    }

    /// The way of a machine whose memory is shared already: what was written since goes to a layer.
    ///
    /// Only what is seen while no transfer of a device is under way is sure: they write to memory that was looked at
    /// before. So nothing is copied before the guest has stood still once, for the look; it stands still again for what
    /// was written meanwhile.
    fn take_layer(&mut self, save: &impl Fn(&Self) -> Result<MachineState>) -> Result<Taken> {
        let mut shared = self.shared.take().ok_or(Error::Ending)?;
        let begin = Instant::now();
        let mut next = match shared.begin(&self.ram) {
            Ok(next) => next,
            Err(error) => {
                self.shared = Some(shared);
                return Err(error);
            }
        };
        let (begun, paused) = (begin.elapsed(), self.is_paused());
        let (mut state, mut pause, mut looks, mut early, mut late) =
            (None, Duration::ZERO, 0, 0, 0);
        let mut run = |machine: &mut Self, shared: &mut SharedMemory| -> Result<()> {
            while state.is_none() {
                looks += 1;
                let stood = machine.stand_still(&mut |machine| {
                    let watch = shared.watch()?;
                    watch.look()?;
                    if paused || looks == MOST_LOOKS || watch.waiting() <= AT_ONCE {
                        state = Some(save(machine)?);
                        late = watch.copy_to(&mut next.draft)?;
                    }
                    Ok(())
                })?;
                pause = pause.max(stood);
                if state.is_none() {
                    early += shared.watch()?.copy_to(&mut next.draft)?;
                }
            }
            Ok(())
        };
        let done = run(self, &mut shared);
        let done = match done {
            Ok(()) => shared.add(next),
            Err(error) => {
                shared.give_up(next);
                Err(error)
            }
        };
        let memory = shared.given();
        self.shared = Some(shared);
        done?;
        // One that runs has used it again.
        self.memory_used &= !paused;
        telemetry::info!(
            "{} KiB that were written since the last fork were copied while the VM ran, {} KiB while it stood still, \
             {looks} times; the first look took {} us",
            early >> 10,
            late >> 10,
            begun.as_micros(),
        );
        Ok(Taken {
            state: state.ok_or(Error::Ending)?,
            memory,
            pause,
        })
    }
}
