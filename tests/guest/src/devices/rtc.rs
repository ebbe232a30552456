//! The clocks (Linux `include/uapi/linux/virtio_rtc.h`, after the chapter "RTC Device" of the specification that
//! follows VIRTIO 1.3).

use crate::memory::{read8, read64, take, write16, write64};
use crate::virtio::{Device, Part, Queue, feature};

/// Clocks by number.
pub(crate) const UTC: u16 = 0;
pub(crate) const MONOTONIC: u16 = 1;
/// Requests.
const READ: u16 = 1;
const CONFIGURATION: u16 = 0x1000;

/// Clocks that are set up.
pub(crate) struct Clocks {
    queue: Queue,
    /// A request, then a response, of 16 bytes each.
    message: u64,
}

impl Clocks {
    /// Sets the device up.
    pub(crate) fn start(device: &Device) -> Self {
        let features = device.agree(feature::EVENT_IDX);
        let queue = device.queue(0, 8, features);
        device.go();
        Self {
            queue,
            message: take(32, 32),
        }
    }

    /// How many clocks there are.
    pub(crate) fn count(&mut self) -> Option<u64> {
        self.ask(CONFIGURATION, 0, 8).map(|body| body & 0xffff)
    }

    /// Nanoseconds that a clock shows.
    pub(crate) fn read(&mut self, clock: u16) -> Option<u64> {
        self.ask(READ, clock, 16)
    }

    /// The body of the response to a request of `len` bytes, if it succeeded.
    fn ask(&mut self, kind: u16, clock: u16, len: u32) -> Option<u64> {
        let response = self.message + 16;
        write64(self.message, 0);
        write64(self.message + 8, 0);
        write16(self.message, kind);
        write16(self.message + 8, clock);
        write64(response, u64::MAX);
        let parts = [Part::read(self.message, len), Part::write(response, 16)];
        self.queue.add(&parts);
        self.queue.notify();
        let (_, written) = self.queue.wait()?;
        (read8(response) == 0 && written == 16).then(|| read64(response + 8))
    }
}

/// Reads the first two clocks.
pub(crate) fn work(device: &Device) {
    let mut clocks = Clocks::start(device);
    for clock in [UTC, MONOTONIC] {
        let time = clocks.read(clock);
        expect!(
            time.is_some_and(|time| time > 0),
            "clock {clock} shows {time:?}"
        );
    }
}
