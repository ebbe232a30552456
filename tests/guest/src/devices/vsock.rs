//! Sockets (VIRTIO 1.3, 5.10): as much of them as a question takes.

use crate::memory::{put, read16, read32, read64, take, write16, write32, write64};
use crate::virtio::{Device, Part, feature};

/// Queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENTS: u16 = 2;
/// Bytes of a packet's header, and offsets in it.
const HEADER: u32 = 44;
const DESTINATION: u64 = 8;
const SOURCE_PORT: u64 = 16;
const DESTINATION_PORT: u64 = 20;
const LENGTH: u64 = 24;
const OPERATION: u64 = 30;
const FLAGS: u64 = 32;
const ROOM: u64 = 36;
const FORWARDED: u64 = 40;
/// The host's address, streams, and operations.
const HOST: u64 = 2;
const STREAM: u16 = 1;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;

/// Ports of this guest, and of the host, where nobody listens.
const PORTS: (u32, u32) = (1000, 1234);

/// Asks for a connection to a port of the host where nobody listens: it is refused.
pub(crate) fn work(device: &Device) {
    let features = device.agree(feature::EVENT_IDX);
    let [mut receive, mut transmit, _] =
        [RECEIVE, TRANSMIT, EVENTS].map(|index| device.queue(index, 8, features));
    device.go();
    let (question, answer) = (take(64, 64), take(4096, 4096));
    put(question, &read64(device.config).to_le_bytes());
    put(question + 8, &HOST.to_le_bytes());
    put(question + 16, &PORTS.0.to_le_bytes());
    put(question + 20, &PORTS.1.to_le_bytes());
    put(question + 28, &STREAM.to_le_bytes());
    put(question + 30, &REQUEST.to_le_bytes());
    receive.add(&[Part::write(answer, 4096)]);
    receive.notify();
    transmit.add(&[Part::read(question, HEADER)]);
    transmit.notify();
    expect!(transmit.wait().is_some(), "a packet is not taken");
    let received = receive.wait();
    let refused = read16(answer + OPERATION) == RESET
        && read32(answer + DESTINATION_PORT) == PORTS.0
        && matches!(received, Some((_, HEADER)));
    expect!(
        refused,
        "a connection to nobody is answered by {received:?}, operation {}",
        read16(answer + OPERATION)
    );
}

/// Accepts the connection that a program of the host asks for, and sends back what it sends, until it ends. Gives how
/// many bytes these were.
pub(crate) fn serve(device: &Device) -> u32 {
    let features = device.agree(feature::EVENT_IDX);
    let [mut receive, mut transmit, _] =
        [RECEIVE, TRANSMIT, EVENTS].map(|index| device.queue(index, 8, features));
    device.go();
    let packet = take(4096, 4096);
    let mut bytes = 0u32;
    loop {
        receive.add(&[Part::write(packet, 4096)]);
        receive.notify();
        if receive.wait().is_none() {
            fail!("the host says nothing");
            return bytes;
        }
        let length = read32(packet + LENGTH);
        let answer = match read16(packet + OPERATION) {
            REQUEST => RESPONSE,
            DATA => DATA,
            SHUTDOWN => RESET,
            _ => continue,
        };
        bytes = bytes.wrapping_add(length);
        let ports = (
            read32(packet + SOURCE_PORT),
            read32(packet + DESTINATION_PORT),
        );
        write64(packet, read64(device.config));
        write64(packet + DESTINATION, HOST);
        write32(packet + SOURCE_PORT, ports.1);
        write32(packet + DESTINATION_PORT, ports.0);
        write16(packet + OPERATION, answer);
        write32(packet + FLAGS, 0);
        write32(packet + ROOM, 4096);
        write32(packet + FORWARDED, bytes);
        transmit.add(&[Part::read(packet, HEADER + length)]);
        transmit.notify();
        expect!(transmit.wait().is_some(), "a packet is not taken");
        if answer == RESET {
            return bytes;
        }
    }
}
