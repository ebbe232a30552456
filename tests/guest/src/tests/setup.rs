//! A driver that comes to terms with a device in ways it must not (VIRTIO 1.3, 3.1 and 4.1.4.3).

use super::Attack;
use crate::devices::{self, busy_queue};
use crate::memory::{bytes, fill, ram_end, take, write8, write16};
use crate::virtio::{Device, Part, feature, field, status};

pub(super) const ATTACKS: &[Attack] = &[
    ("queue-outside-ram", queue_outside_ram),
    ("queue-misaligned", queue_misaligned),
    ("queue-in-its-own-registers", |device| {
        let registers = device.common;
        with_addresses(device, |addresses| *addresses = [registers; 3]);
    }),
    ("queue-size-odd", queue_size_odd),
    ("features-not-offered", features_not_offered),
    ("features-after-agreement", features_after_agreement),
    ("driver-ok-without-features", driver_ok_without_features),
    ("queue-changed-at-work", queue_changed_at_work),
    ("queues-that-do-not-exist", queues_that_do_not_exist),
    ("doorbells-of-no-queue", doorbells_of_no_queue),
    ("doorbells-before-driver-ok", doorbells_before_driver_ok),
    ("status-takes-bits-back", status_takes_bits_back),
    ("config-written", config_written),
    ("overlapping-queues", overlapping_queues),
];

/// Sets the busy queue up with addresses that `change` has spoilt: with `DRIVER_OK` the device asks for a reset.
fn with_addresses(device: &Device, change: impl FnOnce(&mut [u64; 3])) {
    device.agree(0);
    let queue = device.queue(busy_queue(device.kind), 8, 0);
    let mut addresses = queue.addresses();
    change(&mut addresses);
    // An enabled queue does not change, so it is set up again.
    device.agree(0);
    device.set(field::QUEUE_SELECT, 2, busy_queue(device.kind).into());
    device.set_addresses(addresses);
    device.set(field::QUEUE_ENABLE, 2, 1);
    device.go();
    expect!(
        device.comes_to_need_reset(),
        "queue at {addresses:x?}: it does not ask for a reset"
    );
}

fn queue_outside_ram(device: &mut Device) {
    for part in 0..3 {
        for address in [
            0xd000_0000,
            ram_end(),
            ram_end() - 16,
            1 << 45,
            u64::MAX - 15,
            !0xfff,
        ] {
            with_addresses(device, |addresses| addresses[part] = address);
        }
    }
}

fn queue_misaligned(device: &mut Device) {
    with_addresses(device, |addresses| addresses[0] += 8);
    with_addresses(device, |addresses| addresses[1] += 1);
    with_addresses(device, |addresses| addresses[2] += 2);
}

/// Sizes that are no powers of two, or too large, are not taken.
fn queue_size_odd(device: &mut Device) {
    device.agree(0);
    let index = busy_queue(device.kind);
    let max = u64::from(device.queue_size(index));
    for size in [0, 3, max + 1, 2 * max, 0x8000, 0xffff, max - 1] {
        if size == 2 || size == 1 {
            continue;
        }
        device.set(field::QUEUE_SIZE, 2, size);
        let now = device.get(field::QUEUE_SIZE, 2);
        expect!(now == max, "size {size} was taken: {now}");
    }
}

fn features_not_offered(device: &mut Device) {
    let offered = device.offered();
    expect!(
        offered & feature::VERSION_1 != 0,
        "VERSION_1 is not offered"
    );
    for bit in (0..64).filter(|bit| offered & 1 << bit == 0) {
        let agreed =
            device.negotiate(feature::VERSION_1 | offered & feature::ACCESS_PLATFORM | 1 << bit);
        expect!(!agreed, "feature {bit} is not offered, and agreed to");
    }
    expect!(
        !device.negotiate(offered & !feature::VERSION_1),
        "it agrees to be a legacy device"
    );
}

/// Features cannot change once they are agreed on.
fn features_after_agreement(device: &mut Device) {
    device.agree(0);
    device.set(field::DRIVER_FEATURE_SELECT, 4, 1);
    let before = device.get(field::DRIVER_FEATURE, 4);
    for select in 0..4 {
        device.set(field::DRIVER_FEATURE_SELECT, 4, select);
        device.set(field::DRIVER_FEATURE, 4, 0xffff_ffff);
    }
    device.set(field::DRIVER_FEATURE_SELECT, 4, 1);
    expect!(
        device.get(field::DRIVER_FEATURE, 4) == before,
        "features change after agreement"
    );
}

fn driver_ok_without_features(device: &mut Device) {
    device.reset();
    device.queue(busy_queue(device.kind), 8, 0);
    device.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    expect!(
        device.comes_to_need_reset(),
        "DRIVER_OK without FEATURES_OK is taken"
    );
    device.reset();
    device.set_status(status::DRIVER_OK | status::FEATURES_OK);
    expect!(
        device.comes_to_need_reset(),
        "DRIVER_OK without features is taken"
    );
}

/// What a queue is made of cannot change after `DRIVER_OK`, nor once the queue is enabled.
fn queue_changed_at_work(device: &mut Device) {
    let agreed = device.agree(0);
    let index = busy_queue(device.kind);
    let queue = device.queue(index, 8, agreed);
    for round in ["enabled", "at work"] {
        device.set(field::QUEUE_SELECT, 2, index.into());
        device.set(field::QUEUE_SIZE, 2, 4);
        device.set_addresses([0xd000_0000; 3]);
        device.set(field::QUEUE_ENABLE, 2, 0);
        expect!(
            device.get(field::QUEUE_SIZE, 2) == 8,
            "the size of a queue {round} changes"
        );
        expect!(
            device.get(field::QUEUE_ENABLE, 2) == 1,
            "a queue {round} is disabled"
        );
        for (at, address) in [field::QUEUE_DESC, field::QUEUE_DRIVER, field::QUEUE_DEVICE]
            .into_iter()
            .zip(queue.addresses())
        {
            let now = device.get(at, 4) | device.get(at + 4, 4) << 32;
            expect!(
                now == address,
                "an address of a queue {round} changes to {now:#x}"
            );
        }
        device.go();
        expect!(
            device.status() & status::NEEDS_RESET == 0,
            "a queue {round}: a reset is asked for"
        );
    }
}

fn queues_that_do_not_exist(device: &mut Device) {
    device.agree(0);
    let count = u64::from(device.queues());
    for index in [count, count + 1, 0x100, 0x7fff, 0xffff] {
        device.set(field::QUEUE_SELECT, 2, index);
        expect!(
            device.get(field::QUEUE_SIZE, 2) == 0,
            "queue {index} has a size"
        );
        device.set(field::QUEUE_SIZE, 2, 8);
        device.set_addresses([0x10_0000; 3]);
        device.set(field::QUEUE_VECTOR, 2, 0);
        device.set(field::QUEUE_ENABLE, 2, 1);
        expect!(
            device.get(field::QUEUE_ENABLE, 2) == 0,
            "queue {index} is enabled"
        );
        expect!(
            device.get(field::QUEUE_SIZE, 2) == 0,
            "queue {index} has a size now"
        );
    }
    device.go();
    expect!(
        device.status() & status::NEEDS_RESET == 0,
        "a reset is asked for"
    );
}

/// All of the notification area, with every width.
fn doorbells_of_no_queue(device: &mut Device) {
    let agreed = device.agree(0);
    for index in 0..device.queues() {
        device.queue(index, 8, agreed);
    }
    device.go();
    for offset in (0..0x1000).step_by(64).chain(0..64).chain(0xfc0..0x1000) {
        for width in [1, 2, 4, 8] {
            if offset + width <= 0x1000 {
                crate::memory::write(device.notify + offset, width, u64::MAX);
            }
        }
    }
    expect!(
        device.status() & status::NEEDS_RESET == 0,
        "a reset is asked for"
    );
}

/// Doorbells of queues that are not at work yet are no harm, and no work is done.
fn doorbells_before_driver_ok(device: &mut Device) {
    let agreed = device.agree(0);
    let mut queue = device.queue(busy_queue(device.kind), 8, agreed);
    let ram = take(4096, 4096);
    queue.add(&[Part::write(ram, 4096)]);
    for _ in 0..16 {
        queue.ring();
    }
    devices::pause();
    expect!(queue.poll().is_none(), "it works before DRIVER_OK");
    let zero = bytes(ram, 4096).iter().all(|byte| *byte == 0);
    expect!(zero, "it writes before DRIVER_OK");
}

/// Status bits stay until a reset, whatever is written.
fn status_takes_bits_back(device: &mut Device) {
    device.agree(0);
    let before = device.status();
    device.set_status(status::ACKNOWLEDGE);
    expect!(
        device.status() == before,
        "{before:#x} becomes {:#x}",
        device.status()
    );
    device.set_status(status::NEEDS_RESET | status::ACKNOWLEDGE);
    expect!(
        device.status() == before,
        "the driver sets DEVICE_NEEDS_RESET"
    );
    for width in [2, 4] {
        device.set(field::DEVICE_STATUS, width, 0xffff_ffff);
    }
    device.reset();
}

/// Every byte of the device's own fields is written with every width, before and after `DRIVER_OK`.
fn config_written(device: &mut Device) {
    for _ in 0..2 {
        for offset in (0..128).chain(0xff0..0x1000) {
            for width in [1, 2, 4, 8] {
                if offset + width <= 0x1000 {
                    crate::memory::write(device.config + offset, width, u64::MAX);
                    crate::memory::read(device.config + offset, width);
                }
            }
        }
        device.agree(0);
        for index in 0..device.queues() {
            device.queue(index, 8, 0);
        }
        device.go();
    }
    write8(device.isr, 0xff);
    device.reset();
}

/// All queues, and all parts of each, at one place: nonsense, and no harm to anybody else.
fn overlapping_queues(device: &mut Device) {
    device.agree(0);
    let place = take(0x1_0000, 4096);
    for index in 0..device.queues() {
        device.set(field::QUEUE_SELECT, 2, index.into());
        device.set_addresses([place; 3]);
        device.set(field::QUEUE_ENABLE, 2, 1);
    }
    device.go();
    for round in 0..64 {
        fill(place, 0x400, round * 37);
        for index in 0..device.queues() {
            write16(device.doorbell(index), index);
        }
    }
    devices::pause();
    device.reset();
}
