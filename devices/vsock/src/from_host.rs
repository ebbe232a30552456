//! What programs of the host do: connect, say whom they want, send, take and leave.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::conn::{Conn, Key, Phase};
use crate::packet::op;
use crate::switch::{ANSWER_TICKS, HOST_TICKS, MOST_GREETINGS, Switch};
use crate::watch::{BATCH, Change};

/// The longest greeting, with its end of line: `CONNECT 4294967295\r\n` has 20 bytes.
const GREETING_LEN: usize = 32;
/// Clients taken in at once.
const ACCEPTS: usize = 32;

/// Whether the door stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// The system is out of something: to be opened again later.
    Shut,
}

impl Switch {
    /// Takes in clients that wait at the door.
    pub(crate) fn accept(&mut self) -> Door {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok(fd) => self.greet(fd),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    telemetry::warn!("vsock: cannot take clients in for now: {errno}");
                    self.clock.run();
                    return Door::Shut;
                }
            }
        }
        Door::Open
    }

    fn greet(&mut self, fd: OwnedFd) {
        if self.table.is_full() || self.greetings >= MOST_GREETINGS {
            telemetry::warn!(
                "vsock: a client is refused: there are {} connections, {} of which have not said \
                 \"CONNECT <port>\" yet",
                self.table.len(),
                self.greetings
            );
            return;
        }
        let nobody = Key { local: 0, peer: 0 };
        self.admit(Conn::new(fd, nobody, Phase::Greeting));
    }

    /// Looks at the sockets that have changed.
    pub(crate) fn look(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let mut changes = [None; BATCH];
        for (place, change) in changes.iter_mut().zip(self.watch.changes(&mut buffer)) {
            *place = Some(change);
        }
        for change in changes.into_iter().flatten() {
            self.changed(change);
        }
    }

    fn changed(&mut self, change: Change) {
        let at = change.at;
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        conn.readable |= change.readable;
        conn.hung_up |= change.hung_up;
        conn.gone |= change.gone;
        if conn.phase == Phase::Greeting {
            return self.read_greeting(at);
        }
        if change.writable {
            self.flush(at);
        }
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        // Nobody reads what would tell that.
        if change.gone && !conn.reading && conn.phase == Phase::Open {
            conn.end_of_stream();
        }
        if conn.has_work() || conn.wants_to_read() {
            self.table.queue(at);
        }
    }

    /// The host's program has room for what has waited.
    fn flush(&mut self, at: usize) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        if conn.backlog.is_empty() {
            return;
        }
        let progress = conn.flush() > 0;
        let (phase, is_empty) = (conn.phase, conn.backlog.is_empty());
        match (phase, is_empty) {
            (Phase::Draining, true) => self.remove(at),
            (Phase::Draining, false) if progress => conn.ticks = HOST_TICKS,
            (_, true) => self.watch.hear_writable(&conn.fd, at, false),
            (_, false) => {}
        }
    }

    /// Reads `CONNECT <port>` and asks the guest. What follows the line is data and stays where it is.
    fn read_greeting(&mut self, at: usize) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        let mut line = [0; GREETING_LEN];
        let len = match rustix::net::recv(&conn.fd, &mut line, RecvFlags::PEEK) {
            Ok((len, _)) => len,
            Err(Errno::AGAIN | Errno::INTR) if !conn.hung_up => return,
            Err(_) => 0,
        };
        let Some(end) = line[..len].iter().position(|byte| *byte == b'\n') else {
            if len == 0 || len == GREETING_LEN || conn.hung_up {
                self.remove(at);
            }
            return;
        };
        let taken = rustix::net::recv(&conn.fd, &mut line[..=end], RecvFlags::empty());
        match (taken, port(&line[..end])) {
            (Ok((taken, _)), Some(port)) if taken == end + 1 => self.request(at, port),
            _ => {
                telemetry::warn!(
                    "vsock: a client is refused: it did not begin with \"CONNECT <port>\""
                );
                self.remove(at);
            }
        }
    }

    /// Asks the guest for a connection.
    fn request(&mut self, at: usize, peer: u32) {
        let local = self.take_port(peer);
        self.table.name(at, Key { local, peer });
        self.greetings = self.greetings.saturating_sub(1);
        if let Some(conn) = self.table.get_mut(at) {
            conn.phase = Phase::Requested;
            conn.due.add(op::REQUEST);
        }
        self.limit(at, ANSWER_TICKS);
        self.table.queue(at);
    }
}

/// The port in a greeting without its newline.
fn port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let digits = line.strip_prefix("CONNECT ")?.trim_end_matches(['\r', ' ']);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::port;

    #[test]
    fn a_greeting_is_a_word_and_a_port() {
        assert_eq!(port(b"CONNECT 0"), Some(0));
        assert_eq!(port(b"CONNECT 4294967295\r"), Some(u32::MAX));
        for bad in [
            "CONNECT 4294967296",
            "CONNECT ",
            "CONNECT",
            "connect 1",
            "CONNECT +1",
            "CONNECT -1",
            "CONNECT 1 2",
            "CONNECT 0x10",
            "",
        ] {
            assert_eq!(port(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(port(b"CONNECT \xff"), None);
    }
}
