//! Frames both ways, and what is wrong with them.

use super::*;
use crate::feature::MRG_RXBUF;
use virtio::feature::{EVENT_IDX, INDIRECT_DESC};

#[test]
fn a_frame_arrives_as_it_was_sent() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.config_read(2, 2), 0x1041);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let places = queues[0].add(&[Part::Write(10), Part::Write(5), Part::Write(1600)]);
    driver.kick(RX);
    let sent = frame(1, 1514);
    sends(&wire, &sent);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 1526)]);
    let mut seen = queues[0].bytes(places[0], 10);
    seen.extend(queues[0].bytes(places[1], 5));
    seen.extend(queues[0].bytes(places[2], 1511));
    // One chain, told also by a device that does not merge.
    assert_eq!(seen[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert!(seen[HEADER..] == sent);
    bench.sent.wait(Driver::queue_message(RX));
    eventually(|| counter(&device, "rx_frames") == 1);
    assert_eq!(counter(&device, "rx_bytes"), 1514);
}

#[test]
fn a_frame_of_the_guest_is_on_the_wire() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(EVENT_IDX | INDIRECT_DESC);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    for number in 0..100 {
        let sent = frame(number, 60 + 14 * usize::from(number));
        // The header alone, with some of the frame, and cut in two.
        let bytes = with_header(&sent);
        let cut = [HEADER, 20, 5][usize::from(number % 3)];
        queues[1].add(&[Part::Read(&bytes[..cut]), Part::Read(&bytes[cut..])]);
        driver.kick(TX);
        assert!(wire.wait() == sent, "{number}");
    }
    eventually(|| queues[1].used_index() == 100);
    eventually(|| counter(&device, "tx_frames") == 100);
    eventually(|| times(&device) == [("receive_latency", 0, 0), ("transmit_latency", 1, 100)]);
    assert_eq!(counter(&device, "tx_dropped"), 0);
}

#[test]
fn a_frame_takes_as_many_merged_buffers_as_it_needs() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(MRG_RXBUF);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let places: Vec<_> = (0..64)
        .map(|_| queues[0].add(&[Part::Write(100)])[0])
        .collect();
    driver.kick(RX);
    let (long, short) = (frame(3, 1000), frame(4, 80));
    sends(&wire, &long);
    sends(&wire, &short);
    eventually(|| queues[0].used_index() == 12);
    let used = queues[0].used();
    assert!(used[..10].iter().all(|(_, written)| *written == 100));
    assert_eq!((used[10].1, used[11].1), (12, 92));
    let mut seen: Vec<u8> = Vec::new();
    for (place, (_, written)) in places.iter().zip(&used) {
        seen.extend(queues[0].bytes(*place, *written as usize));
    }
    assert_eq!(seen[10..12], [11, 0]);
    assert!(seen[HEADER..1012] == long);
    assert_eq!(seen[1012 + 10..1012 + 12], [1, 0]);
    assert!(seen[1012 + HEADER..] == short);
}

#[test]
fn few_merged_buffers_are_enough_for_frames_that_fit() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    // A frame could be of 64 KiB now.
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    for round in 0..3u16 {
        queues[0].add(&[Part::Write(200)]);
        queues[0].add(&[Part::Write(200)]);
        driver.kick(RX);
        sends(&wire, &frame(1, 300));
        eventually(|| queues[0].used_index() == 2 * (round + 1));
    }
    // A frame that does not fit is lost; what comes after is not.
    queues[0].add(&[Part::Write(200)]);
    driver.kick(RX);
    sends(&wire, &frame(1, 300));
    eventually(|| counter(&device, "rx_dropped") == 1);
    sends(&wire, &frame(1, 100));
    eventually(|| queues[0].used_index() == 7);
    assert_eq!(queues[0].used().last().unwrap().1, 112);
}

#[test]
fn frames_wait_for_buffers() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(!MRG_RXBUF);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    for number in 0..10 {
        sends(&wire, &frame(number, 100));
    }
    let mut places = Vec::new();
    for number in 0..10u16 {
        places.push(queues[0].add(&[Part::Write(65562)])[0]);
        driver.kick(RX);
        eventually(|| queues[0].used_index() == number + 1);
    }
    for (number, place) in (0..).zip(places) {
        assert!(queues[0].bytes(place + 12, 100) == frame(number, 100));
    }
}

#[test]
fn a_chain_that_is_too_small_loses_the_frame_and_no_more() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let place = queues[0].add(&[Part::Write(100)])[0];
    let behind = queues[0].bytes(place + 100, 64);
    driver.kick(RX);
    sends(&wire, &frame(1, 500));
    eventually(|| counter(&device, "rx_dropped") == 1);
    assert_eq!(queues[0].bytes(place + 100, 64), behind);
    sends(&wire, &frame(2, 60));
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 72)]);
    assert!(!driver.needs_reset());
}

#[test]
fn a_buffer_shorter_than_the_header_breaks_the_rules() {
    if !own_network() {
        return;
    }
    for part in [Part::Write(11), Part::Read(b"what for")] {
        let bench = Bench::new();
        let mut device = device(&bench, &config("tap=t0"));
        let driver = Driver::find(&bench, 1);
        let mut queues = driver.start(u64::MAX);
        bench.attend(&mut device);
        queues[0].add(&[part]);
        driver.kick(RX);
        eventually(|| driver.needs_reset());
        // The other direction is its own queue.
        let wire = Wire::new(TAP);
        queues[1].add(&[Part::Read(&with_header(&frame(7, 60)))]);
        driver.kick(TX);
        assert!(wire.wait() == frame(7, 60));
        // A reset heals it.
        let mut queues = driver.start(0);
        bench.attend(&mut device);
        queues[0].add(&[Part::Write(1526)]);
        driver.kick(RX);
        sends(&wire, &frame(1, 60));
        eventually(|| queues[0].used_index() == 1);
    }
}

#[test]
fn nonsense_in_headers_is_dropped_and_counted() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let good = with_header(&frame(9, 60));
    let header = |bytes: [u8; HEADER]| {
        let mut frame = good.clone();
        frame[..HEADER].copy_from_slice(&bytes);
        frame
    };
    let bad = [
        // Checksum beyond the end; more header than frame; segments of no known kind, and of no size.
        header([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
        header([1, 0, 0xff, 0xff, 0, 0, 34, 0, 16, 0, 0, 0]),
        header([0, 0x55, 54, 0, 0xd8, 5, 0, 0, 0, 0, 0, 0]),
        header([1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0]),
        // Nothing but a header, and less.
        good[..HEADER].to_vec(),
        good[..3].to_vec(),
        // Not even an Ethernet header.
        good[..HEADER + 4].to_vec(),
    ];
    for frame in &bad {
        queues[1].add(&[Part::Read(frame)]);
    }
    // Nothing to read at all.
    queues[1].add(&[Part::Write(60)]);
    queues[1].add(&[Part::Read(&good)]);
    driver.kick(TX);
    assert!(wire.wait() == frame(9, 60));
    eventually(|| queues[1].used_index() == 9);
    assert!(queues[1].used().iter().all(|(_, written)| *written == 0));
    eventually(|| counter(&device, "tx_frames") == 1);
    assert_eq!(counter(&device, "tx_dropped"), 8);
    assert!(!driver.needs_reset());
}

#[test]
fn what_a_limit_holds_back_is_not_lost() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let limits = "ops_size=2,ops_refill_time=20,bw_size=500,bw_refill_time=20";
    let mut device = device(&bench, &config(limits));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(!MRG_RXBUF);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let places: Vec<_> = (0..10)
        .map(|_| queues[0].add(&[Part::Write(65562)])[0])
        .collect();
    driver.kick(RX);
    for number in 0..10 {
        sends(&wire, &frame(number, 300));
        queues[1].add(&[Part::Read(&with_header(&frame(number, 300)))]);
        driver.kick(TX);
    }
    for number in 0..10 {
        assert!(wire.wait() == frame(number, 300));
    }
    eventually(|| queues[0].used_index() == 10);
    for (number, place) in (0..).zip(places) {
        assert!(queues[0].bytes(place + 12, 300) == frame(number, 300));
    }
    eventually(|| queues[1].used_index() == 10);
}
