//! The threads that run the guest.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
            failed: Box::new(failed),
        });
        let mut processors = Self {
            shared,
            threads: Vec::with_capacity(vcpus.len()),
        };
        for (index, vcpu) in (0u32..).zip(vcpus) {
            let thread = processors.spawn(index, vcpu, rules)?;
            processors.threads.push(thread);
        }
        Ok(processors)
    }

    fn spawn(&self, index: u32, vcpu: Box<dyn Vcpu>, rules: &Rules<'_>) -> Result<JoinHandle<()>> {
        let name = format!("vcpu{index}");
        let shared = Arc::clone(&self.shared);
        let filter = rules.filter.clone();
        let alone = rules.cpus.core_scheduling == CoreScheduling::Vcpu;
        let cpus = rules
            .cpus
            .affinity
            .iter()
            .flatten()
            .find(|entry| entry.vcpu == index)
            .map(|entry| entry.host_cpus.clone());
        std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let prepared = prepare(&filter, alone, cpus.as_deref());
                match prepared {
                    Ok(()) => shared.run(index, vcpu),
                    Err(error) => (shared.failed)(index, telemetry::chain(&error).join(": ")),
                }
            })
            .map_err(Error::thread(&name))
    }
}

fn prepare(
    filter: &Filter,
    alone: bool,
    cpus: Option<&[usize]>,
) -> std::result::Result<(), sandbox::Error> {
    if alone {
        sandbox::core_scheduling(sandbox::CoreScope::CreateThread)?;
    }
    if let Some(cpus) = cpus {
        sandbox::pin_current_thread(cpus)?;
    }
    filter.apply()
}

impl Shared {
    fn run(&self, index: u32, mut vcpu: Box<dyn Vcpu>) {
        let kicker = vcpu.kicker();
        self.kickers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(kicker);
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
        for kicker in self
            .shared
            .kickers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            kicker.kick();
        }
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A panic of the thread aborts the process, so that there is nothing to learn here.
            let _ = thread.join();
        }
    }
}
