//! io_uring(7): one system call hands over what is to be done and waits for what is done, and for descriptors.
//!
//! A descriptor is watched by a poll request that tells once. It is put into the ring again with the next wait, which
//! is a system call anyhow, and tells at once if the descriptor is still readable.
//!
//! # Writes to the page cache
//!
//! A ring writes to the page cache by itself only if the file system can say "not now" instead of waiting. Where it
//! cannot (ext4), each write goes to a thread of the kernel and back: measured, a tenth of the writes per second at ten
//! times the processor time of a plain pwritev(2), which is a copy in memory. So the first write of a lane asks the
//! file system (`RWF_NOWAIT`), and if it cannot, writes are made here, after what else there is was handed over.
//!
//! # tmpfs
//!
//! It cannot say "not now" either, and a ring gives its reads to a thread of the kernel as well. Where files are memory,
//! both ways are copies that wait for nothing, and are made here. Reads of other such file systems stay the ring's: a
//! read of theirs can take long (network, FUSE), and others are not to wait behind it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, opcode};

use super::sync::{as_number, carry_out};
use super::{Happened, Port, Step, Until};
use crate::image::Image;
use crate::sys;

/// The image in the ring's table of files.
const IMAGE: Fixed = Fixed(0);
/// Tells the requests that watch from the others.
const WATCH: u64 = 1 << 32;
/// Entries beside those for requests, for what is watched.
const WATCHES: u32 = 8;

struct Watched {
    fd: RawFd,
    token: u64,
    armed: bool,
}

pub(crate) struct Uring {
    ring: IoUring,
    image: Arc<Image>,
    /// What the ring has no room for yet.
    later: VecDeque<Entry>,
    watched: Vec<Watched>,
    writes: Writes,
    /// Transfers that are made by this thread.
    here: VecDeque<(u32, Step)>,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// To be asked.
    Unknown,
    Ring,
    Here,
}

fn set_up(entries: u32) -> io::Result<IoUring> {
    // Whoever waits enters the kernel anyhow, so nobody has to be interrupted for a completion (since 5.19).
    match IoUring::builder()
        .setup_clamp()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(entries)
    {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_clamp().build(entries)
        }
        other => other,
    }
}

/// Whether the kernel has io_uring with all that is needed; if not, the words for it.
pub(super) fn probe() -> Result<(), String> {
    let ring = set_up(2).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => "the host's kernel has no io_uring".to_owned(),
        Some(libc::EPERM) => {
            "io_uring_setup: not permitted (sysctl kernel.io_uring_disabled, or a container's \
             filter)"
                .to_owned()
        }
        _ => format!("io_uring_setup: {error}"),
    })?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| format!("io_uring_register: {error}"))?;
    let needed = [
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::Readv::CODE, "READV"),
        (opcode::Writev::CODE, "WRITEV"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Fallocate::CODE, "FALLOCATE"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(format!("the host's io_uring does not have {name}")),
        None if !ring.params().is_feature_nodrop() => {
            Err("the host's io_uring may lose completions".to_owned())
        }
        None => Ok(()),
    }
}

impl Uring {
    pub(crate) fn new(image: Arc<Image>, depth: u16) -> io::Result<Self> {
        let ring = set_up(u32::from(depth) + WATCHES)?;
        ring.submitter().register_files(&[image.fd()])?;
        Ok(Self {
            ring,
            writes: match (image.in_memory, image.direct) {
                (true, _) => Writes::Here,
                (false, true) => Writes::Ring,
                (false, false) => Writes::Unknown,
            },
            image,
            later: VecDeque::new(),
            watched: Vec::new(),
            here: VecDeque::new(),
        })
    }

    /// Fills the ring with what is to be begun. What it has no room for comes with the next round.
    fn fill(&mut self, watch: bool) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.later.front() {
            // SAFETY: as `take` asks, what the entry points to stays until its completion.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.later.pop_front();
        }
        let idle = |(_, watched): &(usize, &mut Watched)| !watched.armed && watch;
        for (index, watched) in self.watched.iter_mut().enumerate().filter(idle) {
            let entry = opcode::PollAdd::new(Fd(watched.fd), libc::POLLIN as u32)
                .build()
                .user_data(WATCH | index as u64);
            // SAFETY: the entry points to nothing.
            if unsafe { queue.push(&entry) }.is_err() {
                return;
            }
            watched.armed = true;
        }
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // A signal; or completions that have to be taken first. The next round goes on.
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn collect(&mut self, happened: &mut Happened) -> io::Result<()> {
        for completion in self.ring.completion() {
            let (data, result) = (completion.user_data(), completion.result());
            let low = u32::try_from(data & (WATCH - 1)).unwrap_or(u32::MAX);
            if data & WATCH == 0 {
                happened.done.push((low, result));
            } else if let Some(watched) = self.watched.get_mut(low as usize) {
                watched.armed = false;
                match result {
                    0.. => happened.ready.push(watched.token),
                    // The thread that asked has ended: this one asks again.
                    _ if result == -libc::ECANCELED => {}
                    _ => return Err(io::Error::from_raw_os_error(-result)),
                }
            }
        }
        Ok(())
    }
}

impl Uring {
    fn hand_over(&mut self, slot: u32, step: Step) {
        let entry = build(step).user_data(slot.into());
        if self.later.is_empty() {
            // SAFETY: as `take` asks, what the entry points to stays until its completion.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.later.push_back(entry);
    }

    /// Asks with a write whether the file system can write without waiting. Gives the result if it was written.
    fn ask(&mut self, step: Step) -> Option<i32> {
        let Step::Write { vectors, offset } = step else {
            return None;
        };
        // SAFETY: as `take` asks, what the step points to is still there.
        let answer = unsafe { sys::write_at_once(self.image.fd(), vectors, offset) };
        let number = answer.as_ref().err().and_then(io::Error::raw_os_error);
        self.writes = match number {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Writes::Here,
            _ => Writes::Ring,
        };
        answer.ok().map(|count| as_number(Ok(count)))
    }

    /// Makes the transfers that are this thread's.
    fn transfer_here(&mut self, happened: &mut Happened) -> io::Result<()> {
        while let Some((slot, step)) = self.here.pop_front() {
            let result = match self.writes {
                Writes::Unknown => self.ask(step),
                Writes::Ring => None,
                Writes::Here => {
                    if !self.ring.submission().is_empty() {
                        self.enter(0)?;
                    }
                    // SAFETY: as `take` asks, what the step points to is still there.
                    Some(as_number(unsafe { carry_out(&self.image, step) }))
                }
            };
            match result {
                Some(result) => happened.done.push((slot, result)),
                None if self.writes == Writes::Here => self.here.push_front((slot, step)),
                None => self.hand_over(slot, step),
            }
        }
        Ok(())
    }
}

impl Port for Uring {
    unsafe fn take(&mut self, slot: u32, step: Step) {
        match step {
            Step::Write { .. } if self.writes != Writes::Ring => self.here.push_back((slot, step)),
            Step::Read { .. } if self.image.in_memory => self.here.push_back((slot, step)),
            _ => self.hand_over(slot, step),
        }
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.watched.push(Watched {
            fd: sys::number(fd),
            token,
            armed: false,
        });
        Ok(())
    }

    fn wait(&mut self, until: Until, happened: &mut Happened) -> io::Result<()> {
        let is_enough = |happened: &Happened| match until {
            Until::Now => true,
            Until::Anything => !happened.is_empty(),
            Until::StepDone => !happened.done.is_empty(),
        };
        if !self.here.is_empty() {
            self.transfer_here(happened)?;
        }
        loop {
            self.fill(until != Until::StepDone);
            let some = !self.ring.completion().is_empty();
            let want = usize::from(!some && !is_enough(happened));
            // Nothing to hand over and nothing to wait for: no reason to call, unless the kernel has completions that
            // it shows to whoever calls.
            let (empty, hidden) = {
                let queue = self.ring.submission();
                (queue.is_empty(), queue.taskrun() || queue.cq_overflow())
            };
            if want > 0 || !empty || hidden {
                self.enter(want)?;
            }
            self.collect(happened)?;
            if is_enough(happened) && self.later.is_empty() {
                return Ok(());
            }
        }
    }
}

fn build(step: Step) -> Entry {
    match step {
        // One vector is read here, which saves the kernel from reading it.
        Step::Read { vectors, offset } => match single(vectors) {
            Some((address, length)) => opcode::Read::new(IMAGE, address, length)
                .offset(offset)
                .build(),
            None => opcode::Readv::new(IMAGE, vectors.first, vectors.count)
                .offset(offset)
                .build(),
        },
        Step::Write { vectors, offset } => match single(vectors) {
            Some((address, length)) => opcode::Write::new(IMAGE, address, length)
                .offset(offset)
                .build(),
            None => opcode::Writev::new(IMAGE, vectors.first, vectors.count)
                .offset(offset)
                .build(),
        },
        Step::Sync => opcode::Fsync::new(IMAGE)
            .flags(FsyncFlags::DATASYNC)
            .build(),
        Step::Allocate {
            mode,
            offset,
            length,
        } => opcode::Fallocate::new(IMAGE, length)
            .offset(offset)
            .mode(mode)
            .build(),
    }
}

fn single(vectors: sys::Vectors) -> Option<(*mut u8, u32)> {
    if vectors.count != 1 {
        return None;
    }
    // SAFETY: as `Port::take` asks, the vectors are valid.
    let vector = unsafe { vectors.first.read() };
    let length = u32::try_from(vector.iov_len).ok()?;
    Some((vector.iov_base.cast(), length))
}
