//! The queue for what is typed: the driver's empty buffers, filled by a [`stream::InputWorker`].

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;

use device::{Error, Result};
use reactor::{Interest, Kick, Readiness, Sources, Task, Token, Worker};
use sandbox::Filter;
use stream::{Input, InputWorker, Receiver};
use virtio::{Chain, ConfigChange, Ring};

use crate::size::Watch;

/// The queue with its thread, if there is anything to type on or to watch.
pub(crate) struct InputQueue {
    name: String,
    rules: Filter,
    typing: Option<Typing>,
    task: Option<Task<Typing>>,
    /// The ring of a console that needs no thread.
    idle: Option<Ring>,
}

impl InputQueue {
    /// A queue that does not run. Its thread will have this name and these rules.
    pub(crate) fn new(name: String, rules: Filter, typing: Option<Typing>) -> Self {
        Self {
            name,
            rules,
            typing,
            task: None,
            idle: None,
        }
    }

    /// Starts to work, and to announce changes of the terminal's size.
    pub(crate) fn start(&mut self, ring: Ring, change: Option<ConfigChange>) -> Result<()> {
        let Some(mut typing) = self.typing.take() else {
            self.idle = Some(ring);
            return Ok(());
        };
        typing.open(ring, change);
        let failed = |source: io::Error| Error::Worker {
            name: self.name.clone(),
            source,
        };
        self.task = Some(Task::spawn(&self.name, self.rules.clone(), typing).map_err(failed)?);
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Option<Ring> {
        let Some(task) = self.task.take() else {
            return self.idle.take();
        };
        match task.stop() {
            Ok(mut typing) => {
                let ring = typing.close();
                self.typing = Some(typing);
                ring
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.name, telemetry::chain(&error).join(": "));
                None
            }
        }
    }

    /// Gives away the host's side. Only while stopped.
    pub(crate) fn leave(&mut self) -> Option<Typing> {
        self.typing.take()
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

/// The worker: reads what is typed while the driver has buffers for it, and watches the terminal's size. It outlives the
/// guest's reset, and so the queue and its doorbell; what tells the reader that there is room is therefore a bell
/// of its own.
#[derive(Debug)]
pub(crate) struct Typing {
    /// None if nothing can be typed.
    reader: Option<InputWorker<Inbox>>,
    /// The ring if nothing can be typed.
    idle: Option<Ring>,
    watch: Option<Watch>,
    room: Kick,
}

/// The queue's doorbell, a token that the reader does not use.
const DOORBELL: Token = Token(1 << 32);

impl Typing {
    /// A worker, if there is anything to do.
    pub(crate) fn new(input: Option<Input>, watch: Option<Watch>) -> io::Result<Option<Self>> {
        if input.is_none() && watch.is_none() {
            return Ok(None);
        }
        let room = Kick::new()?;
        let inbox = Inbox {
            ring: None,
            chain: None,
        };
        Ok(Some(Self {
            reader: input.map(|input| InputWorker::new(input, inbox, room.clone())),
            idle: None,
            watch,
            room,
        }))
    }

    fn open(&mut self, ring: Ring, change: Option<ConfigChange>) {
        match &mut self.reader {
            Some(reader) => reader.receiver().ring = Some(ring),
            None => self.idle = Some(ring),
        }
        if let Some(watch) = &mut self.watch {
            watch.change = change;
        }
    }

    fn close(&mut self) -> Option<Ring> {
        if let Some(watch) = &mut self.watch {
            watch.change = None;
        }
        match &mut self.reader {
            Some(reader) => reader.receiver().close(),
            None => self.idle.take(),
        }
    }

    /// Tells the watch whether the reader has somebody to read from.
    fn look_for_user(&mut self) -> io::Result<()> {
        match (&self.reader, &mut self.watch) {
            (Some(reader), Some(watch)) => watch.has_user(reader.has_peer()),
            _ => Ok(()),
        }
    }
}

impl Worker for Typing {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        if let Some(watch) = &mut self.watch {
            watch.register(sources)?;
        }
        if let Some(reader) = &mut self.reader {
            if let Some(ring) = &reader.receiver().ring {
                sources.add(ring.kick(), DOORBELL, Interest::READ)?;
            }
            reader.register(sources)?;
        }
        self.look_for_user()
    }

    fn ready(
        &mut self,
        token: Token,
        readiness: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        if self.watch.as_mut().is_some_and(|watch| watch.ready(token)) {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(reader) = &mut self.reader else {
            return Ok(ControlFlow::Continue(()));
        };
        if token != DOORBELL {
            let flow = reader.ready(token, readiness, sources)?;
            self.look_for_user()?;
            return Ok(flow);
        }
        if let Some(ring) = &reader.receiver().ring {
            ring.kick().take();
        }
        self.room.signal();
        Ok(ControlFlow::Continue(()))
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
        let (Some(ring), Some(mut chain)) = (&mut self.ring, self.chain.take()) else {
            return;
        };
        let mut writer = chain.writer();
        if let Err(error) = writer.write_all(bytes) {
            telemetry::warn!("console: input is lost: {error}");
        }
        let written = writer.written();
        ring.complete(chain, written);
        ring.notify();
    }
}
