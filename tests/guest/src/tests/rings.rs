//! Chains and rings that no driver may make (VIRTIO 1.3, 2.7): the device asks for a reset.

use super::Attack;
use crate::devices;
use crate::memory::{ram_end, take};
use crate::virtio::{
    DESCRIPTOR_INDIRECT as INDIRECT, DESCRIPTOR_NEXT as NEXT, DESCRIPTOR_WRITE as WRITE, Device,
    Queue, describe, feature,
};

pub(super) const ATTACKS: &[Attack] = &[
    ("head-past-the-table", |device| {
        broken(device, 0, |queue| queue.offer(queue.size))
    }),
    ("head-of-all-ones", |device| {
        broken(device, 0, |queue| queue.offer(0xffff))
    }),
    ("next-past-the-table", next_past_the_table),
    ("loop-of-many", chain_in_a_circle),
    ("loop-of-one", loop_of_one),
    ("index-jumps", |device| {
        broken(device, 0, |queue| queue.set_offered(queue.size + 1))
    }),
    ("index-goes-back", |device| {
        broken(device, 0, |queue| queue.set_offered(0xffff))
    }),
    ("readable-after-writable", readable_after_writable),
    ("buffer-in-the-hole", |device| {
        buffer(device, 0xd000_0000, 512)
    }),
    ("buffer-past-the-end-of-ram", |device| {
        buffer(device, ram_end() - 256, 512)
    }),
    ("buffer-behind-ram", |device| buffer(device, ram_end(), 1)),
    ("buffer-wraps", |device| buffer(device, u64::MAX - 255, 512)),
    ("buffer-of-4-gib", |device| {
        buffer(device, 0x10_0000, u32::MAX)
    }),
    ("buffer-is-its-registers", |device| {
        buffer(device, device.common, 64)
    }),
    ("buffer-is-another-device", buffer_in_another_device),
    ("lengths-wrap", lengths_wrap),
    ("indirect-not-negotiated", indirect_not_negotiated),
    ("indirect-in-indirect", |device| {
        indirect(
            device,
            |table, _| describe(table, 0, table, 16, INDIRECT, 0),
            16,
        )
    }),
    ("indirect-of-no-bytes", |device| {
        indirect(device, |_, _| {}, 0)
    }),
    ("indirect-of-odd-bytes", |device| {
        indirect(device, |_, _| {}, 17)
    }),
    ("indirect-too-long", |device| {
        indirect(device, |_, _| {}, 0xffff_fff0)
    }),
    ("indirect-in-the-hole", indirect_in_the_hole),
    ("indirect-with-next", indirect_with_next),
    ("indirect-loop", |device| {
        indirect(device, |table, ram| describe(table, 0, ram, 1, NEXT, 0), 16)
    }),
    ("indirect-next-past-the-table", |device| {
        indirect(device, |table, ram| describe(table, 0, ram, 1, NEXT, 1), 16);
    }),
];

/// Sets the device up with all its queues, breaks its busy queue and rings: it has to ask for a reset, and to leave
/// the queue alone from then on.
fn broken(device: &Device, features: u64, attack: impl FnOnce(&mut Queue)) {
    let agreed = device.agree(features);
    let mut queue = devices::queues(device, 64, agreed);
    device.go();
    attack(&mut queue);
    queue.ring();
    expect!(device.comes_to_need_reset(), "it does not ask for a reset");
    let used = queue.poll();
    expect!(used.is_none(), "a broken chain is used: {used:?}");
    // More of it does no harm.
    queue.offer(0);
    queue.ring();
    expect!(
        device.comes_to_need_reset(),
        "it does not ask for a reset any more"
    );
}

/// One chain of one buffer that is no RAM.
fn buffer(device: &Device, address: u64, len: u32) {
    for flags in [0, WRITE] {
        broken(device, 0, |queue| {
            queue.describe(0, address, len, flags, 0);
            queue.offer(0);
        });
    }
}

fn buffer_in_another_device(device: &mut Device) {
    let other = Device::all().find(|other| other.function != device.function);
    let Some(other) = other else {
        return fail!("there is no other device");
    };
    buffer(device, other.common, 64);
}

fn next_past_the_table(device: &mut Device) {
    let ram = take(64, 64);
    for next in [64, 0x7fff, 0xffff] {
        broken(device, 0, |queue| {
            queue.describe(0, ram, 16, NEXT, next);
            queue.offer(0);
        });
    }
}

fn chain_in_a_circle(device: &mut Device) {
    let ram = take(64, 64);
    broken(device, 0, |queue| {
        for index in 0..8 {
            queue.describe(index, ram, 16, NEXT, (index + 1) % 8);
        }
        queue.offer(3);
    });
}

fn loop_of_one(device: &mut Device) {
    let ram = take(64, 64);
    broken(device, 0, |queue| {
        queue.describe(0, ram, 0, NEXT | WRITE, 0);
        queue.offer(0);
    });
}

fn readable_after_writable(device: &mut Device) {
    let ram = take(64, 64);
    broken(device, 0, |queue| {
        queue.describe(0, ram, 16, NEXT | WRITE, 1);
        queue.describe(1, ram, 16, 0, 0);
        queue.offer(0);
    });
}

/// Buffers that are RAM, and together more than a length can say.
fn lengths_wrap(device: &mut Device) {
    const MIB: u64 = 1 << 20;
    let len = ram_end() - 2 * MIB;
    broken(device, feature::INDIRECT_DESC, |queue| {
        // As many as it takes to wrap, if the queue has so many.
        let count = ((1 << 32) / len + 1) as u16;
        let last = count.min(queue.size - 1);
        for index in 0..last {
            queue.describe(index, 2 * MIB, len as u32, NEXT | WRITE, index + 1);
        }
        let address = if last == count { 2 * MIB } else { u64::MAX };
        queue.describe(last, address, len as u32, WRITE, 0);
        queue.offer(0);
    });
}

fn indirect_not_negotiated(device: &mut Device) {
    let table = take(64, 64);
    describe(table, 0, table, 16, WRITE, 0);
    broken(device, 0, |queue| {
        queue.describe(0, table, 16, INDIRECT, 0);
        queue.offer(0);
    });
}

/// A chain that is an indirect table of `len` bytes. Not negotiated where it is not offered, and then wrong too.
fn indirect(device: &Device, fill: impl FnOnce(u64, u64), len: u32) {
    let (table, ram) = (take(4096, 4096), take(64, 64));
    fill(table, ram);
    broken(device, feature::INDIRECT_DESC, |queue| {
        queue.describe(0, table, len, INDIRECT, 0);
        queue.offer(0);
    });
}

fn indirect_in_the_hole(device: &mut Device) {
    for address in [0xd000_0000, ram_end() - 8, u64::MAX - 15] {
        broken(device, feature::INDIRECT_DESC, |queue| {
            queue.describe(0, address, 32, INDIRECT, 0);
            queue.offer(0);
        });
    }
}

fn indirect_with_next(device: &mut Device) {
    let table = take(64, 64);
    describe(table, 0, table, 16, WRITE, 0);
    broken(device, feature::INDIRECT_DESC, |queue| {
        queue.describe(0, table, 16, INDIRECT | NEXT, 1);
        queue.describe(1, table, 16, WRITE, 0);
        queue.offer(0);
    });
}
