//! From the head of a chain to its checked list of buffers (VIRTIO 1.3, 2.7.5).
//!
//! Nothing is believed: each descriptor is copied out of the guest's memory once and judged by that copy, the
//! number of steps is bounded, and only when the whole chain is known to be good is anything of it used.

use memory::{GuestRam, View};

use crate::chain::Buffer;
use crate::queue::{DESCRIPTOR, QueueAddresses};
use crate::{Error, Result};

#[cfg(test)]
mod tests;

/// Descriptor flags (VIRTIO 1.3, 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// The most descriptors of an indirect table. A driver must not make chains longer than its queue; common ones do
/// with small queues, and up to here it costs nothing to let them.
pub(crate) const MAX_INDIRECT: u32 = 1024;

/// One descriptor, copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Copies the descriptor with this index out of a table. `None` beyond its end.
    fn read(table: View<'_>, index: u32) -> Option<Self> {
        let bytes: [u8; 16] = table.read(DESCRIPTOR * u64::from(index))?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, rest @ ..] = bytes;
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest;
        Some(Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }

    fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What a walk adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Buffers that the device reads; the others it writes.
    pub(crate) readable: usize,
    pub(crate) readable_len: u32,
    pub(crate) writable_len: u32,
}

/// Walks the chain that starts with descriptor `head`, and puts its buffers into `buffers`, which is empty.
pub(crate) fn walk(
    ram: &GuestRam,
    queue: &QueueAddresses,
    indirect_allowed: bool,
    head: u16,
    buffers: &mut Vec<Buffer>,
) -> Result<Shape> {
    let mut shape = Shape::default();
    let (mut table, mut size) = (queue.descriptors.view(), u32::from(queue.size));
    let mut index = u32::from(head);
    let mut inside = false;
    let mut steps = 0;
    loop {
        let Some(descriptor) = Descriptor::read(table, index) else {
            return Err(Error::DescriptorIndex { index, size });
        };
        if steps == size {
            return Err(Error::Loop(size));
        }
        steps += 1;
        if descriptor.is(INDIRECT) {
            if !indirect_allowed {
                return Err(Error::Indirect("the feature was not negotiated"));
            }
            if inside {
                return Err(Error::Indirect("it is in an indirect table itself"));
            }
            (table, size) = indirect_table(ram, &descriptor)?;
            (index, steps, inside) = (0, 0, true);
            continue;
        }
        add(ram, &descriptor, &mut shape, buffers)?;
        if !descriptor.is(NEXT) {
            return Ok(shape);
        }
        index = descriptor.next.into();
    }
}

/// The table that an indirect descriptor refers to, and how many descriptors it has.
fn indirect_table<'a>(ram: &'a GuestRam, descriptor: &Descriptor) -> Result<(View<'a>, u32)> {
    if descriptor.is(NEXT) {
        return Err(Error::Indirect("it has a successor"));
    }
    let len = u64::from(descriptor.len);
    if len == 0 || len % DESCRIPTOR != 0 {
        return Err(Error::Indirect(
            "the table's length is not a number of descriptors",
        ));
    }
    let size = descriptor.len / 16;
    if size > MAX_INDIRECT {
        return Err(Error::Indirect("the table has more than 1024 descriptors"));
    }
    let (part, address) = ("indirect table", descriptor.address);
    let table = ram.view(address, len);
    let table = table.ok_or(Error::NotRam { part, address, len })?;
    Ok((table, size))
}

/// Adds a descriptor's buffer. One of no bytes is allowed, and is nothing.
fn add(
    ram: &GuestRam,
    descriptor: &Descriptor,
    shape: &mut Shape,
    buffers: &mut Vec<Buffer>,
) -> Result<()> {
    let Descriptor { address, len, .. } = *descriptor;
    let writable = descriptor.is(WRITE);
    if !writable && buffers.len() > shape.readable {
        return Err(Error::Order);
    }
    if len == 0 {
        return Ok(());
    }
    if !ram.contains(address, len.into()) {
        return Err(Error::NotRam {
            part: "buffer",
            address,
            len: len.into(),
        });
    }
    let other = if writable {
        shape.readable_len
    } else {
        shape.writable_len
    };
    let total = if writable {
        &mut shape.writable_len
    } else {
        &mut shape.readable_len
    };
    *total = total.checked_add(len).ok_or(Error::TooLong)?;
    total.checked_add(other).ok_or(Error::TooLong)?;
    if !writable {
        shape.readable += 1;
    }
    buffers.push(Buffer { address, len });
    Ok(())
}
