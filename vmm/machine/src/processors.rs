//! The threads that run the guest.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use config::{CoreScheduling, CpusConfig};
use device::{Board, Power, PowerEvent};
use hypervisor::{Exit, Kicker, Vcpu};
use sandbox::Filter;

use crate::{Error, Result};

/// What a processor's thread needs to know.
struct Shared {
    board: Arc<Board>,
    power: Power,
    stop: AtomicBool,
    kickers: Mutex<Vec<Kicker>>,
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
            stop: AtomicBool::new(false),
            kickers: Mutex::new(Vec::with_capacity(vcpus.len())),
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
        Ok(processors)
    }

    fn spawn(
        &self,
        index: u32,
        vcpu: Box<dyn Vcpu>,
        rules: &Rules<'_>,
        answers: Sender<Answer>,
    ) -> Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        let filter = rules.filter.clone();
        let alone = rules.cpus.core_scheduling == CoreScheduling::Vcpu;
        let cpus = rules.host_cpus(index);
        std::thread::Builder::new()
            .name(thread_name(index))
            .spawn(move || {
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
        let kicker = vcpu.kicker();
        lock(&self.kickers).push(kicker);
        // Stopping sets the flag first and kicks then, so that whoever registers too late for the kick sees
        // the flag.
        while !self.stop.load(Ordering::Acquire) {
            match vcpu.run() {
                Ok(exit) => {
                    if let Some(why) = self.handle(exit) {
                        (self.failed)(index, why);
                        return;
                    }
                }
                Err(error) => {
                    (self.failed)(index, telemetry::chain(&error).join(": "));
                    return;
                }
            }
        }
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
            // A processor that shuts down takes the machine with it, as on a board whose chipset resets on
            // the shutdown cycle. Its thread waits to be stopped.
            Exit::Shutdown => {
                telemetry::warn!("triple fault: the machine resets");
                self.power.request(PowerEvent::Reset);
                self.wait_for_stop();
            }
            Exit::Interrupted | Exit::Halted => {}
            Exit::Debug { address } => {
                let mut why = String::from("a breakpoint without a debugger");
                let _ = write!(why, " at {address:#x}");
                return Some(why);
            }
            Exit::Failed(why) => return Some(why.into()),
        }
        None
    }

    fn wait_for_stop(&self) {
        while !self.stop.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for kicker in lock(&self.shared.kickers).iter() {
            kicker.kick();
        }
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A panic of the thread aborts the process, so that there is nothing to learn here.
            let _ = thread.join();
        }
    }
}
