//! Packets of the guest.

use std::io::Read;

use rustix::io::Errno;
use rustix::net::Shutdown;
use virtio::{Chain, Ring};

use crate::conn::{Conn, Due, Key, Phase};
use crate::held::Taken;
use crate::packet::{HEADER_LEN, HOST_CID, Header, STREAM, op, shutdown};
use crate::switch::{ANSWER_TICKS, HOST_TICKS, MOST_RESETS, Switch};

impl Switch {
    /// The guest has not taken the resets it was sent: until it does, its packets wait.
    pub(crate) fn is_congested(&self) -> bool {
        self.resets.len() >= MOST_RESETS
    }

    /// Takes packets of the guest, up to a queue full. True if there may be more.
    ///
    /// Data of one connection that comes in packets one after the other is written by one system call. The packets go
    /// back when that is done, in their order.
    pub(crate) fn take_packets(&mut self, ring: &mut Ring) -> bool {
        let more = self.take_up_to(ring.size(), ring);
        self.write_held(ring);
        more
    }

    fn take_up_to(&mut self, most: u16, ring: &mut Ring) -> bool {
        for _ in 0..most {
            if self.is_congested() {
                return false;
            }
            let Some(chain) = ring.pop() else {
                return false;
            };
            match self.take_packet(&chain, ring) {
                Ok(Taken::Held) => self.gathered.push_back(chain),
                Ok(Taken::Whole) => ring.complete(chain, 0),
                Err(error) => {
                    ring.complete(chain, 0);
                    ring.fail(&error);
                    return false;
                }
            }
        }
        true
    }

    fn take_packet(&mut self, chain: &Chain, ring: &mut Ring) -> virtio::Result<Taken> {
        let mut bytes = [0; HEADER_LEN as usize];
        let read = chain.reader().read_exact(&mut bytes);
        let header = Header::from_bytes(&bytes);
        let key = Key {
            local: header.dst_port,
            peer: header.src_port,
        };
        let fits = read.is_ok() && header.len <= chain.readable_len() - HEADER_LEN;
        let is_ours =
            header.src_cid == self.guest_cid && header.dst_cid == HOST_CID && header.kind == STREAM;
        let known = self.table.find(key);
        if let Some(at) = known
            && header.op == op::RW
            && fits
            && is_ours
        {
            if !self.takes_data(at, &header) {
                // That may make room.
                self.write_held(ring);
            }
            if self.takes_data(at, &header) {
                return Ok(self.hold(at, &header, chain, ring));
            }
        }
        // What waits for more of its kind does not wait for anything else.
        self.write_held(ring);
        if read.is_err() {
            return Err(virtio::Error::Request(
                "a packet is shorter than its header",
            ));
        }
        if header.src_cid != self.guest_cid {
            telemetry::warn!(
                "vsock: a packet from context {} is dropped: the guest is {}",
                header.src_cid,
                self.guest_cid
            );
            return Ok(Taken::Whole);
        }
        match known {
            _ if !is_ours => self.refuse(&header),
            Some(at) if fits => self.known(at, &header),
            Some(at) => self.abort(at, &header),
            None if header.op == op::REQUEST && fits => self.connect(&header, key),
            None => self.refuse(&header),
        }
        Ok(Taken::Whole)
    }

    /// The guest wants to reach a program of the host.
    fn connect(&mut self, header: &Header, key: Key) {
        if self.table.is_full() {
            telemetry::warn!(
                "vsock: the guest is refused: {} connections are the most there can be",
                self.table.len()
            );
            return self.refuse(header);
        }
        let fd = match self.listener.connect(key.local) {
            Ok(fd) => fd,
            Err(errno) => {
                match errno {
                    // Nobody serves this port: an everyday answer.
                    Errno::NOENT | Errno::CONNREFUSED => {
                        telemetry::debug!("vsock: nobody serves port {}", key.local);
                    }
                    errno => telemetry::warn!(
                        "vsock: cannot connect to the socket for port {}: {errno}",
                        key.local
                    ),
                }
                return self.refuse(header);
            }
        };
        let mut conn = Conn::new(fd, key, Phase::Open);
        conn.credit.learn(header);
        conn.due.add(op::RESPONSE);
        if !self.admit(conn) {
            self.refuse(header);
        }
    }

    /// Adds a connection, hears of its socket and gives it a turn.
    pub(crate) fn admit(&mut self, conn: Conn) -> bool {
        let Some(at) = self.table.insert(conn) else {
            return false;
        };
        let Some(conn) = self.table.get_mut(at) else {
            return false;
        };
        if let Err(errno) = self.watch.add(&conn.fd, at) {
            telemetry::warn!("vsock: cannot wait for a socket: {errno}");
            self.table.remove(at);
            return false;
        }
        match conn.phase {
            Phase::Greeting => {
                self.greetings += 1;
                self.limit(at, HOST_TICKS);
            }
            _ => self.table.queue(at),
        }
        true
    }

    /// A packet of a connection, other than data for the host's program.
    fn known(&mut self, at: usize, header: &Header) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        conn.learn(header);
        match (header.op, conn.phase) {
            (op::RST, _) => return self.remove(at),
            // It is told already that this one is over.
            (_, Phase::Ending) => return,
            (op::RESPONSE, Phase::Requested) => self.open(at),
            (op::RW, Phase::Open) => self.discard(at, header),
            (op::CREDIT_UPDATE, Phase::Open) => {}
            (op::CREDIT_REQUEST, Phase::Open) => conn.due.add(op::CREDIT_UPDATE),
            (op::SHUTDOWN, Phase::Open) => self.take_shutdown(at, header),
            _ => return self.abort(at, header),
        }
        self.wake(at);
    }

    /// The guest accepts a connection that a program of the host asked for.
    fn open(&mut self, at: usize) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        conn.phase = Phase::Open;
        conn.ticks = 0;
        let answer = format!("OK {}\n", conn.key.local);
        // There is always room for the first bytes; it fails only if the program is gone.
        if rustix::io::write(&conn.fd, answer.as_bytes()) != Ok(answer.len()) {
            conn.end_of_writing();
        }
    }

    /// Data that nobody takes, or that the guest must not send.
    fn discard(&mut self, at: usize, header: &Header) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        if !conn.credit.received(header.len) {
            telemetry::warn!("vsock: a connection ends: the guest sent more than it may");
            return self.abort(at, header);
        }
        conn.forwarded(header.len);
    }

    fn take_shutdown(&mut self, at: usize, header: &Header) {
        let Some(conn) = self.table.get_mut(at) else {
            return;
        };
        conn.guest_shut |= header.flags & shutdown::BOTH;
        if conn.guest_shut & shutdown::RECEIVE != 0 && conn.reading {
            conn.reading = false;
            conn.shut(Shutdown::Read);
        }
        conn.finish_writing();
        if conn.guest_shut != shutdown::BOTH {
            return;
        }
        // The guest is done, and hears so at once. What it sent still goes its way.
        let is_drained = conn.backlog.is_empty();
        self.refuse(header);
        if is_drained {
            return self.remove(at);
        }
        self.table.unname(at);
        if let Some(conn) = self.table.get_mut(at) {
            conn.phase = Phase::Draining;
            conn.due = Due::default();
        }
        self.limit(at, HOST_TICKS);
    }

    /// Sees to it that a connection that the host has ended does not last.
    pub(crate) fn await_end(&mut self, at: usize) {
        if let Some(conn) = self.table.get_mut(at)
            && conn.is_over_for_host()
            && conn.ticks == 0
        {
            self.limit(at, ANSWER_TICKS);
        }
    }
}
