//! The thread that owns the machine, and how others reach it.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use config::VmConfig;
use device::PowerEvent;
use hypervisor::Hypervisor;
use telemetry::trace;

use crate::features::Features;
use crate::owner::Owner;
use crate::{Answer, Call, Debugger, Error, Reply, Restore, Result};

/// How the monitor itself behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What happens on a system call that no part of the monitor declared.
    pub seccomp: sandbox::Mode,
    /// Keep the monitor when the guest powers off.
    pub stay_after_power_off: bool,
    /// The process is confined by Landlock already: a machine that asks for it (`landlock_enable`) has it.
    pub landlock: bool,
    /// Who debugs the guest: then its processors stand still until they are released.
    pub debugger: Option<Arc<Debugger>>,
}

/// Something that the owner of the machine must act on.
pub(crate) enum Request {
    /// From a user, who waits for the answer.
    Call(Call, Reply),
    /// From the machine with this number. Requests of a machine that is no more are void.
    Machine(u64, Report),
    /// End the monitor.
    Stop,
}

/// What a machine reports to its owner.
pub(crate) enum Report {
    /// The guest asks for it, through a device.
    Power(PowerEvent),
    /// The device with this id wants to be attended to.
    Attend(String),
    /// Memory of the guest cannot be had.
    Lost(String),
    /// A processor cannot go on.
    Failed { index: u32, why: String },
}

/// Reaches the driver from other threads.
#[derive(Clone)]
pub struct Remote(Sender<Request>);

impl Remote {
    /// One that reaches no driver: every call is answered with [`Error::Ending`]. For tests and fuzzing of who calls.
    #[must_use]
    pub fn to_nobody() -> Self {
        Self(channel().0)
    }

    /// Ends the machine and the monitor.
    pub fn stop(&self) {
        // If nobody listens any more the driver has ended already, which is what is asked for.
        let _ = self.0.send(Request::Stop);
    }

    /// Asks for something without waiting. Calls are served one at a time, in order; each is answered.
    pub fn call(&self, call: Call, reply: Reply) {
        // A request that cannot be sent is dropped, which answers it.
        let _ = self.0.send(Request::Call(call, reply));
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// Whatever keeps it from being done; [`Error::Ending`] if the driver has ended.
    pub fn ask(&self, call: Call) -> Result<Answer> {
        let (sender, answer) = channel();
        self.call(
            call,
            Reply::new(move |answer| {
                let _ = sender.send(answer);
            }),
        );
        answer.recv().unwrap_or(Err(Error::Ending))
    }

    /// For the machine with this number.
    pub(crate) fn reporter(&self, number: u64) -> impl Fn(Report) + Send + Sync + 'static {
        let requests = self.0.clone();
        move |report| {
            let _ = requests.send(Request::Machine(number, report));
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

/// The machine that a driver starts with.
#[derive(Clone, Debug)]
pub enum First {
    /// One to boot. The configuration has been [settled](crate::settle) and [checked](crate::check).
    Boot(Box<VmConfig>),
    /// One to restore.
    Restore(Box<Restore>),
}

/// Owns the machine on a thread of its own, named `vmm`.
pub struct Driver {
    thread: JoinHandle<Result<()>>,
    remote: Remote,
}

impl Driver {
    pub(crate) const THREAD: &str = "vmm";

    /// Starts the thread and, on it, the first machine. Without one it waits for [`Call::Create`].
    ///
    /// # Errors
    /// If the thread cannot be started. What keeps the machine from running comes from [`Driver::join`].
    pub fn start(
        first: Option<First>,
        hypervisor: Arc<dyn Hypervisor>,
        options: Options,
    ) -> Result<Self> {
        let (sender, requests) = channel();
        let remote = Remote(sender);
        let features = Arc::new(Features::new(Arc::clone(&hypervisor)));
        let owner = Owner::new(Arc::clone(&features), hypervisor, options, remote.clone());
        let thread = std::thread::Builder::new()
            .name(Self::THREAD.into())
            .spawn(move || owner.run(first, &requests))
            .map_err(Error::thread(Self::THREAD))?;
        // This thread has nothing else to do. If it fails, the driver will ask again and say why.
        let step = trace::step("processor features");
        let _ = features.get();
        step.end();
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
