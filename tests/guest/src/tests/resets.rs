//! Resets of a device and of a queue (VIRTIO 1.3, 2.4 and 2.6.1) while there is work.

use super::Attack;
use crate::devices::{self, REQUEST, busy_queue, pause, request};
use crate::machine::{PATIENCE, ticks, wait_for};
use crate::memory::{bytes, fill, read16, take, write16};
use crate::virtio::{Device, Queue, feature, field, status};

pub(super) const ATTACKS: &[Attack] = &[
    ("reset-in-flight", reset_in_flight),
    ("queue-reset-in-flight", queue_reset_in_flight),
    ("queue-reset-not-agreed", queue_reset_not_agreed),
    ("reset-after-reset", reset_after_reset),
];

const REQUESTS: u64 = 8;
const MEMORY: u64 = REQUESTS * REQUEST;
/// What memory is filled with that the device is done with.
const LEFT: u8 = 0xa5;

/// Gives the busy queue all the work that there is memory for, and rings.
fn load(device: &Device, queue: &mut Queue, memory: u64) {
    fill(memory, MEMORY, 0);
    for index in 0..REQUESTS {
        let (parts, count) = request(device.kind, memory + REQUEST * index);
        // A small queue takes less.
        queue.add(&parts[..count]);
    }
    queue.ring();
}

/// Lets the device work for a time that is another one in each round.
fn delay(round: u64) {
    let start = ticks();
    wait_for(round * 20_000, || (ticks() < start).then_some(()));
}

/// The device has let go of its queue and of the requests in it. Whether nothing is written any more.
fn is_left_alone(queue: &Queue, memory: u64, round: u64) -> bool {
    let [_, _, used] = queue.addresses();
    fill(memory, MEMORY, LEFT);
    write16(used + 2, 0x5a5a);
    pause();
    let same = bytes(memory, MEMORY).iter().all(|byte| *byte == LEFT);
    expect!(same, "round {round}: memory is written after a reset");
    let index = read16(used + 2);
    expect!(
        index == 0x5a5a,
        "round {round}: the used ring is written after a reset"
    );
    same && index == 0x5a5a
}

/// Once status reads 0, nothing is written any more.
fn reset_in_flight(device: &mut Device) {
    let memory = take(MEMORY, 4096);
    for round in 0..20 {
        let agreed = device.agree(0);
        let mut queue = devices::queues(device, 32, agreed);
        device.go();
        load(device, &mut queue, memory);
        delay(round);
        device.reset();
        if !is_left_alone(&queue, memory, round) {
            return;
        }
    }
}

/// Once the queue's reset is done, nothing of it is written any more, and it can be set up at another place.
fn queue_reset_in_flight(device: &mut Device) {
    if device.offered() & feature::RING_RESET == 0 {
        return;
    }
    let index = busy_queue(device.kind);
    let memory = take(MEMORY, 4096);
    let agreed = device.agree(feature::RING_RESET);
    let mut queue = devices::queues(device, 32, agreed);
    device.go();
    for round in 0..20 {
        load(device, &mut queue, memory);
        delay(round);
        device.set(field::QUEUE_SELECT, 2, index.into());
        device.set(field::QUEUE_RESET, 2, 1);
        let is_done = || (device.get(field::QUEUE_RESET, 2) == 0).then_some(());
        expect!(
            wait_for(PATIENCE, is_done).is_some(),
            "round {round}: the queue's reset does not end"
        );
        let enabled = device.get(field::QUEUE_ENABLE, 2);
        expect!(enabled == 0, "round {round}: enabled is {enabled}");
        if !is_left_alone(&queue, memory, round) {
            return;
        }
        queue = device.queue(index, 32, agreed);
        fill(memory, MEMORY, 0);
        let (parts, count) = request(device.kind, memory);
        queue.add(&parts[..count]);
        queue.ring();
        let answer = queue.wait();
        expect!(answer.is_some(), "round {round}: the new queue is dead");
    }
    let fine = device.status() & status::NEEDS_RESET == 0;
    expect!(fine, "it asks for a reset");
}

/// Without the feature there is no such register.
fn queue_reset_not_agreed(device: &mut Device) {
    let index = busy_queue(device.kind);
    let agreed = device.agree(0);
    let memory = take(MEMORY, 4096);
    let mut queue = devices::queues(device, 32, agreed);
    for _ in 0..2 {
        device.set(field::QUEUE_SELECT, 2, index.into());
        device.set(field::QUEUE_RESET, 2, 1);
        let enabled = device.get(field::QUEUE_ENABLE, 2);
        expect!(enabled == 1, "the queue was reset");
        device.go();
    }
    load(device, &mut queue, memory);
    let answer = queue.wait();
    expect!(answer.is_some(), "the queue was reset");
}

/// Resets one after the other, at all points of the way to `DRIVER_OK`.
fn reset_after_reset(device: &mut Device) {
    for _ in 0..4 {
        for stop in 0..5 {
            device.reset();
            let steps = [
                status::ACKNOWLEDGE,
                status::DRIVER,
                status::FEATURES_OK,
                status::DRIVER_OK,
            ];
            for step in &steps[..stop] {
                device.set_status(device.status() | step);
            }
        }
        let agreed = device.agree(0);
        for index in 0..device.queues().min(8) {
            device.queue(index, 8, agreed);
        }
        for _ in 0..4 {
            device.go();
            device.set_status(0);
        }
    }
    device.reset();
}
