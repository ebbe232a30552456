//! The control queue and several pairs.

use super::*;
use crate::feature::{CTRL_VQ, GUEST_ANNOUNCE, MQ};

/// Sends a command; gives the answer.
fn command(driver: &Driver<'_>, queue: &mut DriverQueue, bytes: &[u8]) -> u8 {
    let before = queue.used_index();
    // Linux has class and command, data and answer in a descriptor each.
    let (head, data) = bytes.split_at(bytes.len().min(2));
    let mut parts = vec![Part::Read(head)];
    if !data.is_empty() {
        parts.push(Part::Read(data));
    }
    parts.push(Part::Write(1));
    let place = *queue.add(&parts).last().unwrap();
    driver.kick(queue.index);
    eventually(|| queue.used_index() == before.wrapping_add(1));
    assert_eq!(queue.used().last().unwrap().1, 1);
    queue.bytes(place, 1)[0]
}

/// Sends frames of many flows; gives how many came in on each pair.
fn spread(driver: &Driver<'_>, queues: &mut [DriverQueue], wire: &Wire, frames: u16) -> Vec<u16> {
    let pairs = queues.len() / 2;
    let before: Vec<u16> = (0..pairs)
        .map(|pair| queues[2 * pair].used_index())
        .collect();
    for pair in 0..pairs {
        for _ in 0..frames {
            queues[2 * pair].add(&[Part::Write(1526)]);
        }
        driver.kick(queues[2 * pair].index);
    }
    for number in 0..frames {
        // UDP from a port of its own.
        let mut sent = frame(1, 60);
        sent[12..14].copy_from_slice(&[8, 0]);
        sent[14..34].copy_from_slice(&[
            0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        sent[34..36].copy_from_slice(&(2000 + 77 * number).to_be_bytes());
        sends(wire, &sent);
    }
    let seen = || -> Vec<u16> {
        let count = |(pair, before): (usize, &u16)| queues[2 * pair].used_index() - before;
        before.iter().enumerate().map(count).collect()
    };
    eventually(|| seen().iter().sum::<u16>() == frames);
    seen()
}

#[test]
fn the_host_sends_on_as_many_pairs_as_the_driver_asked_for() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("num_queues=6"));
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.field(8, 2), 3);
    let mut queues = driver.start(MQ | CTRL_VQ);
    assert_eq!(queues.len(), 7);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let mut control = queues.pop().unwrap();
    assert_eq!(spread(&driver, &mut queues, &wire, 40), [40, 0, 0]);
    assert_eq!(command(&driver, &mut control, &[4, 0, 3, 0]), 0);
    let seen = spread(&driver, &mut queues, &wire, 40);
    assert!(seen.iter().all(|frames| *frames > 0), "{seen:?}");
    // Each pair sends.
    for pair in 0..3u8 {
        let sent = frame(pair, 60);
        let queue = &mut queues[usize::from(2 * pair + 1)];
        queue.add(&[Part::Read(&with_header(&sent))]);
        driver.kick(queue.index);
        assert!(wire.wait() == sent);
    }
    assert_eq!(command(&driver, &mut control, &[4, 0, 1, 0]), 0);
    assert_eq!(spread(&driver, &mut queues, &wire, 40), [40, 0, 0]);
    // The next driver begins with one.
    assert_eq!(command(&driver, &mut control, &[4, 0, 2, 0]), 0);
    let mut queues = driver.start(MQ | CTRL_VQ);
    bench.attend(&mut device);
    queues.pop();
    assert_eq!(spread(&driver, &mut queues, &wire, 40), [40, 0, 0]);
}

#[test]
fn pairs_come_and_go_under_traffic() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("num_queues=4"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(MQ | CTRL_VQ);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let mut control = queues.pop().unwrap();
    for round in 0..50u8 {
        let pairs = 1 + round % 2;
        assert_eq!(command(&driver, &mut control, &[4, 0, pairs, 0]), 0);
        let sum: u16 = spread(&driver, &mut queues, &wire, 5).iter().sum();
        assert_eq!(sum, 5);
    }
    assert_eq!(driver.field(6, 2), 1, "the link is up");
}

#[test]
fn a_driver_without_several_pairs_has_the_control_queue_as_its_third() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("num_queues=4"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(CTRL_VQ | GUEST_ANNOUNCE);
    bench.attend(&mut device);
    assert_eq!(command(&driver, &mut queues[2], &[3, 0]), 0);
    assert_eq!(command(&driver, &mut queues[2], &[4, 0, 1, 0]), 1, "no MQ");
    assert!(!driver.needs_reset());
    device.stop().unwrap();
    device.start().unwrap();
    assert_eq!(command(&driver, &mut queues[2], &[3, 0]), 0);
}

#[test]
fn commands_that_are_not_possible_are_refused() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("num_queues=4"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    let mut control = queues.pop().unwrap();
    for bytes in [
        &[4, 0, 0, 0][..],
        &[4, 0, 3, 0],
        &[4, 0, 0xff, 0xff],
        &[4, 0, 1],
        &[4, 0, 1, 0, 0],
        &[4, 1, 1, 0],
        &[4],
        // Reception modes, addresses and VLANs are not offered.
        &[0, 0, 1],
        &[1, 1, 2, 2, 2, 2, 2, 2],
        &[2, 0, 5, 0],
        // Offloads that do not exist, and too few bytes of them.
        &[5, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 7],
        &[
            0x77, 0x77, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        ],
    ] {
        assert_eq!(command(&driver, &mut control, bytes), 1, "{bytes:?}");
    }
    // Nothing to read, no room for an answer.
    let place = control.add(&[Part::Write(1)])[0];
    control.add(&[Part::Read(&[4, 0, 1, 0])]);
    let before = control.used_index();
    driver.kick(control.index);
    eventually(|| control.used_index() == before + 2);
    assert_eq!(control.bytes(place, 1), [1]);
    assert_eq!(control.used().last().unwrap().1, 0);
    assert_eq!(command(&driver, &mut control, &[4, 0, 2, 0]), 0);
    assert!(!driver.needs_reset());
}
