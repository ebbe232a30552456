//! The console device (VIRTIO 1.3, 5.3), its first port.

use crate::machine::ticks;
use crate::memory::{put, read8, take, write8};
use crate::virtio::{Device, Part, Queue, feature};

/// Queues of the first port.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// A console that is set up.
pub(crate) struct Console {
    receive: Queue,
    transmit: Queue,
    buffer: u64,
}

impl Console {
    /// Sets the device up.
    pub(crate) fn start(device: &Device) -> Self {
        let features = device.agree(feature::EVENT_IDX);
        let receive = device.queue(RECEIVE, 8, features);
        let transmit = device.queue(TRANSMIT, 8, features);
        device.go();
        Self {
            receive,
            transmit,
            buffer: take(4096, 4096),
        }
    }

    /// Prints. Whether the device took it.
    pub(crate) fn print(&mut self, text: &[u8]) -> bool {
        put(self.buffer, text);
        self.transmit
            .add(&[Part::read(self.buffer, text.len() as u32)]);
        self.transmit.notify();
        self.transmit.wait().is_some()
    }

    /// Sends back what comes in, until the letter `q` does. Gives how many bytes came.
    pub(crate) fn echo(&mut self) -> u32 {
        let buffer = take(256, 256);
        let mut count = 0;
        loop {
            self.receive.add(&[Part::write(buffer, 256)]);
            self.receive.notify();
            let Some((_, len)) = self.receive.wait() else {
                fail!("nothing was typed");
                return count;
            };
            count += len;
            let len = u64::from(len.min(256));
            let last = (0..len).any(|offset| read8(buffer + offset) == b'q');
            for offset in 0..len {
                write8(
                    self.buffer + offset,
                    read8(buffer + offset).to_ascii_uppercase(),
                );
            }
            self.transmit.add(&[Part::read(self.buffer, len as u32)]);
            self.transmit.notify();
            expect!(self.transmit.wait().is_some(), "nothing can be printed");
            if last {
                return count;
            }
        }
    }
}

/// Prints a line, different each time.
pub(crate) fn work(device: &Device) {
    let mut console = Console::start(device);
    let line = [b'a' + (ticks() % 26) as u8, b'\n'];
    expect!(console.print(&line), "the console takes no text");
}
