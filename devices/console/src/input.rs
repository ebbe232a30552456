//! The queue for what is typed: the driver's empty buffers, filled by a [`stream::InputWorker`].

use std::fmt;
use std::io::{self, Write};

use device::{Error, Result};
use reactor::Task;
use sandbox::Filter;
use stream::{Input, InputWorker, Receiver};
use virtio::{Chain, Ring};

/// The queue with its thread, if there is anything to type on.
pub(crate) struct InputQueue {
    name: String,
    rules: Filter,
    /// Until the first start: only then is it known which doorbell says that there is room.
    input: Option<Input>,
    worker: Option<InputWorker<Inbox>>,
    task: Option<Task<InputWorker<Inbox>>>,
    /// The ring of a console on which nothing can be typed.
    idle: Option<Ring>,
}

impl InputQueue {
    /// A queue that does not run. Its thread will have this name and these rules.
    pub(crate) fn new(name: String, rules: Filter, input: Option<Input>) -> Self {
        Self { name, rules, input, worker: None, task: None, idle: None }
    }

    pub(crate) fn start(&mut self, ring: Ring) -> Result<()> {
        let kick = ring.kick().clone();
        let inbox = || Inbox { ring: None, chain: None };
        // A queue has the same doorbell for all of its life.
        let first = self.input.take().map(|input| InputWorker::new(input, inbox(), kick));
        let Some(mut worker) = first.or_else(|| self.worker.take()) else {
            self.idle = Some(ring);
            return Ok(());
        };
        worker.receiver().ring = Some(ring);
        let failed = |source: io::Error| Error::Worker { name: self.name.clone(), source };
        self.task = Some(Task::spawn(&self.name, self.rules.clone(), worker).map_err(failed)?);
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Option<Ring> {
        let Some(task) = self.task.take() else { return self.idle.take() };
        match task.stop() {
            Ok(mut worker) => {
                let ring = worker.receiver().close();
                self.worker = Some(worker);
                ring
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.name, telemetry::chain(&error).join(": "));
                None
            }
        }
    }
}

impl fmt::Debug for InputQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputQueue")
            .field("name", &self.name)
            .field("running", &self.task.is_some())
            .finish_non_exhaustive()
    }
}

/// Puts what is typed into the driver's buffers.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// There while the queue runs.
    ring: Option<Ring>,
    /// The buffer that is filled next.
    chain: Option<Chain>,
}

impl Inbox {
    /// Gives the ring back, and the driver's buffer to the ring.
    fn close(&mut self) -> Option<Ring> {
        let mut ring = self.ring.take()?;
        if let Some(chain) = self.chain.take() {
            ring.put_back(chain);
        }
        Some(ring)
    }
}

impl Receiver for Inbox {
    /// The size of the next buffer. When there is none, the driver rings the doorbell once there is: it is never
    /// asked not to.
    fn room(&mut self) -> usize {
        let Some(ring) = &mut self.ring else { return 0 };
        // Buffers that cannot be written are of no use; there are no more of them than the queue has.
        for _ in 0..=ring.size() {
            match self.chain.take().or_else(|| ring.pop()) {
                Some(chain) if chain.writable_len() > 0 => {
                    let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX);
                    self.chain = Some(chain);
                    return room;
                }
                Some(chain) => ring.complete(chain, 0),
                None => break,
            }
        }
        ring.notify();
        0
    }

    fn receive(&mut self, bytes: &[u8]) {
        let (Some(ring), Some(mut chain)) = (&mut self.ring, self.chain.take()) else { return };
        let mut writer = chain.writer();
        if let Err(error) = writer.write_all(bytes) {
            telemetry::warn!("console: input is lost: {error}");
        }
        let written = writer.written();
        ring.complete(chain, written);
        ring.notify();
    }
}
