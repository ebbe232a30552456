//! A tap that is full, and limits, as the sending side of a pair sees them.

use std::os::fd::OwnedFd;
use std::time::Instant;

use limiter::{Limiter, RateLimiterConfig};
use reactor::Kick;
use rustix::net::{RecvFlags, recv};
use serde_json::json;
use tap::testing::narrow_queue;
use tap::{Batch, Queue};
use virtio::{Line, QueueSetup, Ring, RingParts};

use super::*;
use crate::shared::Tally;
use crate::transmit::{Transmit, Turn};

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

struct Sender {
    transmit: Transmit,
    batch: Batch,
    driver: DriverQueue,
    queue: Queue,
    end: OwnedFd,
    tally: Tally,
}

impl Sender {
    fn new() -> Self {
        let ram = Bench::new().ram;
        let driver = DriverQueue::new(ram.clone(), 0, SIZE);
        let [descriptors, available, used] = driver.addresses();
        let setup = QueueSetup {
            size: SIZE,
            descriptors,
            available,
            used,
            enabled: true,
        };
        let (queue, end) = narrow_queue(1);
        Self {
            batch: Batch::new(&ram),
            transmit: Transmit::new(Ring::new(RingParts {
                index: 0,
                addresses: setup.check(SIZE, &ram).unwrap(),
                features: 0,
                ram,
                kick: Kick::new().unwrap(),
                line: Arc::new(Deaf),
                next_available: 0,
                next_used: 0,
            })),
            driver,
            queue,
            end,
            tally: Tally::default(),
        }
    }

    fn turn(&mut self, limit: Option<&Limiter>) -> Turn {
        let (batch, queue) = (&mut self.batch, &self.queue);
        self.transmit.turn(batch, queue, limit, &mut self.tally)
    }

    /// Numbers of the frames that the other end has.
    fn seen(&self) -> Vec<u8> {
        let mut frame = [0; 4000];
        let mut seen = Vec::new();
        while let Ok((_, count)) = recv(&self.end, &mut frame, RecvFlags::empty()) {
            assert_eq!(count, HEADER + 1000);
            seen.push(frame[HEADER + 11]);
        }
        seen
    }
}

#[test]
fn what_a_full_tap_does_not_take_comes_again_in_order() {
    let mut sender = Sender::new();
    for number in 0..40 {
        let bytes = with_header(&frame(number, 1000));
        // Nothing but a header, which is dropped when its turn comes, and not twice.
        let bytes = if number % 8 == 5 {
            &bytes[..HEADER]
        } else {
            &bytes
        };
        sender.driver.add(&[Part::Read(bytes)]);
    }
    let (mut seen, mut full) = (Vec::new(), 0);
    while sender.turn(None) == Turn::Blocked {
        full += 1;
        let count = u64::try_from(seen.len()).unwrap();
        assert!(sender.tally.frames > count, "no progress");
        // All that is used was sent or dropped; the rest waits.
        let done = sender.tally.frames + sender.tally.dropped;
        assert_eq!(u64::from(sender.driver.used_index()), done);
        seen.extend(sender.seen());
    }
    seen.extend(sender.seen());
    assert!(full > 1, "{full}");
    let expected: Vec<u8> = (0..40).filter(|number| number % 8 != 5).collect();
    assert_eq!(seen, expected);
    assert_eq!((sender.tally.frames, sender.tally.dropped), (35, 5));
    assert_eq!(sender.tally.bytes, 35 * 1000);
    let heads: Vec<u32> = sender.driver.used().iter().map(|used| used.0).collect();
    assert_eq!(heads, (0..40).collect::<Vec<u32>>());
    assert_eq!(sender.transmit.into_ring().in_flight(), 0);
}

#[test]
fn a_frame_is_taken_from_the_limit_once_however_often_it_is_tried() {
    let config: RateLimiterConfig = serde_json::from_value(json!({
        "ops": { "size": 20, "refill_time": 3_600_000 }
    }))
    .unwrap();
    let limit = Limiter::new(&config, Instant::now());
    let mut sender = Sender::new();
    for number in 0..30 {
        sender
            .driver
            .add(&[Part::Read(&with_header(&frame(number, 1000)))]);
    }
    let mut seen = Vec::new();
    while sender.turn(Some(&limit)) == Turn::Blocked {
        // Once more in vain.
        assert_eq!(sender.turn(Some(&limit)), Turn::Blocked);
        seen.extend(sender.seen());
    }
    seen.extend(sender.seen());
    assert_eq!(seen, (0..20).collect::<Vec<u8>>());
    assert!(matches!(sender.turn(Some(&limit)), Turn::Limited(_)));
    // The others are still in the queue.
    assert_eq!(sender.transmit.into_ring().next_available(), 20);
}
