//! A thread that serves one queue.

use std::fmt;
use std::io;
use std::ops::ControlFlow;

use reactor::{Interest, Readiness, Sources, Task, Token, Worker};
use sandbox::Filter;

use crate::{Chain, Ring};

/// What a device does with the chains of one queue.
pub trait Service: Send + 'static {
    /// Serves one chain, and gives the number of bytes written to it, from the start.
    fn serve(&mut self, chain: &mut Chain) -> u32;
}

/// A worker that serves the chains of a ring one after the other. Interrupts are sent for as many as were there.
#[derive(Debug)]
pub struct QueueWorker<S> {
    ring: Ring,
    service: S,
}

/// The doorbell. A queue worker has no other source.
const KICK: Token = Token(0);

impl<S: Service> QueueWorker<S> {
    /// A worker on `ring`.
    pub fn new(ring: Ring, service: S) -> Self {
        Self { ring, service }
    }

    /// Takes it apart.
    pub fn into_parts(self) -> (Ring, S) {
        (self.ring, self.service)
    }

    /// Serves what is there, but no more than a queue full, so that a driver that never stops does not keep the
    /// worker from being stopped.
    fn serve(&mut self) {
        self.ring.silence();
        for _ in 0..self.ring.size() {
            let Some(mut chain) = self.ring.pop() else {
                break;
            };
            let written = self.service.serve(&mut chain);
            self.ring.complete(chain, written);
        }
        self.ring.notify();
        if self.ring.listen() {
            self.ring.kick().signal();
        }
    }
}

impl<S: Service> Worker for QueueWorker<S> {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        sources.add(self.ring.kick(), KICK, Interest::READ)
    }

    fn ready(&mut self, _: Token, _: Readiness, _: &mut Sources) -> io::Result<ControlFlow<()>> {
        self.ring.kick().take();
        self.serve();
        Ok(ControlFlow::Continue(()))
    }
}

/// A service with the thread that runs it, if it runs: what a device keeps for each of its queues.
pub struct QueueTask<S: Service> {
    name: String,
    rules: Filter,
    service: Option<S>,
    task: Option<Task<QueueWorker<S>>>,
}

impl<S: Service> QueueTask<S> {
    /// A service that does not run yet. Its thread will have this name and these rules.
    #[must_use]
    pub fn new(name: String, rules: Filter, service: S) -> Self {
        Self {
            name,
            rules,
            service: Some(service),
            task: None,
        }
    }

    /// Serves a queue.
    ///
    /// # Errors
    /// [`device::Error::Worker`] if it has one already, if it was lost, or if no thread is left.
    pub fn start(&mut self, ring: Ring) -> device::Result<()> {
        let failed = |source| device::Error::Worker {
            name: self.name.clone(),
            source,
        };
        let Some(service) = self.service.take() else {
            return Err(failed(io::Error::other("what it serves is gone")));
        };
        let worker = QueueWorker::new(ring, service);
        self.task = Some(Task::spawn(&self.name, self.rules.clone(), worker).map_err(failed)?);
        Ok(())
    }

    /// Ends work, and gives the queue back. `None` if there was none, or if the worker failed; the log then says why.
    pub fn stop(&mut self) -> Option<Ring> {
        match self.task.take()?.stop() {
            Ok(worker) => {
                let (ring, service) = worker.into_parts();
                self.service = Some(service);
                Some(ring)
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.name, telemetry::chain(&error).join(": "));
                None
            }
        }
    }

    /// The service, while it does not run.
    pub fn service(&mut self) -> Option<&mut S> {
        self.service.as_mut()
    }
}

impl<S: Service> fmt::Debug for QueueTask<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTask")
            .field("name", &self.name)
            .field("running", &self.task.is_some())
            .finish_non_exhaustive()
    }
}
