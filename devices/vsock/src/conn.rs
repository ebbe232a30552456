//! One connection.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::backlog::Backlog;
use crate::credit::Credit;
use crate::packet::{HOST_CID, Header, STREAM, op, shutdown};

/// What tells one connection of the guest from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The host's port.
    pub(crate) local: u32,
    /// The guest's port.
    pub(crate) peer: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A program of the host has not said yet whom it wants.
    Greeting,
    /// The guest was asked and has not answered.
    Requested,
    /// Both sides know each other.
    Open,
    /// The guest is done with it. What it sent before is still on its way to the host's program.
    Draining,
    /// It is over, and the guest is to hear of it.
    Ending,
}

/// Operations that the guest is to be sent, besides data.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due(u16);

impl Due {
    /// Adds one.
    pub(crate) fn add(&mut self, op: u16) {
        self.0 |= 1 << op;
    }

    /// The one that comes next, by number: a connection begins before all else.
    pub(crate) fn first(self) -> Option<u16> {
        u16::try_from(self.0.trailing_zeros())
            .ok()
            .filter(|op| *op < 16)
    }

    /// It was sent.
    pub(crate) fn done(&mut self, op: u16) {
        self.0 &= !(1 << op);
    }

    pub(crate) fn has(self, op: u16) -> bool {
        self.0 & 1 << op != 0
    }

    /// There will be this one and no other.
    pub(crate) fn only(op: u16) -> Self {
        Self(1 << op)
    }
}

/// A connection, with the host's Unix socket.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Non-blocking.
    pub(crate) fd: OwnedFd,
    pub(crate) key: Key,
    pub(crate) phase: Phase,
    pub(crate) credit: Credit,
    pub(crate) backlog: Backlog,
    pub(crate) due: Due,
    /// There may be something to read from the host's program. It was not told since that there is more.
    pub(crate) readable: bool,
    /// The host's program sends no more: what is there is read to its end without being told again.
    pub(crate) hung_up: bool,
    /// The host's program is gone altogether.
    pub(crate) gone: bool,
    /// The guest gets what the host's program sends.
    pub(crate) reading: bool,
    /// The host's program gets what the guest sends.
    pub(crate) writing: bool,
    /// What the guest does no more: flags of [`shutdown`].
    pub(crate) guest_shut: u32,
    /// What the host's program does no more.
    pub(crate) host_shut: u32,
    /// The guest was asked for credit.
    pub(crate) asked: bool,
    /// Buffers to read into at once: more when the host's program sends much.
    pub(crate) burst: usize,
    /// The connection ends after so many ticks; never if 0.
    pub(crate) ticks: u8,
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd, key: Key, phase: Phase) -> Self {
        Self {
            fd,
            key,
            phase,
            credit: Credit::default(),
            backlog: Backlog::default(),
            due: Due::default(),
            readable: true,
            hung_up: false,
            gone: false,
            reading: true,
            writing: true,
            guest_shut: 0,
            host_shut: 0,
            asked: false,
            burst: 1,
            ticks: 0,
        }
    }

    /// The header of a packet to the guest that has no data.
    pub(crate) fn header(&mut self, guest_cid: u64, op: u16) -> Header {
        let mut header = Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.key.local,
            dst_port: self.key.peer,
            kind: STREAM,
            op,
            ..Header::default()
        };
        if op == op::SHUTDOWN {
            header.flags = self.host_shut;
        }
        self.credit.tell(&mut header);
        header
    }

    /// The guest is to get what the host's program sent.
    pub(crate) fn wants_to_read(&self) -> bool {
        self.phase == Phase::Open && self.reading && self.readable
    }

    /// There is something for the guest, and it has room.
    pub(crate) fn has_work(&self) -> bool {
        self.due.first().is_some() || self.wants_to_read() && self.credit.room() > 0
    }

    /// The host's program sends no more.
    pub(crate) fn end_of_stream(&mut self) {
        self.reading = false;
        let all = if self.gone {
            shutdown::BOTH
        } else {
            shutdown::SEND
        };
        self.tell_shut(all);
    }

    /// The host's program takes no more: what the guest sends from here on is thrown away.
    pub(crate) fn end_of_writing(&mut self) {
        self.writing = false;
        self.discard();
        self.tell_shut(shutdown::RECEIVE);
    }

    /// The host's program is gone, and what it sent was read.
    pub(crate) fn is_over_for_host(&self) -> bool {
        self.host_shut == shutdown::BOTH
    }

    fn tell_shut(&mut self, flags: u32) {
        if self.host_shut | flags != self.host_shut {
            self.host_shut |= flags;
            if self.phase == Phase::Open {
                self.due.add(op::SHUTDOWN);
            }
        }
    }

    /// The guest tells of its room with every packet.
    pub(crate) fn learn(&mut self, header: &Header) {
        self.credit.learn(header);
        if self.credit.room() > 0 {
            self.asked = false;
        }
    }

    /// So many bytes of the guest have left our room. It hears of that if it is much.
    pub(crate) fn forwarded(&mut self, count: u32) {
        self.credit.forwarded(count);
        if self.credit.is_worth_telling() && self.phase == Phase::Open {
            self.due.add(op::CREDIT_UPDATE);
        }
    }

    fn discard(&mut self) {
        let count = u32::try_from(self.backlog.len()).unwrap_or(u32::MAX);
        self.credit.forwarded(count);
        self.backlog.clear();
    }

    /// Writes what has waited. Gives the number of bytes that were taken. If the guest sends no more, neither do
    /// we, once all is written.
    pub(crate) fn flush(&mut self) -> u32 {
        match self.backlog.write_to(&self.fd) {
            Ok(count) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.forwarded(count);
                self.finish_writing();
                count
            }
            Err(_) => {
                self.end_of_writing();
                0
            }
        }
    }

    /// Tells the host's program that no more comes, once that is so.
    pub(crate) fn finish_writing(&self) {
        if self.guest_shut & shutdown::SEND != 0 && self.backlog.is_empty() && self.writing {
            self.shut(Shutdown::Write);
        }
    }

    /// Ends one direction of the Unix socket.
    pub(crate) fn shut(&self, how: Shutdown) {
        match rustix::net::shutdown(&self.fd, how) {
            // The other side has gone already.
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(errno) => telemetry::warn!("vsock: cannot shut a socket down: {errno}"),
        }
    }
}
