//! Ways for single steps to the kernel.

mod aio;
mod sync;
mod uring;

use std::io;
use std::os::fd::BorrowedFd;

pub(crate) use aio::Aio;
pub(crate) use sync::Sync;
pub(crate) use uring::Uring;

use crate::sys::{AioContext, Vectors};
use crate::{Engine, OpenOptions, PassedOver};

/// What the kernel is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Read {
        vectors: Vectors,
        offset: u64,
    },
    Write {
        vectors: Vectors,
        offset: u64,
    },
    Sync,
    /// fallocate(2).
    Allocate {
        mode: i32,
        offset: u64,
        length: u64,
    },
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Not at all.
    Now,
    /// Until a step is done or a watched descriptor is readable.
    Anything,
    /// Until a step is done.
    StepDone,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    /// Slot and result: a number of bytes, or an error's number below zero.
    pub(crate) done: Vec<(u32, i32)>,
    /// Tokens of descriptors that are readable.
    pub(crate) ready: Vec<u64>,
}

impl Happened {
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.ready.is_empty()
    }
}

/// Brings steps to the kernel, all of one image.
pub(crate) trait Port: Send {
    /// Takes a step, to be begun with the next [`Port::wait`].
    ///
    /// # Safety
    /// The vectors of a read or write, and what they point to, stay valid and are not borrowed until the step's end
    /// was told; also if the port is dropped before.
    unsafe fn take(&mut self, slot: u32, step: Step);

    /// From now on the descriptor is waited for.
    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()>;

    /// Begins what was taken, waits, and adds what happened.
    fn wait(&mut self, until: Until, happened: &mut Happened) -> io::Result<()>;
}

/// The best engine there is that the user did not turn off, and why the better ones are not used.
pub(crate) fn choose(options: &OpenOptions) -> (Engine, Vec<PassedOver>) {
    let candidates = [
        (
            Engine::IoUring,
            options.disable_io_uring,
            "turned off by _disable_io_uring=on",
            uring::probe as fn() -> Result<(), String>,
        ),
        (
            Engine::Aio,
            options.disable_aio,
            "turned off by _disable_aio=on",
            probe_aio,
        ),
    ];
    let mut passed_over = Vec::new();
    for (engine, disabled, words, probe) in candidates {
        let answer = match disabled {
            true => Err(words.to_owned()),
            false => probe(),
        };
        match answer {
            Ok(()) => return (engine, passed_over),
            Err(reason) => passed_over.push(PassedOver { engine, reason }),
        }
    }
    (Engine::Sync, passed_over)
}

fn probe_aio() -> Result<(), String> {
    match AioContext::new(1) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(format!(
            "io_setup: {error}: the host's limit fs.aio-max-nr is reached"
        )),
        Err(error) => Err(format!("io_setup: {error}")),
    }
}
