use memory::{RamOptions, RegionSpec};
use proptest::prelude::*;

use super::*;
use crate::QueueSetup;
use crate::testing::{Bench, DriverQueue};

const SIZE: u16 = 8;

struct Chains {
    ram: GuestRam,
    queue: DriverQueue,
}

impl Chains {
    fn new() -> Self {
        let ram = Bench::new().ram;
        let queue = DriverQueue::new(ram.clone(), 0, SIZE);
        Self { ram, queue }
    }

    fn walk_with(&self, indirect: bool, head: u16) -> Result<(Shape, Vec<Buffer>)> {
        let [descriptors, available, used] = self.queue.addresses();
        let setup = QueueSetup {
            size: SIZE,
            descriptors,
            available,
            used,
            enabled: true,
        };
        let addresses = setup.check(SIZE, &self.ram).unwrap();
        let mut buffers = Vec::new();
        let shape = walk(&self.ram, &addresses, indirect, head, &mut buffers)?;
        Ok((shape, buffers))
    }

    fn walk(&self, head: u16) -> Result<(Shape, Vec<Buffer>)> {
        self.walk_with(true, head)
    }

    fn refused(&self, head: u16) -> String {
        self.walk(head).unwrap_err().to_string()
    }
}

/// A place for indirect tables.
const TABLE: u64 = 0x20_0000;
/// The end of RAM.
const END: u64 = crate::testing::RAM_SIZE;

#[test]
fn follows_next_in_any_order_of_indices() {
    let chains = Chains::new();
    chains.queue.describe(6, 0x1000, 10, NEXT, 2);
    chains.queue.describe(2, 0x2000, 0, NEXT, 7);
    chains.queue.describe(7, 0x3000, 30, WRITE, 9);
    let (shape, buffers) = chains.walk(6).unwrap();
    assert_eq!(
        shape,
        Shape {
            readable: 1,
            readable_len: 10,
            writable_len: 30
        }
    );
    let expected = [
        Buffer {
            address: 0x1000,
            len: 10,
        },
        Buffer {
            address: 0x3000,
            len: 30,
        },
    ];
    assert_eq!(buffers, expected, "a descriptor of no bytes is nothing");
}

#[test]
fn an_index_beyond_the_table_is_refused_as_head_and_as_next() {
    let chains = Chains::new();
    assert_eq!(
        chains.refused(8),
        "descriptor 8 is beyond the end of a table of 8"
    );
    chains.queue.describe(0, 0x1000, 1, NEXT, 0xffff);
    assert_eq!(
        chains.refused(0),
        "descriptor 65535 is beyond the end of a table of 8"
    );
}

#[test]
fn loops_end() {
    let chains = Chains::new();
    chains.queue.describe(0, 0x1000, 1, NEXT, 0);
    assert!(matches!(chains.walk(0), Err(Error::Loop(8))));
    for index in 0..8 {
        chains
            .queue
            .describe(index, 0x1000, 1, NEXT, (index + 1) % 8);
    }
    assert!(matches!(chains.walk(3), Err(Error::Loop(8))));
    // As long as the table is the longest that is possible.
    chains.queue.describe(2, 0x1000, 1, 0, 3);
    assert_eq!(chains.walk(3).unwrap().1.len(), 8);
}

#[test]
fn buffers_must_be_ram_to_their_last_byte() {
    let chains = Chains::new();
    for (address, len, good) in [
        (END - 1, 1, true),
        (END, 1, false),
        (END - 1, 2, false),
        (u64::MAX, 1, false),
        (u64::MAX - 3, 8, false),
        (0, u32::MAX, false),
    ] {
        chains.queue.describe(0, address, len, WRITE, 0);
        assert_eq!(
            chains.walk(0).is_ok(),
            good,
            "{len:#x} bytes at {address:#x}"
        );
    }
}

#[test]
fn a_bad_buffer_at_the_end_spoils_the_whole_chain() {
    let chains = Chains::new();
    chains.queue.describe(0, 0x1000, 1, NEXT, 1);
    chains.queue.describe(1, END, 1, WRITE, 0);
    assert_eq!(
        chains.refused(0),
        "0x1 bytes at 0x1000000 for the buffer are not RAM"
    );
}

#[test]
fn buffers_to_read_come_first() {
    let chains = Chains::new();
    chains.queue.describe(0, 0x1000, 1, WRITE | NEXT, 1);
    chains.queue.describe(1, 0x1000, 1, 0, 0);
    assert!(matches!(chains.walk(0), Err(Error::Order)));
}

#[test]
fn lengths_that_wrap_are_refused() {
    // So much RAM that the lengths themselves are possible; none of it is touched.
    let size = (4 << 30) + (1 << 20);
    let ram = GuestRam::new(&[RegionSpec { start: 0, size }], &RamOptions::default()).unwrap();
    let queue = DriverQueue::new(ram.clone(), 0, SIZE);
    let chains = Chains { ram, queue };
    for flags in [0, WRITE] {
        chains.queue.describe(0, 0, u32::MAX, flags | NEXT, 1);
        chains.queue.describe(1, 0, 1, flags, 0);
        assert!(
            matches!(chains.walk(0), Err(Error::TooLong)),
            "flags {flags}"
        );
    }
    chains.queue.describe(0, 0, u32::MAX, NEXT, 1);
    chains.queue.describe(1, 0, 1, WRITE, 0);
    assert!(matches!(chains.walk(0), Err(Error::TooLong)), "one of each");
}

#[test]
fn an_indirect_table_ends_a_chain_of_direct_descriptors() {
    let chains = Chains::new();
    chains.queue.describe(0, 0x1000, 1, NEXT, 1);
    // The write flag of the reference itself means nothing (VIRTIO 1.3, 2.7.5.3.2).
    chains.queue.describe(1, TABLE, 3 * 16, INDIRECT | WRITE, 0);
    chains.queue.describe_at(TABLE, 0, 0x2000, 2, NEXT, 2);
    chains.queue.describe_at(TABLE, 2, 0x3000, 3, WRITE, 0);
    let (shape, buffers) = chains.walk(0).unwrap();
    assert_eq!(
        shape,
        Shape {
            readable: 2,
            readable_len: 3,
            writable_len: 3
        }
    );
    assert_eq!(buffers.len(), 3);
    assert!(
        matches!(chains.walk_with(false, 0), Err(Error::Indirect(_))),
        "not negotiated"
    );
}

#[test]
fn bad_indirect_tables_are_refused() {
    let chains = Chains::new();
    let check = |address, len, flags, text: &str| {
        chains.queue.describe(0, address, len, flags, 1);
        let error = chains.refused(0);
        assert!(error.contains(text), "{error}");
    };
    check(TABLE, 16, INDIRECT | NEXT, "successor");
    check(TABLE, 0, INDIRECT, "number of descriptors");
    check(TABLE, 17, INDIRECT, "number of descriptors");
    check(TABLE, 16 * 1025, INDIRECT, "more than 1024");
    check(END - 16, 32, INDIRECT, "indirect table are not RAM");
    check(u64::MAX - 15, 32, INDIRECT, "indirect table are not RAM");
    chains.queue.describe_at(TABLE, 0, TABLE, 16, INDIRECT, 0);
    check(TABLE, 16, INDIRECT, "in an indirect table itself");
    chains.queue.describe_at(TABLE, 0, 0x1000, 1, NEXT, 1);
    check(
        TABLE,
        16,
        INDIRECT,
        "descriptor 1 is beyond the end of a table of 1",
    );
    chains.queue.describe_at(TABLE, 0, 0x1000, 1, NEXT, 0);
    check(TABLE, 16, INDIRECT, "loop");
}

/// A descriptor as a plain value.
type Plain = (u64, u32, u16, u16);

/// The rules once more, over plain values and by recursion: what the walk is compared with. `None` for any error.
fn model(
    table: &[Plain],
    indirect: &[Plain],
    index: u16,
    inside: bool,
    left: usize,
    out: &mut Vec<(u64, u32, bool)>,
) -> Option<()> {
    let current = if inside { indirect } else { table };
    let (address, len, flags, next) = *current.get(usize::from(index))?;
    let left = left.checked_sub(1)?;
    if flags & INDIRECT != 0 {
        let whole = usize::try_from(len).unwrap() == 16 * indirect.len();
        let sound = !inside && flags & NEXT == 0 && address == TABLE && whole;
        return if sound {
            model(table, indirect, 0, true, indirect.len(), out)
        } else {
            None
        };
    }
    let writable = flags & WRITE != 0;
    if !writable && out.iter().any(|(.., writable)| *writable) {
        return None;
    }
    if len > 0 {
        if u128::from(address) + u128::from(len) > u128::from(END) {
            return None;
        }
        out.push((address, len, writable));
    }
    if flags & NEXT != 0 {
        model(table, indirect, next, inside, left, out)
    } else {
        Some(())
    }
}

fn plain() -> impl Strategy<Value = Plain> {
    let address = prop_oneof![4 => 0..END, 1 => END - 8..END + 8, 1 => any::<u64>()];
    let ordinary = (address, 0u32..64, 0u16..4, 0u16..10);
    let reference = (Just(TABLE), Just(16 * 4u32), Just(INDIRECT), 0u16..8);
    prop_oneof![6 => ordinary, 1 => reference]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_a_model(
        table in proptest::collection::vec(plain(), usize::from(SIZE)),
        indirect in proptest::collection::vec(plain(), 4),
        head in 0u16..9,
    ) {
        let chains = Chains::new();
        for (index, (address, len, flags, next)) in (0u16..).zip(&table) {
            chains.queue.describe(index, *address, *len, *flags, *next);
        }
        for (index, (address, len, flags, next)) in (0u16..).zip(&indirect) {
            chains.queue.describe_at(TABLE, index, *address, *len, *flags, *next);
        }
        let mut expected = Vec::new();
        let good = model(&table, &indirect, head, false, table.len(), &mut expected).is_some();
        let walked = chains.walk(head);
        prop_assert_eq!(walked.is_ok(), good, "{:?}", walked);
        if let Ok((shape, buffers)) = walked {
            let plain: Vec<_> = buffers
                .iter()
                .enumerate()
                .map(|(at, buffer)| (buffer.address, buffer.len, at >= shape.readable))
                .collect();
            prop_assert_eq!(plain, expected);
        }
    }
}
