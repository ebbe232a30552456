//! Allocation of RAM before the guest uses it.
//!
//! The first touch of a page makes the kernel find, clear and map one, which for gigabytes takes
//! long. Several threads do that for all pages at once, while the rest of the machine is built.
//! They share a list of chunks rather than have one part each, so that none waits for a slower one.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crate::{Error, Mapping};

/// What one thread is worth starting for.
const BYTES_PER_THREAD: u64 = 64 << 20;
/// What is allocated by one system call; a huge page at least. Small, so that stopping is quick.
const CHUNK: u64 = 16 << 20;

/// Allocation under way. [`join`](Self::join) waits for it; dropping it stops it.
#[derive(Debug)]
#[must_use = "dropping it stops the allocation"]
pub struct Prefault {
    work: Arc<Work>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
}

impl Prefault {
    /// Starts as many threads as `mappings` are worth.
    pub(crate) fn start(mappings: Vec<Arc<Mapping>>) -> Result<Self, Error> {
        let size = mappings.iter().map(|mapping| mapping.size()).sum::<u64>();
        let work = Arc::new(Work::new(mappings));
        let mut prefault = Self {
            work,
            threads: Vec::new(),
        };
        if size > 0 {
            let cpus = thread::available_parallelism().map_or(1, NonZero::get);
            for number in 0..thread_count(size, cpus) {
                let work = Arc::clone(&prefault.work);
                let thread = thread::Builder::new()
                    .name(format!("prefault_{number}"))
                    .spawn(move || work.run());
                prefault
                    .threads
                    .push(thread.map_err(Error::PrefaultThread)?);
            }
        }
        Ok(prefault)
    }

    /// How many threads work on it.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Waits until all memory is allocated.
    ///
    /// # Errors
    /// [`Error::Prefault`] if the host has too little memory, [`Error::PrefaultUnsupported`] if its
    /// kernel is too old.
    pub fn join(mut self) -> Result<(), Error> {
        self.wait()
    }

    fn wait(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            // A panic on the thread is a bug of ours: let it be one here too.
            let one = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(one);
        }
        result
    }
}

impl Drop for Prefault {
    fn drop(&mut self) {
        self.work.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Nobody asks for the result any more.
            let _ = thread.join();
        }
    }
}

/// How many threads `size` bytes are worth on `cpus` processors.
fn thread_count(size: u64, cpus: usize) -> usize {
    usize::try_from(size.div_ceil(BYTES_PER_THREAD))
        .map_or(cpus, |wanted| wanted.min(cpus))
        .max(1)
}

/// Mappings cut into chunks, which threads take one after the other.
#[derive(Debug)]
struct Work {
    mappings: Vec<Arc<Mapping>>,
    /// The number of the next chunk, counted through all mappings.
    next: AtomicUsize,
    /// Somebody failed or gave up.
    stop: AtomicBool,
}

impl Work {
    fn new(mappings: Vec<Arc<Mapping>>) -> Self {
        Self {
            mappings,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn run(&self) -> Result<(), Error> {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((mapping, offset, count)) = self.chunk(number) else {
                break;
            };
            mapping
                .allocate(offset, count)
                .inspect_err(|_| self.stop.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }

    /// Mapping, offset and length in bytes of chunk `number`.
    fn chunk(&self, number: usize) -> Option<(&Mapping, usize, usize)> {
        let mut number = number;
        for mapping in &self.mappings {
            let chunk = usize::try_from(CHUNK.max(mapping.page_size())).ok()?;
            let size = usize::try_from(mapping.size()).ok()?;
            let chunks = size.div_ceil(chunk);
            if number < chunks {
                let offset = number * chunk;
                return Some((mapping, offset, chunk.min(size - offset)));
            }
            number -= chunks;
        }
        None
    }
}

#[cfg(test)]
mod tests;
