//! Plain system calls, one step after the other.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{Timespec, epoll};

use super::{Happened, Port, Step, Until};
use crate::image::Image;
use crate::sys;

/// Readable descriptors that one look tells of.
const LOOK: usize = 16;

pub(crate) struct Sync {
    image: Arc<Image>,
    steps: VecDeque<(u32, Step)>,
    epoll: OwnedFd,
}

impl Sync {
    pub(crate) fn new(image: Arc<Image>) -> io::Result<Self> {
        Ok(Self {
            image,
            steps: VecDeque::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    fn look(&self, block: bool, ready: &mut Vec<u64>) -> io::Result<()> {
        let at_once = Timespec::default();
        let timeout = (!block).then_some(&at_once);
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); LOOK];
        match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Port for Sync {
    unsafe fn take(&mut self, slot: u32, step: Step) {
        self.steps.push_back((slot, step));
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    fn wait(&mut self, until: Until, happened: &mut Happened) -> io::Result<()> {
        while let Some((slot, step)) = self.steps.pop_front() {
            // SAFETY: as `take` asks, what the step points to is still there.
            let result = unsafe { carry_out(&self.image, step) };
            happened.done.push((slot, as_number(result)));
        }
        if until == Until::StepDone {
            return Ok(());
        }
        loop {
            let block = until == Until::Anything && happened.is_empty();
            self.look(block, &mut happened.ready)?;
            if !block || !happened.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Does a step here and now; gives the number of bytes.
///
/// # Safety
/// What the step points to is valid and not borrowed.
pub(super) unsafe fn carry_out(image: &Image, step: Step) -> io::Result<usize> {
    match step {
        // SAFETY: the caller vouches for it.
        Step::Read { vectors, offset } => unsafe { sys::read(image.fd(), vectors, offset) },
        // SAFETY: the caller vouches for it.
        Step::Write { vectors, offset } => unsafe { sys::write(image.fd(), vectors, offset) },
        Step::Sync => sys::sync(image.fd()).map(|()| 0),
        Step::Allocate {
            mode,
            offset,
            length,
        } => sys::allocate(image.fd(), mode, offset, length).map(|()| 0),
    }
}

/// A result as the kernel's rings have it.
pub(super) fn as_number(result: io::Result<usize>) -> i32 {
    match result {
        // No transfer is larger than 2 GiB (read(2)).
        Ok(bytes) => i32::try_from(bytes).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}
