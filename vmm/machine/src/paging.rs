//! The threads that let a machine's memory come from a snapshot while its guest runs.

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use memory::{Blocks, GuestRam, Pager, SavedFile};
use sandbox::Filter;
use snapshot::Source;
use telemetry::event;

use crate::{Error, Result, syscalls};

/// Who is told that memory is lost, and why.
pub(crate) type Lost = Box<dyn Fn(String) + Send + Sync>;

/// Memory that comes. It is dropped after everybody who touches the memory.
pub(crate) struct Paging {
    pager: Arc<Pager>,
    threads: Vec<JoinHandle<()>>,
}

impl Paging {
    /// Starts to let memory that nobody has touched come from a snapshot.
    ///
    /// # Errors
    /// If the kernel refuses, or the files are no contents of such memory.
    pub(crate) fn start(
        ram: &GuestRam,
        source: &Source,
        seccomp: sandbox::Mode,
        lost: Lost,
    ) -> Result<Self> {
        let blocks = blocks(ram.size(), source)?;
        let told = move |error: &memory::Error| {
            let why = telemetry::chain(error).join(": ");
            event!("vm", "memory-lost", why = why);
            lost(why);
        };
        let pager = Arc::new(Pager::new(ram, blocks, Box::new(told))?);
        let mut paging = Self {
            pager,
            threads: Vec::with_capacity(2),
        };
        paging.spawn("memory_faults", seccomp, Pager::serve_faults)?;
        paging.spawn("memory_fill", seccomp, |pager| {
            pager.fill();
            if matches!(pager.wait(), Ok(true)) {
                event!("vm", "memory-loaded");
            }
        })?;
        Ok(paging)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        seccomp: sandbox::Mode,
        work: impl FnOnce(&Pager) + Send + 'static,
    ) -> Result<()> {
        let filter = Filter::compile(seccomp, &syscalls::pager()).map_err(Error::confine(name))?;
        let pager = Arc::clone(&self.pager);
        let run = move || match filter.apply() {
            Ok(()) => work(&pager),
            // Nobody would serve the faults.
            Err(error) => {
                telemetry::error!("{name}: {}", telemetry::chain(&error).join(": "));
                std::process::abort();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(thread.map_err(Error::thread(name))?);
        Ok(())
    }

    /// The guest is about to run.
    ///
    /// # Errors
    /// If memory is lost.
    pub(crate) fn guest_runs(&self) -> Result<()> {
        self.pager.guest_runs().map_err(|error| lost(&error))
    }

    /// Whether memory is lost.
    ///
    /// # Errors
    /// If it is.
    pub(crate) fn check(&self) -> Result<()> {
        self.pager
            .failed()
            .map_or(Ok(()), |error| Err(lost(&error)))
    }

    /// Returns when all memory is there.
    ///
    /// # Errors
    /// If memory is lost.
    pub(crate) fn wait(&self) -> Result<()> {
        self.pager.wait().map(drop).map_err(|error| lost(&error))
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.pager.left()
    }
}

impl Drop for Paging {
    fn drop(&mut self) {
        self.pager.stop();
        for thread in self.threads.drain(..) {
            // A panic of the thread aborts the process, so that there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

fn lost(error: &memory::Error) -> Error {
    Error::MemoryLost(telemetry::chain(error).join(": "))
}

/// The memory of a snapshot, and of those that it is an increment to, with what checks it.
pub(crate) fn blocks(size: u64, source: &Source) -> Result<Blocks> {
    let mut about = source.memory_paths().into_iter().zip(source.checksums()?);
    let mut saved = |file: &Arc<std::fs::File>| {
        let (path, sums) = about.next().unwrap_or_default();
        if sums.is_none() {
            telemetry::warn!(
                "{}: it has no checksums, and is not checked",
                path.display()
            );
        }
        SavedFile {
            file: Arc::clone(file),
            path,
            sums: sums.map(Arc::from),
        }
    };
    let base = saved(source.memory());
    let layers: Vec<(SavedFile, Vec<Range<u64>>)> = source
        .changes()
        .iter()
        .map(|changes| (saved(&changes.memory), changes.parts.clone()))
        .collect();
    Ok(Blocks::new(size, base, layers)?)
}
