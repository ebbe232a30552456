//! The threads that run the guest.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use config::{CoreScheduling, CpusConfig};
use device::{Board, Power, PowerEvent};
use hypervisor::{Exit, Trap, Vcpu, VcpuState};
use memory::GuestRam;
use sandbox::Filter;

use crate::{Error, Result};

mod control;
mod debugger;

use control::Control;
pub use debugger::{Debugger, News};

/// What a processor's thread needs to know.
struct Shared {
    board: Arc<Board>,
    power: Power,
    control: Control,
    debugger: Option<Arc<Debugger>>,
    /// Held while threads that may yet be refused their place are started: nobody runs before all have one.
    gate: Mutex<()>,
    failed: Box<dyn Fn(u32, String) + Send + Sync>,
}

/// The processors of a running machine. Dropping it stops them.
pub(crate) struct Processors {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How the threads are to run.
pub(crate) struct Rules<'a> {
    /// Affinity and core scheduling.
    pub(crate) cpus: &'a CpusConfig,
    /// System calls they may make.
    pub(crate) filter: Filter,
    /// They stand still until they are resumed.
    pub(crate) paused: bool,
    /// Who debugs the guest, and the guest's memory.
    pub(crate) debugger: Option<(Arc<Debugger>, GuestRam)>,
}

impl Processors {
    /// Starts a thread for each processor, in order. `failed` is told if one cannot go on.
    pub(crate) fn start(
        vcpus: Vec<Box<dyn Vcpu>>,
        board: Arc<Board>,
        power: Power,
        rules: &Rules<'_>,
        failed: impl Fn(u32, String) + Send + Sync + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            board,
            power,
            control: Control::new(vcpus.len(), rules.paused, rules.debugger.is_some()),
            debugger: rules
                .debugger
                .as_ref()
                .map(|(debugger, _)| Arc::clone(debugger)),
            gate: Mutex::new(()),
            failed: Box::new(failed),
        });
        let mut processors = Self {
            shared,
            threads: Vec::with_capacity(vcpus.len()),
        };
        // The host's scheduler can refuse what the user asks of it. Usually nobody asks, and nobody waits.
        let shared = Arc::clone(&processors.shared);
        let gate = rules.ask_the_scheduler().then(|| lock(&shared.gate));
        let (sender, answers) = channel();
        for (index, vcpu) in (0u32..).zip(vcpus) {
            let thread = processors.spawn(index, vcpu, rules, sender.clone())?;
            processors.threads.push(thread);
        }
        drop(sender);
        if gate.is_some() {
            for (index, answer) in answers {
                answer.map_err(Error::confine(&thread_name(index)))?;
            }
        }
        drop(gate);
        if let Some((debugger, ram)) = &rules.debugger {
            debugger.attach(&processors.shared, ram);
        }
        Ok(processors)
    }

    /// Stops all processors where they are. When this returns none of them runs, and nothing that the guest asked
    /// of a device is half done.
    ///
    /// # Errors
    /// [`Error::Stuck`] if one of them does not come back from what it does; then all go on.
    pub(crate) fn pause(&self) -> Result<()> {
        self.shared.control.pause()
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.shared.control.resume();
    }

    /// Injects a non-maskable interrupt into each of them.
    ///
    /// # Errors
    /// If the hypervisor refuses, or [`Error::Stuck`].
    pub(crate) fn nmi(&self) -> Result<()> {
        let answers = self.shared.control.on_each(|vcpu| vcpu.inject_nmi())?;
        for answer in answers {
            answer?;
        }
        Ok(())
    }

    /// All that makes them up, in order. Only while they stand still.
    ///
    /// # Errors
    /// If the hypervisor refuses, or [`Error::Stuck`].
    pub(crate) fn save(&self) -> Result<Vec<VcpuState>> {
        let answers = self.shared.control.on_each(|vcpu| vcpu.save())?;
        Ok(answers.into_iter().collect::<hypervisor::Result<_>>()?)
    }

    fn spawn(
        &self,
        index: u32,
        vcpu: Box<dyn Vcpu>,
        rules: &Rules<'_>,
        answers: Sender<Answer>,
    ) -> Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        let here = Presence::new(&self.shared);
        let filter = rules.filter.clone();
        let alone = rules.cpus.core_scheduling == CoreScheduling::Vcpu;
        let cpus = rules.host_cpus(index);
        std::thread::Builder::new()
            .name(thread_name(index))
            .spawn(move || {
                let _here = here;
                let placed = place(alone, cpus.as_deref());
                let refused = placed.is_err();
                // Whoever asked for a place waits for the answer; with nothing asked there is none to hear.
                let _ = answers.send((index, placed));
                drop(answers);
                drop(lock(&shared.gate));
                if refused {
                    return;
                }
                match filter.apply() {
                    Ok(()) => shared.run(index, vcpu),
                    Err(error) => (shared.failed)(index, telemetry::chain(&error).join(": ")),
                }
            })
            .map_err(Error::thread(&thread_name(index)))
    }
}

/// A processor's thread, from before its start to its end.
struct Presence(Arc<Shared>);

impl Presence {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.control.arrive();
        Self(Arc::clone(shared))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.control.leave();
    }
}

/// What the host's scheduler said to one processor's thread.
type Answer = (u32, std::result::Result<(), sandbox::Error>);

fn thread_name(index: u32) -> String {
    format!("vcpu{index}")
}

impl Rules<'_> {
    /// Whether any thread wants more of the host's scheduler than to run.
    fn ask_the_scheduler(&self) -> bool {
        let pinned = self
            .cpus
            .affinity
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        pinned || self.cpus.core_scheduling == CoreScheduling::Vcpu
    }

    /// Host processors that this processor's thread is confined to.
    fn host_cpus(&self, index: u32) -> Option<Vec<usize>> {
        let mut list = self.cpus.affinity.iter().flatten();
        list.find(|entry| entry.vcpu == index)
            .map(|entry| entry.host_cpus.clone())
    }
}

/// Finds the calling thread its place among the host's processors.
fn place(alone: bool, cpus: Option<&[usize]>) -> std::result::Result<(), sandbox::Error> {
    if alone {
        sandbox::core_scheduling(sandbox::CoreScope::CreateThread)?;
    }
    if let Some(cpus) = cpus {
        sandbox::pin_current_thread(cpus)?;
    }
    Ok(())
}

/// Locks. Nothing that is locked here can be left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn run(&self, index: u32, mut vcpu: Box<dyn Vcpu>) {
        self.control.enter(vcpu.kicker());
        let mut rests = false;
        while self.control.attend(index, &mut *vcpu, rests) {
            match self.run_until_interrupted(index, &mut *vcpu) {
                Ok(Stopped::Interrupted) => {}
                Ok(Stopped::ForGood) => rests = true,
                Err(why) => return (self.failed)(index, why),
            }
        }
    }

    /// Runs the guest until the processor is kicked: then nothing of the guest's is half done. A kick is never
    /// lost, so that nobody has to look on the way whether somebody wants this thread to do something else.
    fn run_until_interrupted(
        &self,
        index: u32,
        vcpu: &mut dyn Vcpu,
    ) -> std::result::Result<Stopped, String> {
        loop {
            match vcpu.run() {
                Ok(Exit::Interrupted) => return Ok(Stopped::Interrupted),
                // A processor that shuts down takes the machine with it, as on a board whose chipset resets on
                // the shutdown cycle. Its thread waits to be stopped.
                Ok(Exit::Shutdown) => {
                    telemetry::warn!("triple fault: the machine resets");
                    self.power.request(PowerEvent::Reset);
                    return Ok(Stopped::ForGood);
                }
                Ok(Exit::Debug { address, trap }) => {
                    if self.trapped(index, address, trap, vcpu)? {
                        return Ok(Stopped::Interrupted);
                    }
                }
                Ok(exit) => {
                    if let Some(why) = self.handle(exit) {
                        return Err(why);
                    }
                }
                Err(error) => return Err(telemetry::chain(&error).join(": ")),
            }
        }
    }

    /// A trap. Whether the processor stops for it: others are the guest's own.
    fn trapped(
        &self,
        index: u32,
        address: u64,
        trap: Trap,
        vcpu: &mut dyn Vcpu,
    ) -> std::result::Result<bool, String> {
        let Some(debugger) = &self.debugger else {
            return Err(format!("a breakpoint without a debugger at {address:#x}"));
        };
        if debugger.wants(index, address, trap) {
            self.control.hold();
            debugger.tell(News::Trapped { index, trap });
            return Ok(true);
        }
        let passed = vcpu.pass_trap(trap);
        passed.map_err(|error| telemetry::chain(&error).join(": "))?;
        Ok(false)
    }

    /// Serves one exit. `Some` is the reason why the processor cannot go on.
    fn handle(&self, exit: Exit<'_>) -> Option<String> {
        match exit {
            Exit::PortWrite { port, width, data } => {
                for value in data.chunks(width) {
                    self.board.ports().write(port.into(), value);
                }
            }
            Exit::PortRead { port, width, data } => {
                for value in data.chunks_mut(width) {
                    self.board.ports().read(port.into(), value);
                }
            }
            Exit::MmioWrite { address, data } => {
                self.board.mmio().write(address, data);
            }
            Exit::MmioRead { address, data } => {
                self.board.mmio().read(address, data);
            }
            Exit::IoapicEoi(vector) => self.board.end_of_interrupt(vector),
            Exit::Interrupted | Exit::Halted | Exit::Shutdown | Exit::Debug { .. } => {}
            Exit::Failed(why) => return Some(why.into()),
        }
        None
    }
}

/// Why a processor came back from the guest.
enum Stopped {
    /// Somebody kicked it.
    Interrupted,
    /// It shut itself down, and does not go on.
    ForGood,
}

impl Drop for Processors {
    fn drop(&mut self) {
        if let Some(debugger) = &self.shared.debugger {
            debugger.detach();
        }
        self.shared.control.stop();
        for thread in self.threads.drain(..) {
            // A panic of the thread aborts the process, so that there is nothing to learn here.
            let _ = thread.join();
        }
    }
}
