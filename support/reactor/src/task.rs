//! A thread that runs one worker until it is stopped.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use sandbox::Filter;

use crate::error::panic_message;
use crate::sources::STOP;
use crate::{Error, Interest, Kick, Loop, Sources, Worker};

/// Workers are loops over small buffers; the kernel backs only the pages they touch, but what is
/// mapped counts against limits on address space.
const STACK_SIZE: usize = 256 << 10;

/// The longest name the kernel keeps for a thread, in bytes (prctl(2), `PR_SET_NAME`).
const NAME_LENGTH: usize = 15;

/// A running worker. Dropping it stops the worker and drops that too.
#[derive(Debug)]
pub struct Task<W> {
    name: String,
    control: Arc<Control>,
    /// `None` only after the thread was joined.
    thread: Option<JoinHandle<Result<W, Error>>>,
}

/// What the owner of a task and its thread share.
#[derive(Debug)]
struct Control {
    /// Set before the bell rings, so that a worker with many busy sources stops after the one it
    /// serves rather than when the bell's turn comes.
    stop: AtomicBool,
    bell: Kick,
    phase: Mutex<Phase>,
    phase_changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Registered,
    Ended,
}

impl<W: Worker> Task<W> {
    /// Starts a thread called `name` (cut to 15 bytes) that applies `filter`, registers `worker`
    /// and serves its events.
    ///
    /// Returns without waiting for the thread, so that many can start at once;
    /// [`Task::wait_registered`] tells whether it got going.
    ///
    /// # Errors
    /// No descriptor or no thread is left. The worker is dropped then.
    pub fn spawn(name: &str, filter: Filter, worker: W) -> io::Result<Self> {
        let mut sources = Sources::new()?;
        start(name, filter, move |name, control| {
            sources
                .add_any(&control.bell, STOP, Interest::READ)
                .map_err(failed(name))?;
            run(name, control, sources, worker)
        })
    }
}

impl<L: Loop> Task<L> {
    /// Starts a thread called `name` (cut to 15 bytes) that applies `filter` and runs the worker's own loop.
    ///
    /// # Errors
    /// No descriptor or no thread is left. The worker is dropped then.
    pub fn spawn_loop(name: &str, filter: Filter, mut worker: L) -> io::Result<Self> {
        start(name, filter, move |name, control| {
            control.enter(Phase::Registered);
            worker.run(&control.bell).map_err(failed(name))?;
            Ok(worker)
        })
    }
}

/// Starts a thread that applies `filter` and does `work`.
fn start<W: Send + 'static>(
    name: &str,
    filter: Filter,
    work: impl FnOnce(&str, &Control) -> Result<W, Error> + Send + 'static,
) -> io::Result<Task<W>> {
    let name = thread_name(name);
    let control = Arc::new(Control {
        stop: AtomicBool::new(false),
        bell: Kick::new()?,
        phase: Mutex::new(Phase::Starting),
        phase_changed: Condvar::new(),
    });
    let thread = thread::Builder::new()
        .name(name.clone())
        .stack_size(STACK_SIZE)
        .spawn({
            let (control, name) = (Arc::clone(&control), name.clone());
            move || {
                let ended = SetEnded(&control);
                let applied = filter.apply().map_err(|source| Error::Filter {
                    name: name.clone(),
                    source,
                });
                let result = applied.and_then(|()| work(&name, &control));
                drop(ended);
                result
            }
        })?;
    Ok(Task {
        name,
        control,
        thread: Some(thread),
    })
}

impl<W> Task<W> {
    /// Waits until the worker has registered its sources. False if it ended before that, by an
    /// error that [`Task::stop`] returns, or since.
    pub fn wait_registered(&self) -> bool {
        let phase = self
            .control
            .phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let phase = self
            .control
            .phase_changed
            .wait_while(phase, |phase| *phase == Phase::Starting)
            .unwrap_or_else(PoisonError::into_inner);
        *phase == Phase::Registered
    }

    /// Stops the thread and gives the worker back, with everything it owned. Waits only for the
    /// call of [`Worker::ready`] that is running, if any.
    ///
    /// # Errors
    /// What the worker failed with, now or earlier; its state is lost then.
    pub fn stop(mut self) -> Result<W, Error> {
        match self.join() {
            Some(Ok(result)) => result,
            Some(Err(payload)) => Err(Error::Panicked {
                name: std::mem::take(&mut self.name),
                message: panic_message(&*payload),
            }),
            None => unreachable!("only stop and drop join the thread, and both consume the task"),
        }
    }

    /// Whether the thread has ended by itself: the worker broke off, failed or panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The name of the thread, as the kernel shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn join(&mut self) -> Option<thread::Result<Result<W, Error>>> {
        let thread = self.thread.take()?;
        self.control.stop.store(true, Ordering::Release);
        self.control.bell.signal();
        Some(thread.join())
    }
}

impl<W> Drop for Task<W> {
    fn drop(&mut self) {
        // Whoever wants to know how the worker did calls `stop`.
        drop(self.join());
    }
}

impl Control {
    fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.phase_changed.notify_all();
    }
}

/// Announces the end of the thread also when it ends by a panic.
struct SetEnded<'a>(&'a Control);

impl Drop for SetEnded<'_> {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
    }
}

fn failed(name: &str) -> impl Fn(io::Error) -> Error {
    |source| Error::Failed {
        name: name.to_owned(),
        source,
    }
}

/// The life of a worker with sources.
fn run<W: Worker>(
    name: &str,
    control: &Control,
    mut sources: Sources,
    mut worker: W,
) -> Result<W, Error> {
    worker.register(&mut sources).map_err(failed(name))?;
    control.enter(Phase::Registered);
    while !control.stop.load(Ordering::Acquire) {
        let (token, readiness) = sources.next().map_err(|source| Error::Wait {
            name: name.to_owned(),
            source,
        })?;
        if token == STOP {
            break;
        }
        if let ControlFlow::Break(()) = worker
            .ready(token, readiness, &mut sources)
            .map_err(failed(name))?
        {
            break;
        }
    }
    Ok(worker)
}

/// Cuts a name to what the kernel keeps, at a character boundary and before a NUL.
fn thread_name(name: &str) -> String {
    let mut end = name.find('\0').unwrap_or(name.len()).min(NAME_LENGTH);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}
