//! Sockets (VIRTIO 1.3, 5.10): as much of them as a question takes.

use crate::memory::{put, read16, read32, read64, take};
use crate::virtio::{Device, Part, feature};

/// Queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENTS: u16 = 2;
/// Bytes of a packet's header, and offsets in it.
const HEADER: u32 = 44;
const DESTINATION_PORT: u64 = 20;
const OPERATION: u64 = 30;
/// The host's address, streams, and operations.
const HOST: u64 = 2;
const STREAM: u16 = 1;
const REQUEST: u16 = 1;
const RESET: u16 = 3;

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
