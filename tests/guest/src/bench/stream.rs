//! One stream to the host over a socket device (VIRTIO 1.3, 5.10).

use super::notify;
use crate::machine::{PATIENCE, wait_for};
use crate::memory::{read16, read32, read64, take, write16, write32, write64};
use crate::virtio::{Device, Part, Queue, feature};

/// Descriptors of a queue.
const SIZE: u16 = 128;
/// Bytes of a header, and their room in front of data.
const HEADER: u64 = 44;
const HEADER_ROOM: u64 = 64;
/// Largest packet either way.
const DATA: u64 = 65536;
/// Room that the host may fill before we tell it of more.
const ROOM: u32 = 1 << 20;
/// Operations (VIRTIO 1.3, 5.10.6).
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const DATA_PACKET: u16 = 5;
const CREDIT: u16 = 6;
const CREDIT_WANTED: u16 = 7;
/// The host's address, and a port of ours.
const HOST: u64 = 2;
const OUR_PORT: u32 = 5000;

/// The stream.
pub(super) struct Stream {
    receive: Queue,
    send: Queue,
    buffers: u64,
    packets: u64,
    address: u64,
    port: u32,
    /// Bytes that came, and how many the host knows of.
    received: u32,
    told: u32,
    sent: u32,
    /// The host's room, and what it has taken out of it.
    host_room: u32,
    host_taken: u32,
    connected: bool,
    /// Doorbells rung.
    pub(super) doorbells: u64,
}

impl Stream {
    /// Sets the device up.
    pub(super) fn start(device: &Device, port: u32) -> Self {
        let features = device.agree(feature::EVENT_IDX);
        let mut stream = Self {
            receive: device.queue(0, SIZE, features),
            send: device.queue(1, SIZE, features),
            buffers: take((HEADER_ROOM + DATA) * u64::from(SIZE), 4096),
            packets: take((HEADER_ROOM + DATA) * u64::from(SIZE), 4096),
            address: read64(device.config),
            port,
            received: 0,
            told: 0,
            sent: 0,
            host_room: 0,
            host_taken: 0,
            connected: false,
            doorbells: 0,
        };
        device.queue(2, SIZE, features);
        device.go();
        for index in 0..stream.receive.size {
            stream.offer(index);
        }
        stream.receive.notify();
        stream
    }

    /// Connects. Whether the host accepts.
    pub(super) fn connect(&mut self) -> bool {
        self.packet(REQUEST, 0);
        wait_for(PATIENCE, || {
            self.take();
            self.connected.then_some(())
        })
        .is_some()
    }

    /// Sends so many bytes, if the host has room for them. How many.
    pub(super) fn send(&mut self, len: u32) -> u32 {
        while self.send.poll().is_some() {}
        let waiting = self.sent.wrapping_sub(self.host_taken);
        if self.host_room.saturating_sub(waiting) < len || !self.packet(DATA_PACKET, len) {
            return 0;
        }
        self.sent = self.sent.wrapping_add(len);
        len
    }

    /// Takes what has come. How many bytes of data.
    pub(super) fn take(&mut self) -> u64 {
        let before = self.received;
        let mut came = false;
        while let Some((head, _)) = self.receive.poll() {
            self.look(self.buffers + (HEADER_ROOM + DATA) * u64::from(head));
            self.offer(head);
            came = true;
        }
        if came && notify(&mut self.receive) {
            self.doorbells += 1;
        }
        if self.received.wrapping_sub(self.told) > ROOM / 4 {
            self.packet(CREDIT, 0);
        }
        self.received.wrapping_sub(before).into()
    }

    fn look(&mut self, header: u64) {
        self.host_room = read32(header + 36);
        self.host_taken = read32(header + 40);
        match read16(header + 30) {
            RESPONSE => self.connected = true,
            DATA_PACKET => self.received = self.received.wrapping_add(read32(header + 24)),
            CREDIT => {}
            CREDIT_WANTED => {
                self.packet(CREDIT, 0);
            }
            other => fail!("operation {other} of the host"),
        }
    }

    /// Buffers are one descriptor, and the one just freed is the next that is used: they belong to descriptors.
    fn offer(&mut self, index: u16) {
        let address = self.buffers + (HEADER_ROOM + DATA) * u64::from(index);
        let part = Part::write(address, (HEADER + DATA) as u32);
        expect!(self.receive.add(&[part]).is_some(), "no descriptor is free");
    }

    /// Sends a packet. Whether there was a descriptor.
    fn packet(&mut self, operation: u16, len: u32) -> bool {
        while self.send.poll().is_some() {}
        if self.send.room() == 0 {
            return false;
        }
        let packet = self.packets + (HEADER_ROOM + DATA) * u64::from(self.send.next());
        write64(packet, self.address);
        write64(packet + 8, HOST);
        write32(packet + 16, OUR_PORT);
        write32(packet + 20, self.port);
        write32(packet + 24, len);
        write16(packet + 28, 1);
        write16(packet + 30, operation);
        write32(packet + 32, 0);
        write32(packet + 36, ROOM);
        write32(packet + 40, self.received);
        self.told = self.received;
        self.send.add(&[Part::read(packet, HEADER as u32 + len)]);
        if notify(&mut self.send) {
            self.doorbells += 1;
        }
        true
    }
}
