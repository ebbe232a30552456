//! A worker that comes and goes with its device's start and stop.

use std::fmt;

use reactor::{Task, Worker};
use sandbox::Filter;

use crate::{Error, Result};

/// A device's worker: on a thread of its own while the device is started, at hand while it is stopped.
pub struct Runner<W: Worker> {
    name: String,
    rules: Filter,
    idle: Option<W>,
    task: Option<Task<W>>,
}

impl<W: Worker> Runner<W> {
    /// A worker that does not run yet. See [`crate::Host::runner`].
    pub(crate) fn new(name: &str, rules: Filter, worker: W) -> Self {
        Self {
            name: name.to_owned(),
            rules,
            idle: Some(worker),
            task: None,
        }
    }

    /// Starts the thread, if it does not run.
    ///
    /// # Errors
    /// [`Error::Worker`] if it cannot be started; the worker is then gone.
    pub fn start(&mut self) -> Result<()> {
        let Some(worker) = self.idle.take() else {
            return Ok(());
        };
        let task = Task::spawn(&self.name, self.rules.clone(), worker).map_err(|source| {
            Error::Worker {
                name: self.name.clone(),
                source,
            }
        })?;
        self.task = Some(task);
        Ok(())
    }

    /// Ends the thread, if it runs, and takes the worker back.
    ///
    /// # Errors
    /// [`Error::Backend`] if the worker had failed; it is then gone.
    pub fn stop(&mut self) -> Result<()> {
        let Some(task) = self.task.take() else {
            return Ok(());
        };
        let worker = task.stop().map_err(|source| Error::Backend {
            what: format!("thread {} failed", self.name),
            source: source.into(),
        })?;
        self.idle = Some(worker);
        Ok(())
    }

    /// The worker, if it does not run and has not failed.
    #[must_use]
    pub fn into_worker(mut self) -> Option<W> {
        self.idle.take()
    }
}

impl<W: Worker> fmt::Debug for Runner<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("name", &self.name)
            .field("runs", &self.task.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::ControlFlow;
    use std::time::{Duration, Instant};

    use reactor::{Interest, Kick, Readiness, Sources, Token};

    use super::*;

    /// Counts how often it is kicked.
    struct Counter {
        kick: Kick,
        count: u64,
        heard: Kick,
    }

    impl Worker for Counter {
        fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
            sources.add(&self.kick, Token(0), Interest::READ)
        }

        fn ready(
            &mut self,
            _token: Token,
            _readiness: Readiness,
            _sources: &mut Sources,
        ) -> io::Result<ControlFlow<()>> {
            self.count += self.kick.take();
            self.heard.signal();
            Ok(ControlFlow::Continue(()))
        }
    }

    #[test]
    fn the_worker_comes_back_with_its_state() {
        let (kick, heard) = (Kick::new().unwrap(), Kick::new().unwrap());
        let counter = Counter {
            kick: kick.clone(),
            count: 0,
            heard: heard.clone(),
        };
        let mut runner = Runner::new("counter", Filter::none(), counter);
        for round in 1..=3 {
            runner.start().unwrap();
            runner.start().unwrap();
            kick.signal();
            let deadline = Instant::now() + Duration::from_secs(5);
            while heard.take() == 0 {
                assert!(Instant::now() < deadline, "round {round}");
                std::thread::yield_now();
            }
            runner.stop().unwrap();
            runner.stop().unwrap();
        }
        assert_eq!(runner.into_worker().unwrap().count, 3);
    }
}
