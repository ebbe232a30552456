//! What the driver thread does: it serves requests, one at a time, and moves the machine through its life.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use config::{CoreScheduling, Problem, VmConfig};
use device::{Descriptors, Given, Power, PowerEvent};
use hypervisor::Hypervisor;
use sandbox::Filter;
use serde_json::Value;
use telemetry::{event, trace};

use crate::build::{self, Ground, Legacy, Machine, Reports};
use crate::change::NewDevice;
use crate::driver::{Driver, First, Options, Remote, Report, Request};
use crate::features::Features;
use crate::life::{self, Act, State};
use crate::restore::SavedMachine;
use crate::{
    Answer, Call, Error, Fork, Measures, Reply, Restore, Result, Snapshot, change, core_dump,
    descriptors, fork, prepare, syscalls,
};

/// The thread's belongings.
pub(crate) struct Owner {
    features: Arc<Features>,
    hypervisor: Arc<dyn Hypervisor>,
    options: Options,
    remote: Remote,
    /// Machines built so far: the number of the current one.
    built: u64,
    state: State,
    config: Option<VmConfig>,
    /// Devices that come while the machine runs are named from this number on.
    number: u64,
    machine: Option<Machine>,
    /// Open descriptors that devices of the configuration were given.
    given: Arc<Given>,
    /// What the guest asked for just before it was paused: it happens when it goes on.
    postponed: Option<PowerEvent>,
}

impl Owner {
    pub(crate) fn new(
        features: Arc<Features>,
        hypervisor: Arc<dyn Hypervisor>,
        options: Options,
        remote: Remote,
    ) -> Self {
        Self {
            features,
            hypervisor,
            options,
            remote,
            built: 0,
            state: State::Absent,
            config: None,
            number: 0,
            machine: None,
            given: Arc::default(),
            postponed: None,
        }
    }

    /// Serves requests until the monitor is to end.
    pub(crate) fn run(mut self, first: Option<First>, requests: &Receiver<Request>) -> Result<()> {
        let step = trace::step("confinement");
        let filter = Filter::compile(self.options.seccomp, &syscalls::driver())
            .map_err(Error::confine(Driver::THREAD))?;
        if let Some(First::Boot(config)) = &first {
            self.schedule_cores(config)?;
        }
        filter.apply().map_err(Error::confine(Driver::THREAD))?;
        step.end();
        match first {
            Some(First::Boot(config)) => {
                descriptors::adopt(&config, &self.given)?;
                self.config = Some(*config);
                self.state = State::Created;
                self.boot()?;
            }
            Some(First::Restore(wish)) => self.restore(&wish)?,
            None => {}
        }
        while let Ok(request) = requests.recv() {
            let go_on = match request {
                Request::Call(Call::StopMonitor, reply) => {
                    self.take_down();
                    reply.send(Ok(Answer::Done));
                    ControlFlow::Break(())
                }
                Request::Call(call, reply) => self.serve(call, reply)?,
                Request::Machine(number, _) if number != self.built => ControlFlow::Continue(()),
                Request::Machine(_, report) => self.hear(report)?,
                Request::Stop => ControlFlow::Break(()),
            };
            if go_on.is_break() {
                break;
            }
        }
        self.take_down();
        event!("vmm", "shutdown");
        Ok(())
    }

    /// Does what a user asks for. The error of the monitor's end is what a guest's postponed wish led to.
    fn serve(&mut self, call: Call, reply: Reply) -> Result<ControlFlow<()>> {
        match call {
            Call::Fork(wish) => self.fork(&wish, reply),
            call => reply.send(self.answer(call)),
        }
        match self.postponed.take_if(|_| self.state != State::Paused) {
            Some(wish) if self.state == State::Running => self.power(wish),
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    fn hear(&mut self, report: Report) -> Result<ControlFlow<()>> {
        match report {
            Report::Power(wish) if self.state == State::Paused => self.postponed = Some(wish),
            Report::Power(wish) => return self.power(wish),
            Report::Attend(id) => {
                if let Some(machine) = &mut self.machine {
                    machine.attend(&id);
                    self.eject();
                }
            }
            // One that is no more was told so.
            Report::Lost(_) if self.machine.is_none() => {}
            Report::Lost(why) => return Err(Error::MemoryLost(why)),
            Report::Failed { index, why } => return Err(Error::ProcessorFailed { index, why }),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The guest's own wish.
    fn power(&mut self, wish: PowerEvent) -> Result<ControlFlow<()>> {
        match wish {
            PowerEvent::Reset => self.reboot()?,
            PowerEvent::Off => {
                self.take_down();
                self.state = State::ShutDown;
                event!("vm", "shutdown");
                if !self.options.stay_after_power_off {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn answer(&mut self, call: Call) -> Result<Answer> {
        match call {
            Call::Create(config) => self.create(*config)?,
            Call::Delete => self.delete(),
            Call::Boot => self.boot()?,
            Call::Shutdown => {
                let next = life::after(self.state, Act::Shutdown)?;
                self.take_down();
                self.state = next;
                event!("vm", "shutdown");
            }
            Call::Reboot => {
                life::after(self.state, Act::Reboot)?;
                self.reboot()?;
            }
            Call::Pause => self.pause()?,
            Call::Resume => self.resume()?,
            Call::Snapshot(wish) => self.snapshot(&wish)?,
            Call::CoreDump(wish) => self.core_dump(&wish.destination_url)?,
            Call::Restore(wish) => self.restore(&wish)?,
            Call::ReceiveFork(received) => {
                life::after(self.state, Act::Restore)?;
                event!("vm", "receiving-fork");
                self.make(&SavedMachine::received(&received)?, received.resume())?;
            }
            Call::PowerButton => self.running()?.press_power_button()?,
            Call::Nmi => self.running()?.nmi()?,
            Call::Counters => return Ok(Answer::Counters(self.running()?.counters())),
            Call::Info => return self.info(),
            Call::Measure => return Ok(Answer::Measures(Box::new(self.measure()))),
            Call::Resize(resize) => {
                let (config, machine) = self.configured()?;
                change::resize(config, machine, resize)?;
            }
            Call::ResizeDisk(wish) => {
                self.configured()?;
                self.running()?.resize_disk(&wish)?;
            }
            Call::AddDevice {
                member,
                config,
                descriptors,
            } => return self.add_device(member, config, descriptors),
            Call::RemoveDevice(wish) => {
                let (config, machine) = self.configured()?;
                let built = machine.is_some();
                change::remove_device(config, machine, &wish.id)?;
                if !built {
                    self.given.take_back(&wish.id);
                }
            }
            Call::Fork(_) | Call::StopMonitor => {}
        }
        Ok(Answer::Done)
    }

    /// The machine, if it runs or is paused.
    fn running(&mut self) -> Result<&mut Machine> {
        life::after(self.state, Act::Use)?;
        self.machine.as_mut().ok_or(Error::Ending)
    }

    /// The configuration, if there is one, and the machine that was built from it.
    fn configured(&mut self) -> Result<(&mut VmConfig, Option<&mut Machine>)> {
        life::after(self.state, Act::Configure)?;
        let config = self.config.as_mut().ok_or(Error::Ending)?;
        Ok((config, self.machine.as_mut()))
    }

    fn add_device(
        &mut self,
        member: &'static str,
        config: Value,
        descriptors: Descriptors,
    ) -> Result<Answer> {
        let (mut number, confined) = (self.number, self.options.landlock);
        let given = Arc::clone(&self.given);
        let device = NewDevice {
            member,
            config,
            descriptors,
            given: &given,
        };
        let (config, machine) = self.configured()?;
        let added = change::add_device(config, machine, device, &mut number, confined);
        self.number = number;
        added
    }

    /// Devices that the guest is done with are gone, and belong to the configuration no more.
    fn eject(&mut self) {
        let gone = self.machine.as_mut().map(Machine::eject);
        for device in gone.unwrap_or_default() {
            if let Some(config) = &mut self.config {
                catalog::remove(&mut config.devices, &device.id);
            }
            self.given.take_back(&device.id);
            event!("vm", "device-removed", id = device.id, bdf = device.bdf);
        }
    }

    fn create(&mut self, mut config: VmConfig) -> Result<()> {
        let next = life::after(self.state, Act::Create)?;
        prepare::settle(&mut config);
        self.config = Some(config);
        self.number = 0;
        self.state = next;
        Ok(())
    }

    fn delete(&mut self) {
        if self.take_down() {
            event!("vm", "shutdown");
        }
        self.given.clear();
        if self.config.take().is_some() {
            event!("vm", "deleted");
        }
        self.state = State::Absent;
    }

    fn boot(&mut self) -> Result<()> {
        let next = life::after(self.state, Act::Boot)?;
        event!("vm", "booting");
        let step = trace::step("boot");
        self.machine = Some(self.build(Legacy::default())?);
        step.end();
        self.state = next;
        event!("vm", "booted");
        trace::finish();
        Ok(())
    }

    fn reboot(&mut self) -> Result<()> {
        event!("vm", "rebooting");
        let legacy = self.machine.take().map(Machine::leave).unwrap_or_default();
        self.postponed = None;
        // Until the new one is there.
        self.state = State::ShutDown;
        self.machine = Some(self.build(legacy)?);
        self.state = State::Running;
        event!("vm", "rebooted");
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        let next = life::after(self.state, Act::Pause)?;
        event!("vm", "pausing");
        self.running()?.pause()?;
        self.state = next;
        event!("vm", "paused");
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        let _step = trace::step("resume");
        let next = life::after(self.state, Act::Resume)?;
        event!("vm", "resuming");
        self.running()?.resume()?;
        self.state = next;
        event!("vm", "resumed");
        Ok(())
    }

    fn info(&mut self) -> Result<Answer> {
        let mut state = self.state.name();
        let debugger = self.options.debugger.as_ref();
        if self.state == State::Running && debugger.is_some_and(|debugger| debugger.holds()) {
            state = "BreakPoint";
        }
        let (config, machine) = self.configured()?;
        let machine = machine.map(|machine| &*machine);
        Ok(Answer::Info(Box::new(crate::inspect::info(
            config, machine, state,
        ))))
    }

    fn measure(&self) -> Measures {
        let machine = self.machine.as_ref();
        Measures {
            state: self.config.as_ref().map(|_| self.state.name()),
            memory: self.config.as_ref().map(|config| {
                let withheld = machine.map_or(0, Machine::withheld);
                config.memory.size.0.saturating_sub(withheld)
            }),
            counters: machine.map(Machine::counters).unwrap_or_default(),
            histograms: machine.map(Machine::histograms).unwrap_or_default(),
        }
    }

    /// Takes the machine apart. Whether there was one.
    fn take_down(&mut self) -> bool {
        self.postponed = None;
        self.machine.take().is_some()
    }

    /// All threads of the machine inherit this one's cookie.
    fn schedule_cores(&self, config: &VmConfig) -> Result<()> {
        if config.cpus.core_scheduling != CoreScheduling::Vm {
            return Ok(());
        }
        match sandbox::core_scheduling(sandbox::CoreScope::CreateThread) {
            Err(sandbox::Error::CoreSchedulingUnavailable) => {
                telemetry::info!(
                    "the host's kernel has no core scheduling: core_scheduling=vm has no effect"
                );
                Ok(())
            }
            other => other.map_err(Error::confine(Driver::THREAD)),
        }
    }

    fn snapshot(&mut self, wish: &Snapshot) -> Result<()> {
        life::after(self.state, Act::Snapshot)?;
        event!("vm", "snapshotting");
        let folder = snapshot::folder(&wish.destination_url)?;
        let base = wish.base_url.as_deref().map(snapshot::folder).transpose()?;
        let (number, features) = (self.number, self.features.get()?);
        let (config, machine) = self.configured()?;
        let machine = machine.ok_or(Error::Ending)?;
        machine.save_to(&folder, base.as_deref(), config, number, &features)?;
        event!("vm", "snapshotted");
        Ok(())
    }

    /// A machine that runs is paused for it, and goes on whatever comes of it.
    fn core_dump(&mut self, url: &str) -> Result<()> {
        life::after(self.state, Act::Use)?;
        let path = core_dump::file(url)?;
        let runs = self.state == State::Running;
        if runs {
            self.pause()?;
        }
        event!("vm", "coredumping");
        let dumped = self.running()?.dump_to(&path);
        if runs {
            self.resume()?;
        }
        dumped
    }

    fn restore(&mut self, wish: &Restore) -> Result<()> {
        life::after(self.state, Act::Restore)?;
        event!("vm", "restoring");
        let saved = SavedMachine::open(wish)?;
        descriptors::adopt(&saved.config, &self.given).inspect_err(|_| self.given.clear())?;
        self.make(&saved, wish.resume)
    }

    /// Makes a machine of a saved one.
    fn make(&mut self, saved: &SavedMachine, resume: bool) -> Result<()> {
        let next = life::after(self.state, Act::Restore)?;
        self.config = Some(saved.config.clone());
        self.number = saved.state.number;
        let restored = self.build_with(|config, ground| Machine::restore(config, saved, ground));
        match restored {
            Ok(machine) => self.machine = Some(machine),
            Err(error) => {
                self.config = None;
                self.given.clear();
                return Err(error);
            }
        }
        self.state = next;
        self.eject();
        event!("vm", "restored");
        if resume {
            self.resume()?;
        }
        trace::finish();
        Ok(())
    }

    /// Makes further machines of it; the answer is sent when all are there.
    fn fork(&mut self, wish: &Fork, reply: Reply) {
        let divided = self.divide(wish);
        if self.machine.as_ref().is_some_and(Machine::is_paused) {
            // If it could not go on.
            self.state = State::Paused;
        }
        match divided {
            Ok(children) => children.hand_over(self.options.seccomp, reply),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn divide(&mut self, wish: &Fork) -> Result<fork::Children> {
        life::after(self.state, Act::Fork)?;
        event!("vm", "forking");
        let (number, features) = (self.number, self.features.get()?);
        let (config, machine) = self.configured()?;
        let machine = machine.ok_or(Error::Ending)?;
        fork::divide(wish, config, machine, number, &features)
    }

    fn build(&mut self, mut legacy: Legacy) -> Result<Machine> {
        self.build_with(|config, ground| Machine::build(config, ground, &mut legacy))
    }

    /// Gives the machine a number and its ways to this thread.
    fn build_with(
        &mut self,
        make: impl FnOnce(&VmConfig, Ground<'_>) -> Result<Machine>,
    ) -> Result<Machine> {
        let Some(config) = self.config.as_ref() else {
            return Err(life::Refusal::Absent.into());
        };
        prepare::check(config)?;
        self.number = self.number.max(catalog::next_number(&config.devices));
        if config.landlock_enable && !self.options.landlock {
            return Err(Problem::new("landlock_enable", NO_LANDLOCK).into());
        }
        build::check_host_limits(config, self.hypervisor.capabilities())?;
        self.built += 1;
        let number = self.built;
        if number > 1 {
            self.schedule_cores(config)?;
        }
        let report = self.remote.reporter(number);
        let power = Power::new(move |event| report(Report::Power(event)));
        let report = self.remote.reporter(number);
        let attention = Box::new(move |id: &str| report(Report::Attend(id.to_owned())));
        let report = self.remote.reporter(number);
        let failed = Box::new(move |index, why| report(Report::Failed { index, why }));
        let report = self.remote.reporter(number);
        let memory_lost = Box::new(move |why| report(Report::Lost(why)));
        let ground = Ground {
            hypervisor: &*self.hypervisor,
            features: &self.features,
            seccomp: self.options.seccomp,
            given: &self.given,
            debugger: self.options.debugger.clone(),
            reports: Reports {
                power,
                attention,
                failed,
                memory_lost,
            },
        };
        make(config, ground)
    }
}

/// Why a machine that asks for Landlock through the API is not started.
const NO_LANDLOCK: &str = "a process can be confined only before it starts other threads: \
    start the monitor with --landlock, and --landlock-rules for the files of its VMs";
