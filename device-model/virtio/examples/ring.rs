//! How long a queue takes for one chain: `cargo run --release -p virtio --features testing --example ring`.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use reactor::Kick;
use virtio::testing::Bench;
use virtio::{Line, QueueSetup, Ring, RingParts, feature};

struct Deaf;

impl Line for Deaf {
    fn used(&self, _: u16) {}
    fn config_changed(&self) {}
    fn needs_reset(&self) {}
}

const SIZE: u16 = 256;
const BATCH: u16 = 32;
const ROUNDS: u32 = 100_000;
const DESCRIPTORS: u64 = 0x10_0000;
const AVAILABLE: u64 = 0x11_0000;
const USED: u64 = 0x12_0000;
const TABLES: u64 = 0x20_0000;
const BUFFERS: u64 = 0x80_0000;

fn descriptor(bench: &Bench, at: u64, address: u64, len: u32, flags: u16, next: u16) {
    let mut bytes = Vec::new();
    bytes.extend(address.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bench.ram.write(at, &bytes).expect("it is RAM");
}

/// A block device's read: header, data, status.
fn chain(bench: &Bench, table: u64, first: u16) {
    let at = |index: u16| table + 16 * u64::from(first + index);
    descriptor(bench, at(0), BUFFERS, 16, 1, first + 1);
    descriptor(bench, at(1), BUFFERS + 0x1000, 4096, 3, first + 2);
    descriptor(bench, at(2), BUFFERS + 0x3000, 1, 2, 0);
}

fn measure(name: &str, indirect: bool) {
    let bench = Bench::new();
    for slot in 0..64u16 {
        if indirect {
            let table = TABLES + 64 * u64::from(slot);
            chain(&bench, table, 0);
            descriptor(&bench, DESCRIPTORS + 16 * u64::from(slot), table, 48, 4, 0);
        } else {
            chain(&bench, DESCRIPTORS, 4 * slot);
        }
    }
    for element in 0..SIZE {
        let head = if indirect {
            element % 64
        } else {
            4 * (element % 64)
        };
        let at = AVAILABLE + 4 + 2 * u64::from(element);
        bench.ram.write(at, &head.to_le_bytes()).expect("it is RAM");
    }
    let setup = QueueSetup {
        size: SIZE,
        descriptors: DESCRIPTORS,
        available: AVAILABLE,
        used: USED,
        enabled: true,
    };
    let mut ring = Ring::new(RingParts {
        index: 0,
        addresses: setup.check(SIZE, &bench.ram).expect("it is a queue"),
        features: feature::EVENT_IDX | feature::INDIRECT_DESC,
        ram: bench.ram.clone(),
        kick: Kick::new().expect("a descriptor"),
        line: Arc::new(Deaf),
        next_available: 0,
        next_used: 0,
    });
    let mut available = 0u16;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        available = available.wrapping_add(BATCH);
        bench
            .ram
            .write(AVAILABLE + 2, &available.to_le_bytes())
            .expect("it is RAM");
        while let Some(chain) = ring.pop() {
            let written = black_box(&chain).writable_len();
            ring.complete(chain, written);
        }
        ring.notify();
        ring.listen();
    }
    let chains = f64::from(ROUNDS) * f64::from(BATCH);
    println!(
        "{name}: {:.1} ns per chain",
        start.elapsed().as_secs_f64() * 1e9 / chains
    );
}

fn main() {
    measure("three descriptors", false);
    measure("indirect table of three", true);
}
