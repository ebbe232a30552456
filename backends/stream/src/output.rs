//! Where the bytes go that a guest prints.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::kept::Kept;
use crate::terminal::RawMode;

/// How long one write waits for a terminal or pipe that takes nothing. Long enough for a slow
/// line; a terminal that was stopped delays the guest once by this much and then no more.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a terminal or socket that says it has room takes without blocking. Needed only where the
/// descriptor itself cannot be made non-blocking.
const SURE_ROOM: usize = 64;

/// Where the bytes go that a guest prints. Clones are the same place.
///
/// A write takes all of its bytes, from any thread, and never waits for a reader for longer than
/// half a second; what that costs depends on the endpoint (see the [crate]). Errors are those of
/// the file or terminal: a full disk, a closed pipe. [`Output::dropped`] counts what was lost.
#[derive(Clone, Debug)]
pub struct Output(Sink);

#[derive(Clone, Debug)]
enum Sink {
    Null,
    Direct(Arc<Direct>),
    Kept(Arc<Kept>),
}

impl Output {
    pub(crate) fn null() -> Self {
        Self(Sink::Null)
    }

    pub(crate) fn direct(direct: Direct) -> Self {
        Self(Sink::Direct(Arc::new(direct)))
    }

    pub(crate) fn kept(kept: Arc<Kept>) -> Self {
        Self(Sink::Kept(kept))
    }

    /// How many bytes were lost because nobody read them in time: pushed out of a full ring, or
    /// given up on at a terminal that takes nothing.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            Sink::Null => 0,
            Sink::Direct(direct) => direct.dropped.load(Ordering::Relaxed),
            Sink::Kept(kept) => kept.forgotten(),
        }
    }
}

#[cfg(test)]
impl Output {
    /// Whether what is printed goes to somebody rather than into the ring.
    pub(crate) fn has_reader(&self) -> bool {
        matches!(&self.0, Sink::Kept(kept) if kept.has_reader())
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Sink::Null => {}
            Sink::Direct(direct) => direct.write_all(bytes)?,
            Sink::Kept(kept) => kept.write(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file or terminal that is written without a ring.
#[derive(Debug)]
pub(crate) struct Direct {
    fd: OwnedFd,
    manner: Manner,
    /// The last write ran out of patience: the next ones do not wait.
    stalled: AtomicBool,
    dropped: AtomicU64,
    /// Held for as long as somebody prints on the terminal.
    _raw: Option<RawMode>,
}

/// How to write without being blocked for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// A disk has no reader to wait for.
    Disk,
    /// The descriptor never blocks.
    NonBlocking,
    /// The descriptor is shared with other processes that expect it to block.
    AskFirst,
}

impl Direct {
    /// Writes to a file that was opened for this.
    pub(crate) fn file(file: File) -> Result<Self, Errno> {
        let manner = if is_disk_file(&file)? {
            Manner::Disk
        } else {
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
            Manner::NonBlocking
        };
        Ok(Self::new(file.into(), manner, None))
    }

    /// Writes to standard output, of which `stdout` is a duplicate.
    pub(crate) fn stdout(stdout: OwnedFd, raw: Option<RawMode>) -> Result<Self, Errno> {
        if is_disk_file(&stdout)? {
            return Ok(Self::new(stdout, Manner::Disk, raw));
        }
        // Whether a descriptor blocks is shared with everybody who inherited it: the shell would
        // be surprised. Opened once more it is our own. That is refused for sockets, and for the
        // terminal of another user.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, "/proc/self/fd/1", flags, Mode::empty()) {
            Ok(own) => Ok(Self::new(own, Manner::NonBlocking, raw)),
            Err(_) => Ok(Self::new(stdout, Manner::AskFirst, raw)),
        }
    }

    fn new(fd: OwnedFd, manner: Manner, raw: Option<RawMode>) -> Self {
        let (stalled, dropped) = (AtomicBool::new(false), AtomicU64::new(0));
        Self {
            fd,
            manner,
            stalled,
            dropped,
            _raw: raw,
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let patience = if self.stalled.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let mut deadline = None;
        let mut left = bytes;
        let mut ask = self.manner == Manner::AskFirst;
        while !left.is_empty() {
            if ask {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience);
                if !self.wait_for_room(deadline)? {
                    self.give_up(left);
                    return Ok(());
                }
            }
            match rustix::io::write(&self.fd, self.portion(left)) {
                Ok(count) => {
                    left = &left[count..];
                    // Whoever takes some is not stalled, however slow.
                    deadline = None;
                    ask = self.manner == Manner::AskFirst || count == 0;
                }
                // It said it had room, and has none after all.
                Err(Errno::AGAIN) if deadline.is_some_and(|end| Instant::now() >= end) => {
                    self.give_up(left);
                    return Ok(());
                }
                Err(Errno::AGAIN) => ask = true,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.stalled.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Loses `left`, and lets the next writes not wait.
    fn give_up(&self, left: &[u8]) {
        self.stalled.store(true, Ordering::Relaxed);
        self.dropped.fetch_add(
            u64::try_from(left.len()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    fn portion<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.manner {
            Manner::AskFirst => &bytes[..bytes.len().min(SURE_ROOM)],
            Manner::Disk | Manner::NonBlocking => bytes,
        }
    }

    /// Whether there was room for at least one byte before the deadline.
    fn wait_for_room(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Patience is below a second.
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&timeout))
            {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn is_disk_file(fd: impl std::os::fd::AsFd) -> Result<bool, Errno> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(matches!(
        FileType::from_raw_mode(mode),
        FileType::RegularFile | FileType::BlockDevice
    ))
}
