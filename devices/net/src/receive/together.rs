//! Several frames with one system call, where each chain has room for any frame.

use std::io;

use memory::MOST_VECTORS;
use tap::{Arrival, Batch, HEADER, MOST_FRAMES, Queue};
use virtio::Chain;

use super::{BUDGET, LONGEST, NUM_BUFFERS, Receive, Turn, is_detached, put};
use crate::shared::Tally;

/// Fewer frames than this are received one by one.
const LEAST: usize = 4;

impl Receive {
    /// Receives frames as long as as many come as were asked for. `None` if more are to be received one by one.
    pub(super) fn receive_together(
        &mut self,
        batch: &mut Batch,
        queue: &Queue,
        tally: &mut Tally,
    ) -> Option<Turn> {
        let mut left = BUDGET;
        let mut expected = self.expected;
        while left > 0 {
            if expected < LEAST || !batch.receives() {
                return None;
            }
            let asked = self.gather(batch, expected.min(left).min(MOST_FRAMES));
            if asked < LEAST {
                while let Some(chain) = self.gathered.pop_back() {
                    self.ring.put_back(chain);
                }
                batch.clear();
                return None;
            }
            let arrivals = batch.receive(queue);
            let error = arrivals.iter().find_map(|arrival| match arrival {
                Arrival::Failed(error) => Some(io::Error::from_raw_os_error(*error)),
                _ => None,
            });
            let came = self.deliver_together(arrivals, tally);
            match error {
                Some(error) if is_detached(&error) => return Some(Turn::Detached),
                Some(error) => telemetry::warn!("net: a frame is lost: {error}"),
                None if came < asked => return Some(Turn::Empty),
                None => {}
            }
            left -= asked;
            expected *= 2;
        }
        Some(Turn::More)
    }

    /// Puts up to `most` chains into the batch, each with room for any frame. How many.
    fn gather(&mut self, batch: &mut Batch, most: usize) -> usize {
        while let Some(chain) = self.pool.pop_back() {
            self.ring.put_back(chain);
        }
        self.vectors.clear();
        while self.gathered.len() < most
            && let Some(chain) = self.ring.pop()
        {
            let fits = chain.writable_len() as usize >= self.need
                && chain.writable().len() <= MOST_VECTORS;
            if fits && let Some(frame) = batch.next_frame() {
                if chain.add_writable(frame).is_ok() {
                    self.gathered.push_back(chain);
                    continue;
                }
                frame.clear();
            }
            // One by one it is found out what is to be done with it.
            self.ring.put_back(chain);
            break;
        }
        self.gathered.len()
    }

    /// Gives the driver the frames that came into the chains that were gathered, and puts back the others. How many
    /// frames came.
    fn deliver_together(&mut self, arrivals: &[Arrival], tally: &mut Tally) -> usize {
        let mut came = 0;
        for (position, arrival) in arrivals.iter().enumerate() {
            let length = match *arrival {
                Arrival::Frame(length) if length >= HEADER => length,
                Arrival::Empty => continue,
                Arrival::Frame(_) | Arrival::Failed(_) => {
                    tally.dropped += 1;
                    continue;
                }
            };
            // Only the chains popped last can be put back, so a frame behind one that did not come goes to its place.
            if position > came
                && let (Some(from), Some(to)) =
                    (self.gathered.get(position), self.gathered.get(came))
                && let Err(error) = copy(from, to, length)
            {
                telemetry::warn!("net: a frame is lost: {error}");
                tally.dropped += 1;
                continue;
            }
            if let Some(chain) = self.gathered.get(came) {
                put(chain, NUM_BUFFERS, 1_u16.to_le_bytes());
            }
            let written = u32::try_from(length).unwrap_or(u32::MAX);
            came += 1;
            self.lengths.push(written);
            tally.frames += 1;
            tally.bytes += (length - HEADER) as u64;
        }
        while self.gathered.len() > came
            && let Some(chain) = self.gathered.pop_back()
        {
            self.ring.put_back(chain);
        }
        let used = self.gathered.drain(..).zip(self.lengths.drain(..));
        self.ring.complete_together(used);
        came
    }
}

/// Copies the first `length` writable bytes of a chain to another, which has as many.
fn copy(from: &Chain, to: &Chain, length: usize) -> Result<(), memory::Error> {
    let mut bytes = vec![0; length.min(LONGEST)];
    let mut done = 0;
    for buffer in from.writable() {
        let count = (bytes.len() - done).min(buffer.len as usize);
        from.ram()
            .read(buffer.address, &mut bytes[done..done + count])?;
        done += count;
    }
    let mut rest = bytes.as_slice();
    for buffer in to.writable() {
        let (here, later) = rest.split_at(rest.len().min(buffer.len as usize));
        to.ram().write(buffer.address, here)?;
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use reactor::Kick;
    use rustix::net::{SendFlags, send};
    use tap::testing::narrow_queue;
    use virtio::testing::{Bench, DriverQueue, Part};
    use virtio::{Line, QueueSetup, Ring, RingParts};

    use super::*;
    use crate::feature::MRG_RXBUF;

    const SIZE: u16 = 64;

    /// A driver that polls.
    struct Deaf;

    impl Line for Deaf {
        fn used(&self, _: u16) {}
        fn config_changed(&self) {}
        fn needs_reset(&self) {
            panic!("the driver did nothing wrong");
        }
    }

    struct Receiver {
        receive: Receive,
        batch: Batch,
        driver: DriverQueue,
        /// Where each buffer is.
        places: Vec<u64>,
        queue: Queue,
        end: OwnedFd,
        tally: Tally,
    }

    impl Receiver {
        /// With buffers of so many bytes.
        fn new(buffer: u32) -> Self {
            let ram = Bench::new().ram;
            let mut driver = DriverQueue::new(ram.clone(), 0, SIZE);
            let [descriptors, available, used] = driver.addresses();
            let setup = QueueSetup {
                size: SIZE,
                descriptors,
                available,
                used,
                enabled: true,
            };
            let ring = Ring::new(RingParts {
                index: 0,
                addresses: setup.check(SIZE, &ram).unwrap(),
                features: MRG_RXBUF,
                ram: ram.clone(),
                kick: Kick::new().unwrap(),
                line: Arc::new(Deaf),
                next_available: 0,
                next_used: 0,
            });
            let place = |_| driver.add(&[Part::Write(buffer)])[0];
            let places = (0..SIZE).map(place).collect();
            let (queue, end) = narrow_queue(1 << 16);
            Self {
                batch: Batch::new(&ram),
                receive: Receive::new(ring, ram, 1500),
                driver,
                places,
                queue,
                end,
                tally: Tally::default(),
            }
        }

        fn send(&self, numbers: std::ops::Range<u8>) {
            for number in numbers {
                let frame = [number; HEADER + 100];
                send(&self.end, &frame, SendFlags::empty()).unwrap();
            }
        }

        fn turn(&mut self) -> Turn {
            let (batch, queue) = (&mut self.batch, &self.queue);
            self.receive.turn(batch, queue, None, &mut self.tally)
        }

        /// Numbers of the frames that the driver has, each whole and in a buffer of its own.
        fn seen(&mut self) -> Vec<u8> {
            let used = self.driver.used();
            let frame = |(head, length): (u32, u32)| {
                let bytes = self
                    .driver
                    .bytes(self.places[head as usize], length as usize);
                assert_eq!(bytes.len(), HEADER + 100);
                assert_eq!(bytes[NUM_BUFFERS..HEADER], [1, 0]);
                assert!(bytes[HEADER..].iter().all(|byte| *byte == bytes[HEADER]));
                bytes[HEADER]
            };
            used.into_iter().map(frame).collect()
        }
    }

    #[test]
    fn what_comes_fast_comes_together_whole_and_in_order() {
        let mut receiver = Receiver::new(2000);
        receiver.send(0..6);
        assert_eq!(receiver.turn(), Turn::Empty);
        assert_eq!(receiver.receive.expected, 6);
        assert_eq!(receiver.receive.ring().in_flight(), 1, "one by one");
        // First six, then twelve of which four come.
        receiver.send(6..16);
        assert_eq!(receiver.turn(), Turn::Empty);
        assert_eq!(receiver.receive.ring().in_flight(), 0, "together");
        receiver.send(16..17);
        assert_eq!(receiver.turn(), Turn::Empty);
        receiver.send(17..18);
        assert_eq!(receiver.turn(), Turn::Empty);
        assert_eq!(receiver.receive.ring().in_flight(), 1, "one by one again");
        assert_eq!(receiver.seen(), (0..18).collect::<Vec<u8>>());
        assert_eq!((receiver.tally.frames, receiver.tally.bytes), (18, 1800));
        let ring = receiver.receive.into_ring();
        assert_eq!((ring.next_available(), ring.next_used()), (18, 18));
    }

    #[test]
    fn a_driver_with_few_buffers_gets_what_they_hold() {
        let mut receiver = Receiver::new(2000);
        receiver.send(0..60);
        assert_eq!(receiver.turn(), Turn::Empty);
        receiver.send(60..70);
        assert_eq!(receiver.turn(), Turn::Hungry);
        assert_eq!(receiver.seen(), (0..64).collect::<Vec<u8>>());
        for number in 0..6 {
            receiver.places[number] = receiver.driver.add(&[Part::Write(2000)])[0];
        }
        assert_eq!(receiver.turn(), Turn::Hungry);
        assert_eq!(receiver.tally.frames, 70);
    }

    #[test]
    fn buffers_too_small_for_any_frame_are_merged_as_ever() {
        let mut receiver = Receiver::new(200);
        receiver.receive.expected = 10;
        receiver.send(0..10);
        assert_eq!(receiver.turn(), Turn::Empty);
        assert_eq!(receiver.seen(), (0..10).collect::<Vec<u8>>());
    }

    #[test]
    fn a_frame_behind_one_that_did_not_come_moves_to_its_place() {
        let mut receiver = Receiver::new(2000);
        assert_eq!(receiver.receive.gather(&mut receiver.batch, 5), 5);
        for (place, number) in [(0, 1), (2, 2), (4, 3)] {
            let bytes = [number; HEADER + 100];
            let chain = &receiver.receive.gathered[place];
            let address = chain.writable()[0].address;
            chain.ram().write(address, &bytes).unwrap();
        }
        let came = Arrival::Frame(HEADER + 100);
        let arrivals = [came, Arrival::Empty, came, Arrival::Failed(libc::EIO), came];
        let count = receiver
            .receive
            .deliver_together(&arrivals, &mut receiver.tally);
        assert_eq!((count, receiver.tally.dropped), (3, 1));
        assert_eq!(receiver.seen(), [1, 2, 3]);
        // The buffers that nothing came into are the next ones.
        receiver.batch.clear();
        receiver.send(4..5);
        assert_eq!(receiver.turn(), Turn::Empty);
        assert_eq!(receiver.seen(), [4]);
        assert_eq!(receiver.receive.into_ring().next_available(), 4);
    }
}
