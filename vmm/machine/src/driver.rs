//! The thread that owns the machine.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use config::{CoreScheduling, VmConfig};
use device::{Power, PowerEvent};
use hypervisor::Hypervisor;
use sandbox::Filter;
use telemetry::event;

use crate::build::{Legacy, Machine, Reports};
use crate::features::Features;
use crate::{Error, Result, syscalls};

/// How the monitor itself behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What happens on a system call that no part of the monitor declared.
    pub seccomp: sandbox::Mode,
    /// Keep the monitor when the guest powers off.
    pub stay_after_power_off: bool,
}

/// Something that the owner of the machine must act on.
enum Request {
    /// From the guest, through a device of the machine with this number. Requests of a machine that is no more
    /// are void.
    Power { machine: u64, event: PowerEvent },
    /// A device of the machine with this number wants to be attended to.
    Attend { machine: u64, id: String },
    /// A processor of the machine with this number cannot go on.
    Failed {
        machine: u64,
        index: u32,
        why: String,
    },
    /// End the monitor.
    Stop,
}

/// Reaches the driver from other threads.
#[derive(Clone, Debug)]
pub struct Remote(Sender<Request>);

impl Remote {
    /// Ends the machine and the monitor.
    pub fn stop(&self) {
        // If nobody listens any more the driver has ended already, which is what is asked for.
        let _ = self.0.send(Request::Stop);
    }
}

/// Owns the machine on a thread of its own, named `vmm`.
pub struct Driver {
    thread: JoinHandle<Result<()>>,
    remote: Remote,
}

impl Driver {
    const THREAD: &str = "vmm";

    /// Starts the thread and, on it, the machine.
    ///
    /// # Errors
    /// If the thread cannot be started. What keeps the machine from running comes from [`Driver::join`].
    pub fn start(
        config: VmConfig,
        hypervisor: Arc<dyn Hypervisor>,
        options: Options,
    ) -> Result<Self> {
        let (sender, requests) = channel();
        let remote = Remote(sender);
        let features = Arc::new(Features::new(Arc::clone(&hypervisor)));
        let owner = Owner {
            features: Arc::clone(&features),
            config,
            hypervisor,
            options,
            remote: remote.clone(),
            built: 0,
        };
        let thread = std::thread::Builder::new()
            .name(Self::THREAD.into())
            .spawn(move || owner.run(&requests))
            .map_err(Error::thread(Self::THREAD))?;
        // This thread has nothing else to do. If it fails, the driver will ask again and say why.
        let _ = features.get();
        Ok(Self { thread, remote })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Waits for the end of the machine.
    ///
    /// # Errors
    /// What made it end, if that was not the guest's or the user's wish.
    pub fn join(self) -> Result<()> {
        self.thread
            .join()
            .map_err(|_| Error::Panicked(Self::THREAD.into()))?
    }
}

struct Owner {
    features: Arc<Features>,
    config: VmConfig,
    hypervisor: Arc<dyn Hypervisor>,
    options: Options,
    remote: Remote,
    /// Machines built so far: the number of the current one.
    built: u64,
}

impl Owner {
    fn run(mut self, requests: &Receiver<Request>) -> Result<()> {
        self.confine()?;
        event!("vm", "booting");
        let mut machine = Some(self.build(Legacy::default())?);
        event!("vm", "booted");
        while let Ok(request) = requests.recv() {
            match request {
                Request::Power {
                    machine: number, ..
                }
                | Request::Attend {
                    machine: number, ..
                }
                | Request::Failed {
                    machine: number, ..
                } if number != self.built => {}
                Request::Power {
                    event: PowerEvent::Reset,
                    ..
                } => {
                    event!("vm", "rebooting");
                    let legacy = machine.take().map(Machine::leave).unwrap_or_default();
                    machine = Some(self.build(legacy)?);
                    event!("vm", "rebooted");
                }
                Request::Power {
                    event: PowerEvent::Off,
                    ..
                } => {
                    drop(machine.take());
                    event!("vm", "shutdown");
                    if !self.options.stay_after_power_off {
                        break;
                    }
                }
                Request::Attend { id, .. } => {
                    if let Some(machine) = &mut machine {
                        machine.attend(&id);
                    }
                }
                Request::Failed { index, why, .. } => {
                    return Err(Error::ProcessorFailed { index, why });
                }
                Request::Stop => {
                    drop(machine.take());
                    break;
                }
            }
        }
        event!("vmm", "shutdown");
        Ok(())
    }

    /// The thread's own rules; the threads that it starts later inherit them and add their own.
    fn confine(&self) -> Result<()> {
        let name = Driver::THREAD;
        if self.config.cpus.core_scheduling == CoreScheduling::Vm {
            // All threads of the machine inherit this one's cookie.
            match sandbox::core_scheduling(sandbox::CoreScope::CreateThread) {
                Err(sandbox::Error::CoreSchedulingUnavailable) => {
                    telemetry::info!(
                        "the host's kernel has no core scheduling: core_scheduling=vm has no effect"
                    );
                }
                other => other.map_err(Error::confine(name))?,
            }
        }
        let filter = Filter::compile(self.options.seccomp, &syscalls::driver())
            .map_err(Error::confine(name))?;
        filter.apply().map_err(Error::confine(name))
    }

    fn build(&mut self, mut legacy: Legacy) -> Result<Machine> {
        self.built += 1;
        let number = self.built;
        let power = {
            let requests = self.remote.0.clone();
            Power::new(move |event| {
                let _ = requests.send(Request::Power {
                    machine: number,
                    event,
                });
            })
        };
        let requests = self.remote.0.clone();
        let attention = Box::new(move |id: &str| {
            let _ = requests.send(Request::Attend {
                machine: number,
                id: id.to_owned(),
            });
        });
        let requests = self.remote.0.clone();
        let failed = Box::new(move |index, why| {
            let _ = requests.send(Request::Failed {
                machine: number,
                index,
                why,
            });
        });
        Machine::build(
            &self.config,
            &*self.hypervisor,
            &self.features,
            self.options.seccomp,
            Reports {
                power,
                attention,
                failed,
            },
            &mut legacy,
        )
    }
}
