//! A guest's driver of the device, that does what Linux's does, and what it should not.

use std::time::{Duration, Instant};

use virtio::testing::{Bench, Driver, DriverQueue};

/// Where buffers are: of one queue after the other.
const RECEIVE_BUFFERS: u64 = 0x90_0000;
const TRANSMIT_BUFFERS: u64 = 0xc0_0000;
const EVENT_BUFFERS: u64 = 0xf0_0000;
const TRANSMIT_SLOTS: u16 = 32;
const SLOT: u64 = 0x1_1000;
/// The guest's room for each connection.
pub(crate) const ROOM: u32 = 256 << 10;
pub(crate) const CID: u64 = 3;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const RESPONSE: u16 = 2;
pub(crate) const RST: u16 = 3;
pub(crate) const SHUTDOWN: u16 = 4;
pub(crate) const RW: u16 = 5;
pub(crate) const CREDIT_UPDATE: u16 = 6;
pub(crate) const CREDIT_REQUEST: u16 = 7;

/// A packet, with the header's fields in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) cids: [u64; 2],
    /// Source and destination.
    pub(crate) ports: [u32; 2],
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) room: u32,
    pub(crate) forwarded: u32,
    pub(crate) data: Vec<u8>,
}

impl Packet {
    /// A packet of the guest's port to the host's.
    pub(crate) fn new(op: u16, peer: u32, local: u32) -> Self {
        Self {
            cids: [CID, 2],
            ports: [peer, local],
            kind: 1,
            op,
            room: ROOM,
            ..Self::default()
        }
    }

    pub(crate) fn with_data(mut self, data: &[u8]) -> Self {
        self.len = u32::try_from(data.len()).unwrap();
        self.data = data.to_vec();
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(44 + self.data.len());
        for cid in self.cids {
            bytes.extend(cid.to_le_bytes());
        }
        for port in self.ports {
            bytes.extend(port.to_le_bytes());
        }
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        for number in [self.flags, self.room, self.forwarded] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(&self.data);
        bytes
    }

    fn parse(bytes: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        Self {
            cids: [u64_at(0), u64_at(8)],
            ports: [u32_at(16), u32_at(20)],
            len: u32_at(24),
            kind: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            room: u32_at(36),
            forwarded: u32_at(40),
            data: bytes[44..].to_vec(),
        }
    }
}

/// How packets lie in memory: lengths of the first descriptors; the rest is the last one.
pub(crate) type Layout = &'static [u32];
pub(crate) const ONE: Layout = &[];
pub(crate) const TWO: Layout = &[44];
pub(crate) const ODD: Layout = &[1, 40, 7, 100];

/// The driver's side.
pub(crate) struct Guest<'a> {
    bench: &'a Bench,
    pub(crate) driver: Driver<'a>,
    pub(crate) receive: DriverQueue,
    pub(crate) transmit: DriverQueue,
    pub(crate) event: DriverQueue,
    layout: Layout,
    receive_len: u32,
    free: Vec<u16>,
    received: std::collections::VecDeque<Packet>,
}

impl<'a> Guest<'a> {
    /// A guest whose receive buffers have this many bytes in all.
    pub(crate) fn new(bench: &'a Bench, layout: Layout, receive_len: u32) -> Self {
        let driver = Driver::find(bench, 1);
        let mut queues = driver.start(u64::MAX);
        let mut next = || queues.remove(0);
        let (receive, transmit, event) = (next(), next(), next());
        let slots = TRANSMIT_SLOTS.min(256 / parts(layout));
        Self {
            bench,
            driver,
            receive,
            transmit,
            event,
            layout,
            receive_len,
            free: (0..slots).collect(),
            received: std::collections::VecDeque::new(),
        }
    }

    /// Offers receive buffers for the first time.
    pub(crate) fn offer_buffers(&mut self, count: u16) {
        let parts = parts(self.layout);
        for slot in 0..count.min(256 / parts) {
            let at = RECEIVE_BUFFERS + u64::from(slot) * u64::from(self.receive_len);
            let queue = &self.receive;
            describe(queue, slot * parts, at, self.receive_len, self.layout, 2);
            self.receive.offer(slot * parts);
        }
        self.driver.kick(0);
    }

    pub(crate) fn offer_event_buffer(&mut self) {
        self.event.describe(0, EVENT_BUFFERS, 4, 2, 0);
        self.event.offer(0);
        self.driver.kick(2);
    }

    /// The event in the buffer, once there is one.
    pub(crate) fn event(&mut self) -> Vec<u8> {
        within(|| self.event.used_index() == 1);
        assert_eq!(self.event.used(), [(0, 4)]);
        self.event.bytes(EVENT_BUFFERS, 4)
    }

    /// Puts bytes into the transmit queue as a packet. Waits for a free slot.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        within(|| {
            let used = self.transmit.used();
            self.free
                .extend(used.iter().map(|(head, _)| slot_of(*head, self.layout)));
            !self.free.is_empty()
        });
        let slot = self.free.remove(0);
        let at = TRANSMIT_BUFFERS + u64::from(slot) * SLOT;
        self.bench.ram.write(at, bytes).unwrap();
        let head = slot * parts(self.layout);
        let len = u32::try_from(bytes.len()).unwrap();
        describe(&self.transmit, head, at, len, self.layout, 0);
        self.transmit.offer(head);
        // Only if the device wants to hear it.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if self.transmit.used_flags() & 1 == 0 {
            self.driver.kick(1);
        }
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        self.send_bytes(&packet.bytes());
    }

    /// A packet that has arrived. Its buffer is offered again.
    pub(crate) fn try_next(&mut self) -> Option<Packet> {
        if let Some(packet) = self.received.pop_front() {
            return Some(packet);
        }
        let used = self.receive.used();
        let mut silent = true;
        for (head, len) in used {
            let slot = slot_of(head, self.layout);
            let at = RECEIVE_BUFFERS + u64::from(slot) * u64::from(self.receive_len);
            let bytes = self.receive.bytes(at, usize::try_from(len).unwrap());
            self.received.push_back(Packet::parse(&bytes));
            self.receive.offer(u16::try_from(head).unwrap());
            silent = false;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if !silent && self.receive.used_flags() & 1 == 0 {
            self.driver.kick(0);
        }
        self.received.pop_front()
    }

    /// The next packet.
    pub(crate) fn next(&mut self) -> Packet {
        let mut packet = None;
        within(|| {
            packet = self.try_next();
            packet.is_some()
        });
        packet.unwrap()
    }

    /// The next packet, which is this operation.
    pub(crate) fn expect(&mut self, op: u16) -> Packet {
        let packet = self.next();
        assert_eq!(packet.op, op, "{packet:?}");
        packet
    }

    /// Whether all packets that were sent are taken.
    pub(crate) fn is_all_taken(&mut self) -> bool {
        let used = self.transmit.used();
        self.free
            .extend(used.iter().map(|(head, _)| slot_of(*head, self.layout)));
        self.free.len() == usize::from(TRANSMIT_SLOTS.min(256 / parts(self.layout)))
    }
}

fn parts(layout: Layout) -> u16 {
    // A power of two, so that a slot's descriptors do not wrap.
    u16::try_from(layout.len() + 1).unwrap().next_power_of_two()
}

fn slot_of(head: u32, layout: Layout) -> u16 {
    u16::try_from(head).unwrap() / parts(layout)
}

fn describe(queue: &DriverQueue, head: u16, at: u64, len: u32, layout: Layout, write: u16) {
    let (mut index, mut at, mut left) = (head, at, len);
    for part in layout {
        // What is left for the last descriptor is not nothing.
        if *part >= left {
            break;
        }
        queue.describe(index, at, *part, write | 1, index + 1);
        index += 1;
        at += u64::from(*part);
        left -= part;
    }
    queue.describe(index, at, left, write, 0);
}

/// Waits until `condition` holds, for ten seconds.
pub(crate) fn within(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen in time");
        std::thread::yield_now();
    }
}
