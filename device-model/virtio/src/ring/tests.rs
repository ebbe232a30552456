use proptest::prelude::*;

use super::*;
use crate::testing::{Bench, DriverQueue, Part};
use crate::{Line, QueueSetup};
use std::io::{Read, Write};
use std::sync::atomic::AtomicU16;

/// Counts what a device tells its driver.
#[derive(Default)]
struct Heard {
    used: AtomicU16,
    resets: AtomicU16,
}

impl Heard {
    fn used(&self) -> u16 {
        self.used.swap(0, Ordering::AcqRel)
    }
}

impl Line for Heard {
    fn used(&self, _: u16) {
        self.used.fetch_add(1, Ordering::AcqRel);
    }
    fn config_changed(&self) {}
    fn needs_reset(&self) {
        self.resets.fetch_add(1, Ordering::AcqRel);
    }
}

fn ring(size: u16, features: u64) -> (Ring, DriverQueue, Arc<Heard>) {
    ring_at(size, features, 0)
}

/// A ring whose indices start at `position`.
fn ring_at(size: u16, features: u64, position: u16) -> (Ring, DriverQueue, Arc<Heard>) {
    let ram = Bench::new().ram;
    let mut queue = DriverQueue::new(ram.clone(), 0, size);
    queue.set_available(position);
    let [descriptors, available, used] = queue.addresses();
    let setup = QueueSetup {
        size,
        descriptors,
        available,
        used,
        enabled: true,
    };
    let heard = Arc::new(Heard::default());
    let ring = Ring::new(RingParts {
        index: 0,
        addresses: setup.check(size, &ram).unwrap(),
        features,
        ram,
        kick: Kick::new().unwrap(),
        line: Arc::clone(&heard) as Arc<dyn Line>,
        next_available: position,
        next_used: position,
    });
    (ring, queue, heard)
}

#[test]
fn a_chain_is_read_written_and_given_back() {
    let (mut ring, mut queue, heard) = ring(8, 0);
    assert!(ring.pop().is_none());
    let parts = [
        Part::Read(b"hel"),
        Part::Read(b"lo"),
        Part::Write(2),
        Part::Write(10),
    ];
    let addresses = queue.add(&parts);
    let mut chain = ring.pop().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (5, 12));
    assert_eq!((chain.readable().len(), chain.writable().len()), (2, 2));
    let mut text = String::new();
    chain.reader().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let mut writer = chain.writer();
    writer.write_all(b"world!").unwrap();
    assert_eq!(writer.written(), 6);
    assert_eq!(ring.in_flight(), 1);
    ring.complete(chain, 6);
    assert_eq!(ring.in_flight(), 0);
    assert_eq!(heard.used(), 0, "interrupts come with notify only");
    ring.notify();
    assert_eq!(heard.used(), 1);
    ring.notify();
    assert_eq!(heard.used(), 0, "there is nothing new");
    assert_eq!(queue.used(), [(0, 6)]);
    assert_eq!(queue.bytes(addresses[2], 2), b"wo");
    assert_eq!(queue.bytes(addresses[3], 4), b"rld!");
}

#[test]
fn a_writer_ends_with_the_buffers() {
    let (mut ring, mut queue, _) = ring(8, 0);
    let addresses = queue.add(&[Part::Write(4)]);
    let mut chain = ring.pop().unwrap();
    let mut writer = chain.writer();
    assert_eq!(writer.write(b"123456").unwrap(), 4);
    assert_eq!(writer.write(b"56").unwrap(), 0);
    assert!(writer.write_all(b"5").is_err());
    // A device that says more than there was room for is not believed.
    ring.complete(chain, 100);
    assert_eq!(queue.used(), [(0, 4)]);
    assert_eq!(queue.bytes(addresses[0], 6), b"1234\0\0");
}

#[test]
fn a_chain_that_is_put_back_comes_again() {
    let (mut ring, mut queue, _) = ring(4, 0);
    queue.add(&[Part::Write(1)]);
    queue.add(&[Part::Write(2)]);
    let chain = ring.pop().unwrap();
    ring.put_back(chain);
    assert_eq!((ring.in_flight(), ring.next_available()), (0, 0));
    assert_eq!(ring.pop().unwrap().writable_len(), 1);
    assert_eq!(ring.pop().unwrap().writable_len(), 2);
}

#[test]
fn chains_of_one_frame_are_given_back_together() {
    let (mut ring, mut queue, heard) = ring(8, 0);
    for _ in 0..3 {
        queue.add(&[Part::Write(10)]);
    }
    let chains: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
    let seen = DriverQueue::used_index;
    // Written lengths are asked for while the chains are given back: the driver sees none of them yet.
    let lengths = [10, 99, 3]
        .into_iter()
        .inspect(|_| assert_eq!(seen(&queue), 0));
    ring.complete_together(chains.into_iter().zip(lengths));
    assert_eq!(queue.used(), [(0, 10), (1, 10), (2, 3)]);
    ring.notify();
    assert_eq!((heard.used(), ring.in_flight()), (1, 0));
    ring.complete_together([]);
    ring.notify();
    assert_eq!(heard.used(), 0);
}

#[test]
fn an_index_that_is_too_far_ahead_kills_the_queue_and_nothing_is_served() {
    let (mut ring, mut queue, heard) = ring(8, 0);
    queue.add(&[Part::Write(1)]);
    queue.set_available(9);
    assert!(ring.pop().is_none());
    assert!(ring.is_broken());
    queue.set_available(1);
    assert!(ring.pop().is_none(), "it stays dead");
    assert!(!ring.listen());
    assert_eq!(heard.resets.load(Ordering::Acquire), 1, "and asks once");
    ring.notify();
    assert_eq!(heard.used(), 0);
    assert_eq!(queue.used_index(), 0);
}

#[test]
fn chains_in_flight_cannot_be_made_available_again() {
    let (mut ring, mut queue, _) = ring(2, 0);
    for _ in 0..2 {
        queue.add(&[Part::Write(1)]);
    }
    let _first = ring.pop().unwrap();
    let _second = ring.pop().unwrap();
    queue.offer(0);
    assert!(matches!(
        ring.try_pop(),
        Err(Error::TooManyAvailable {
            waiting: 3,
            size: 2
        })
    ));
}

#[test]
fn flags_turn_interrupts_and_doorbells_off() {
    let (mut ring, mut queue, heard) = ring(8, 0);
    queue.add(&[Part::Write(1)]);
    queue.set_available_flags(1);
    let chain = ring.pop().unwrap();
    ring.complete(chain, 0);
    ring.notify();
    assert_eq!(heard.used(), 0);
    ring.silence();
    assert_eq!(queue.used_flags(), 1);
    assert!(!ring.listen());
    assert_eq!(queue.used_flags(), 0);
    queue.add(&[Part::Write(1)]);
    assert!(ring.listen(), "the doorbell for this one may not come");
}

#[test]
fn with_event_index_a_doorbell_is_asked_for_by_number() {
    let (mut ring, mut queue, _) = ring(8, feature::EVENT_IDX);
    for _ in 0..3 {
        queue.add(&[Part::Write(1)]);
    }
    ring.silence();
    assert_eq!(queue.used_flags(), 0, "flags are not used then");
    while let Some(chain) = ring.pop() {
        ring.complete(chain, 0);
    }
    assert!(!ring.listen());
    assert_eq!(queue.available_event(), 3);
}

#[test]
fn a_queue_works_across_the_wrap_of_its_indices() {
    let (mut ring, mut queue, heard) = ring_at(4, feature::EVENT_IDX, 0xfffe);
    let mut served = 0;
    for round in 0..40u32 {
        queue.set_used_event(ring.next_used());
        queue.add(&[Part::Read(&round.to_le_bytes()), Part::Write(4)]);
        let chain = ring.pop().unwrap();
        let mut bytes = [0; 4];
        chain.reader().read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), round);
        ring.complete(chain, round % 5);
        ring.notify();
        served += heard.used();
    }
    assert_eq!(served, 40);
    assert_eq!(ring.next_used(), 0xfffeu16.wrapping_add(40));
    assert_eq!(queue.used_index(), ring.next_used());
}

/// Whether an interrupt is due: the used index passed `event` on its way from `before` to `now`. One step after the
/// other, as the specification says it in words (VIRTIO 1.3, 2.7.7.2).
fn is_due(before: u16, now: u16, event: u16) -> bool {
    let mut index = before;
    while index != now {
        if index == event {
            return true;
        }
        index = index.wrapping_add(1);
    }
    false
}

proptest! {
    #[test]
    fn interrupts_come_exactly_when_the_driver_wants_them(
        start in any::<u16>(), count in 0u16..16, event in 0u16..60
    ) {
        let (mut ring, mut queue, heard) = ring_at(16, feature::EVENT_IDX, start);
        let event = start.wrapping_sub(20).wrapping_add(event);
        queue.set_used_event(event);
        for _ in 0..count {
            queue.add(&[Part::Write(1)]);
            let chain = ring.pop().unwrap();
            ring.complete(chain, 0);
        }
        ring.notify();
        prop_assert_eq!(heard.used() == 1, is_due(start, start.wrapping_add(count), event));
    }

    /// Whatever is in the available ring and the descriptors: no panic, nothing popped that is not RAM.
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0x200), available in any::<u16>()) {
        let (mut ring, mut queue, _) = ring(16, feature::INDIRECT_DESC | feature::EVENT_IDX);
        let [descriptors, ring_address, _] = queue.addresses();
        ring.ram.write(descriptors, &bytes[..0x100]).unwrap();
        ring.ram.write(ring_address, &bytes[0x100..]).unwrap();
        queue.set_available(available);
        for _ in 0..20 {
            let Some(chain) = ring.pop() else { break };
            for buffer in chain.readable().iter().chain(chain.writable()) {
                prop_assert!(ring.ram.contains(buffer.address, buffer.len.into()));
            }
            ring.complete(chain, 1);
        }
    }
}
