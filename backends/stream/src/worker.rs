//! The thread that takes readers in and out and gives the guest what they type.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use reactor::{Interest, Kick, Readiness, Sources, Timer, Token, Worker};
use rustix::io::Errno;

use crate::Input;
use crate::kept::Kept;
use crate::open::Source;
use crate::pty::is_hung_up;

/// Where bytes typed by the user go: a UART's receive FIFO, a virtqueue.
pub trait Receiver: Send + 'static {
    /// How many bytes it can take now. Once this was 0, the device must ring the worker's
    /// `resume` bell when there is room again: nothing is read before that.
    fn room(&mut self) -> usize;

    /// Takes bytes, never more than [`Receiver::room`] just said.
    fn receive(&mut self, bytes: &[u8]);
}

/// A receiver that throws away what is typed, for devices that only print.
#[derive(Clone, Copy, Debug)]
pub struct Discard;

impl Receiver for Discard {
    fn room(&mut self) -> usize {
        usize::MAX
    }

    fn receive(&mut self, _: &[u8]) {}
}

const PEER: Token = Token(0);
const ARRIVAL: Token = Token(1);
const RESUME: Token = Token(2);
const WAKE: Token = Token(3);
const RETRY: Token = Token(4);

/// The most bytes read at once.
const CHUNK: usize = 4096;

/// Peers that left and whose last words still wait for the guest to read them. Scripts connect,
/// say a line and leave; more of them than this at a time lose what they said.
const DEPARTED_LIMIT: usize = 8;

/// How long to wait before looking again for what nothing announces.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Takes readers in and out and gives the receiver what they type. Run it as a
/// [`reactor::Task`] with [`SYSCALLS`](crate::SYSCALLS) in its filter.
///
/// A client stays connected while the task is stopped and is served again by the next.
#[derive(Debug)]
pub struct InputWorker<R> {
    source: Source,
    receiver: R,
    resume: Kick,
    peer: Option<Peer>,
    departed: VecDeque<Arc<OwnedFd>>,
    /// Set to look again later, when the system is out of something.
    retry: Option<Timer>,
}

/// Whom we read from now.
#[derive(Debug)]
struct Peer {
    fd: Arc<OwnedFd>,
    /// They have not closed their side.
    speaking: bool,
    watched: Watched,
}

/// How to learn that a peer is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// Not among the sources yet.
    No,
    For(Interest),
    /// It is a file, for which one cannot wait (epoll_ctl(2), `EPERM`), nor has to.
    AlwaysReady,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Some,
    NoRoom,
    NothingYet,
    End,
}

impl<R: Receiver> InputWorker<R> {
    /// A worker that gives what comes from `input` to `receiver`, and looks at the receiver's
    /// room again when `resume` rings.
    pub fn new(input: Input, receiver: R, resume: Kick) -> Self {
        let peer = match &input.0 {
            Source::Terminal(terminal) => Some(Peer::new(Arc::clone(&terminal.stdin))),
            Source::Pty { .. } | Source::Socket { .. } => None,
        };
        Self {
            source: input.0,
            receiver,
            resume,
            peer,
            departed: VecDeque::new(),
            retry: None,
        }
    }

    /// Where the bytes go.
    pub fn receiver(&mut self) -> &mut R {
        &mut self.receiver
    }

    /// Whether a client is connected, or the terminal's keyboard still there.
    pub fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// The bell that makes the worker run once more.
    fn wake(&self) -> &Kick {
        match &self.source {
            Source::Terminal(terminal) => &terminal.again,
            Source::Pty { lagging, .. } | Source::Socket { lagging, .. } => lagging,
        }
    }

    fn kept(&self) -> Option<&Kept> {
        match &self.source {
            Source::Terminal(_) => None,
            Source::Pty { kept, .. } | Source::Socket { kept, .. } => Some(kept),
        }
    }

    /// The current peer is ready.
    fn serve(&mut self, readiness: Readiness, sources: &mut Sources) -> io::Result<()> {
        let Some(peer) = &mut self.peer else {
            return Ok(());
        };
        if readiness.read && peer.speaking {
            let read = read_some(&peer.fd, &mut self.receiver);
            peer.speaking = read != Read::End;
        }
        if readiness.write
            && let Some(kept) = self.kept()
        {
            kept.flush();
        }
        if readiness.hung_up || readiness.error {
            self.part(sources)?;
            self.arrive();
        }
        Ok(())
    }

    /// The current peer went. What it said last may still be unread.
    fn part(&mut self, sources: &mut Sources) -> io::Result<()> {
        let Some(peer) = self.peer.take() else {
            return Ok(());
        };
        if let Watched::For(_) = peer.watched {
            sources.remove(&*peer.fd)?;
        }
        if let Some(kept) = self.kept() {
            kept.detach();
        }
        telemetry::debug!("a console's user left");
        if peer.speaking {
            if self.departed.len() < DEPARTED_LIMIT {
                self.departed.push_back(peer.fd);
            } else {
                telemetry::warn!(
                    "what a console's user typed is lost: {DEPARTED_LIMIT} have left before \
                     while the guest does not read"
                );
            }
        }
        Ok(())
    }

    /// Takes in the user of a pseudo terminal, if there is one and it is not known yet.
    fn arrive(&mut self) {
        let Source::Pty { pty, kept, .. } = &self.source else {
            return;
        };
        if self.peer.is_some() {
            return;
        }
        // All users are behind the same descriptor, so what the last one left unread comes first.
        self.departed.clear();
        if pty.has_user() {
            telemetry::debug!("a console has a user at {}", pty.path.display());
            kept.attach(Arc::clone(&pty.master));
            self.peer = Some(Peer::new(Arc::clone(&pty.master)));
        } else {
            // Somebody may have come, typed and gone before we looked.
            self.departed.push_back(Arc::clone(&pty.master));
            if pty.openings.is_none() {
                self.look_again_later();
            }
        }
    }

    /// Takes in or refuses the client at a socket's door.
    fn accept(&mut self, sources: &mut Sources) -> io::Result<()> {
        let Source::Socket { listener, .. } = &self.source else {
            return Ok(());
        };
        let client = match listener.accept() {
            Ok(client) => client,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
            Err(errno) => {
                telemetry::warn!("cannot take in a console's client for now: {errno}");
                sources.remove(&listener.fd)?;
                self.look_again_later();
                return Ok(());
            }
        };
        // The news that the last client went may be just behind this.
        if self.peer.as_ref().is_some_and(|peer| is_hung_up(&peer.fd)) {
            self.part(sources)?;
        }
        if self.peer.is_some() {
            telemetry::debug!("a console refused a second client");
            return Ok(());
        }
        telemetry::debug!("a console has a client");
        let client = Arc::new(client);
        if let Some(kept) = self.kept() {
            kept.attach(Arc::clone(&client));
        }
        self.peer = Some(Peer::new(client));
        Ok(())
    }

    fn look_again_later(&self) {
        if let Some(retry) = &self.retry
            && let Err(error) = retry.set(RETRY_AFTER)
        {
            telemetry::warn!("a console takes no users in any more: {error}");
        }
    }

    /// The time set by [`Self::look_again_later`] has come.
    fn look_again(&mut self, sources: &mut Sources) -> io::Result<()> {
        if let Source::Socket { listener, .. } = &self.source {
            sources.add(&listener.fd, ARRIVAL, Interest::READ)?;
        }
        self.arrive();
        Ok(())
    }

    /// Reads the last words of those who left, as far as there is room.
    fn hear_departed(&mut self) {
        while let Some(fd) = self.departed.front() {
            match read_some(fd, &mut self.receiver) {
                Read::Some => {}
                Read::NoRoom => return,
                Read::NothingYet | Read::End => drop(self.departed.pop_front()),
            }
        }
    }

    /// Waits for the peer as far as there is room for what it says, and for what it is to hear.
    fn watch_peer(&mut self, sources: &mut Sources) -> io::Result<()> {
        let lagging = self.kept().is_some_and(Kept::is_lagging);
        let Some(peer) = &mut self.peer else {
            return Ok(());
        };
        let listen = peer.speaking && self.departed.is_empty() && self.receiver.room() > 0;
        let wanted = Interest {
            read: listen,
            write: lagging,
        };
        match peer.watched {
            Watched::No => match sources.add(&*peer.fd, PEER, wanted) {
                Ok(()) => peer.watched = Watched::For(wanted),
                Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                    peer.watched = Watched::AlwaysReady;
                    self.wake().signal();
                }
                Err(error) => return Err(error),
            },
            Watched::For(present) if present != wanted => {
                sources.modify(&*peer.fd, PEER, wanted)?;
                peer.watched = Watched::For(wanted);
            }
            Watched::For(_) => {}
            Watched::AlwaysReady if listen => {
                // One chunk at a time, so that a file without an end does not keep the task from
                // being stopped.
                peer.speaking = read_some(&peer.fd, &mut self.receiver) != Read::End;
                self.wake().signal();
            }
            Watched::AlwaysReady => {}
        }
        self.close_keyboard(sources)
    }

    /// The end of standard input: the console goes on without.
    fn close_keyboard(&mut self, sources: &mut Sources) -> io::Result<()> {
        let ended = self.peer.as_ref().is_some_and(|peer| !peer.speaking);
        if ended && matches!(self.source, Source::Terminal(_)) {
            self.part(sources)?;
        }
        Ok(())
    }
}

impl<R: Receiver> Worker for InputWorker<R> {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        sources.add(&self.resume, RESUME, Interest::READ)?;
        sources.add(self.wake(), WAKE, Interest::READ)?;
        match &self.source {
            Source::Terminal(_) => {}
            Source::Pty { pty, .. } => {
                if let Some(openings) = &pty.openings {
                    sources.add(openings, ARRIVAL, Interest::READ)?;
                }
                self.retry = Some(sources.add_timer(RETRY)?);
            }
            Source::Socket { listener, .. } => {
                sources.add(&listener.fd, ARRIVAL, Interest::READ)?;
                self.retry = Some(sources.add_timer(RETRY)?);
            }
        }
        if let Some(peer) = &mut self.peer {
            peer.watched = Watched::No;
        }
        self.arrive();
        self.hear_departed();
        self.watch_peer(sources)
    }

    fn ready(
        &mut self,
        token: Token,
        readiness: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        match token {
            PEER => self.serve(readiness, sources)?,
            ARRIVAL => {
                if let Source::Pty { pty, .. } = &self.source {
                    pty.silence();
                }
                self.accept(sources)?;
                self.arrive();
            }
            RESUME => drop(self.resume.take()),
            WAKE => drop(self.wake().take()),
            RETRY => {
                if let Some(retry) = &self.retry {
                    retry.take();
                }
                self.look_again(sources)?;
            }
            _ => {}
        }
        self.hear_departed();
        self.watch_peer(sources)?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Nobody delivers any more: what is printed from now on is kept.
impl<R> Drop for InputWorker<R> {
    fn drop(&mut self) {
        if let Source::Pty { kept, .. } | Source::Socket { kept, .. } = &self.source {
            kept.detach();
        }
    }
}

impl Peer {
    fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            speaking: true,
            watched: Watched::No,
        }
    }
}

/// Reads once, no more than there is room for.
fn read_some(fd: &OwnedFd, receiver: &mut impl Receiver) -> Read {
    let room = receiver.room();
    if room == 0 {
        return Read::NoRoom;
    }
    let mut buffer = [0; CHUNK];
    match rustix::io::read(fd, &mut buffer[..room.min(CHUNK)]) {
        // Whatever the error, nothing more comes: a reset connection, a terminal hung up.
        Ok(0) => Read::End,
        Ok(length) => {
            receiver.receive(&buffer[..length]);
            Read::Some
        }
        Err(Errno::AGAIN | Errno::INTR) => Read::NothingYet,
        Err(_) => Read::End,
    }
}
