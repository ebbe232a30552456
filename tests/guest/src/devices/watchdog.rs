//! The watchdog: type 35, of which no specification has a chapter. Each buffer in its queue is a ping; it comes
//! back with a 1 in it.

use crate::memory::{read8, take};
use crate::virtio::{Device, Part, Queue};

/// A watchdog that is set up; it watches from the first ping on.
pub(crate) struct Watchdog {
    queue: Queue,
    buffer: u64,
}

impl Watchdog {
    /// Sets the device up.
    pub(crate) fn start(device: &Device) -> Self {
        let features = device.agree(0);
        let queue = device.queue(0, 8, features);
        device.go();
        Self {
            queue,
            buffer: take(16, 16),
        }
    }

    /// Says that all is well.
    pub(crate) fn ping(&mut self) {
        crate::memory::write8(self.buffer, 0);
        self.queue.add(&[Part::write(self.buffer, 1)]);
        self.queue.ring();
        let answer = self.queue.wait();
        let alive = matches!(answer, Some((_, 1))) && read8(self.buffer) == 1;
        expect!(alive, "a ping is answered by {answer:?}");
    }
}

/// Pings, and ends the watch.
pub(crate) fn work(device: &Device) {
    Watchdog::start(device).ping();
    device.reset();
}
