//! One connection of gdb, from its beginning to its end.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine as State;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use machine::{Debugger, News, Remote};
use rustix::event::{PollFd, PollFlags, poll};

use crate::target::{Target, tid};

/// How long gdb may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are read at a time.
const CHUNK: usize = 4096;

type Reason = MultiThreadStopReason<u64>;

/// Serves gdb until it goes.
pub(crate) fn serve(stream: UnixStream, debugger: &Arc<Debugger>, remote: &Remote) {
    if debugger.processors() == 0 {
        telemetry::warn!("gdb: there is no VM that runs: boot one first (vm.boot)");
        return;
    }
    telemetry::info!("gdb has come");
    let mut target = Target::new(Arc::clone(debugger));
    match talk(stream, &mut target) {
        Ok(Some(DisconnectReason::Kill)) => {
            telemetry::info!("gdb has ended the VM");
            return remote.stop();
        }
        Ok(_) => telemetry::info!("gdb has gone"),
        Err(why) => telemetry::warn!("gdb has gone: {why}"),
    }
    target.let_go();
}

/// Why gdb went; `None` if it just did.
fn talk(stream: UnixStream, target: &mut Target) -> Result<Option<DisconnectReason>, String> {
    let text = |error: io::Error| error.to_string();
    stream.set_write_timeout(Some(PATIENCE)).map_err(text)?;
    target.hold().map_err(|error| error.to_string())?;
    target.news();
    let mut input = Input {
        stream: stream.try_clone().map_err(text)?,
        bytes: VecDeque::new(),
    };
    let stub = GdbStub::new(stream);
    let mut state = stub
        .run_state_machine(target)
        .map_err(|error| error.to_string())?;
    loop {
        let next = match state {
            State::Idle(inner) => {
                let Some(byte) = input.idle().map_err(text)? else {
                    return Ok(None);
                };
                inner.incoming_data(target, byte)
            }
            State::Running(inner) => match input.running(target).map_err(text)? {
                Some(Event::Stopped(reason)) => inner.report_stop(target, reason),
                Some(Event::Byte(byte)) => inner.incoming_data(target, byte),
                None => return Ok(None),
            },
            State::CtrlCInterrupt(inner) => {
                target.hold().map_err(|error| error.to_string())?;
                let reason = Reason::SignalWithThread {
                    tid: target.last(),
                    signal: Signal::SIGINT,
                };
                inner.interrupt_handled(target, Some(reason))
            }
            State::Disconnected(inner) => return Ok(Some(inner.get_reason())),
        };
        state = next.map_err(|error| error.to_string())?;
    }
}

/// What happens while the guest runs.
enum Event {
    Stopped(Reason),
    Byte(u8),
}

/// What gdb sends.
struct Input {
    stream: UnixStream,
    bytes: VecDeque<u8>,
}

impl Input {
    /// The next byte while the guest stands still; `None` at the end. What happens to the machine meanwhile is seen
    /// when the guest is to go on.
    fn idle(&mut self) -> io::Result<Option<u8>> {
        if self.bytes.is_empty() {
            self.read()?;
        }
        Ok(self.bytes.pop_front())
    }

    /// What comes first while the guest runs; `None` at the end.
    fn running(&mut self, target: &mut Target) -> io::Result<Option<Event>> {
        loop {
            if let Some(byte) = self.bytes.pop_front() {
                return Ok(Some(Event::Byte(byte)));
            }
            if let Some(reason) = stopped(target) {
                return Ok(Some(Event::Stopped(reason)));
            }
            let mut sources = [
                PollFd::new(&self.stream, PollFlags::IN),
                PollFd::new(target.debugger(), PollFlags::IN),
            ];
            match poll(&mut sources, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if !sources[0].revents().is_empty() && !self.read()? {
                return Ok(None);
            }
        }
    }

    /// `false`: gdb sends nothing any more.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let count = self.stream.read(&mut chunk)?;
        self.bytes.extend(&chunk[..count]);
        Ok(count > 0)
    }
}

/// Whether the guest has come to a stop by itself, and why. All processors stand still then.
fn stopped(target: &mut Target) -> Option<Reason> {
    let news = target.news();
    if target.debugger().processors() == 0 {
        return Some(Reason::Exited(0));
    }
    let reason = news.into_iter().find_map(|news| match news {
        News::Trapped { index, trap } => Some(target.reason(index, trap)),
        // It has started anew, and begins where the first one did.
        News::Built => Some(Reason::SignalWithThread {
            tid: tid(0),
            signal: Signal::SIGTRAP,
        }),
        News::Gone => None,
    })?;
    if let Err(error) = target.hold() {
        telemetry::warn!("gdb: {}", telemetry::chain(&error).join(": "));
    }
    Some(reason)
}
