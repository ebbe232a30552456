use device::{AnyKind, Bus, Facts};
use pci::Layout;
use serde_json::json;

use super::*;

const ECAM: u64 = 0xe800_0000;

struct Bench {
    memory: Arc<Bus>,
    pci: Pci,
}

impl Bench {
    fn new() -> Self {
        let (ports, memory) = (Bus::new("I/O ports"), Bus::new("memory"));
        let layout = Layout {
            segments: 1,
            memory32: 0xc000_0000..0xe800_0000,
            memory64: 0x10_0000_0000..0x20_0000_0000,
        };
        let pci = Pci::new(&ports, &memory, &layout).unwrap();
        Self { memory, pci }
    }

    fn device(&self) -> PvPanic {
        let mut device = PvPanic::new(self.pci.segment(0).unwrap(), None).unwrap();
        device.start().unwrap();
        device
    }

    fn read(&self, address: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(address, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    /// Configuration space of slot 1.
    fn config(&self, offset: u64, len: usize) -> u64 {
        self.read(ECAM + (1 << 15) + offset, len)
    }

    fn set_config(&self, offset: u64, bytes: &[u8]) {
        self.memory.write(ECAM + (1 << 15) + offset, bytes);
    }

    fn bar(&self) -> u64 {
        self.config(0x10, 4) & !0xf
    }
}

fn counts(device: &PvPanic) -> [u64; 2] {
    let counters = device.counters();
    assert_eq!((counters[0].0, counters[1].0), ("panics", "crash_loads"));
    [counters[0].1, counters[1].1]
}

#[test]
fn has_the_ids_of_the_reference_and_the_smallest_bar() {
    let bench = Bench::new();
    let device = bench.device();
    assert_eq!(device.address().to_string(), "0000:00:01.0");
    assert_eq!(bench.config(0, 4), 0x0011_1b36);
    assert_eq!(bench.config(8, 4), 0x0880_0001);
    assert_eq!(bench.config(0x34, 1), 0, "no capability");
    assert_eq!(bench.bar() % 4096, 0);
    bench.set_config(0x10, &[0xff; 4]);
    assert_eq!(bench.config(0x10, 4), 0xffff_fff0);
    for register in 1..6 {
        assert_eq!(bench.config(0x10 + 4 * register, 4), 0);
    }
}

#[test]
fn the_register_says_what_it_understands() {
    let bench = Bench::new();
    let _device = bench.device();
    let bar = bench.bar();
    for (len, value) in [(1, 3), (2, 3), (4, 3), (8, 3)] {
        assert_eq!(bench.read(bar, len), value);
    }
    assert_eq!(bench.read(bar + 1, 1), 0);
    assert_eq!(bench.read(bar + 8, 8), 0);
    // It has no effect on what is read.
    bench.memory.write(bar, &[2]);
    assert_eq!(bench.read(bar, 1), 3);
}

#[test]
fn each_bit_is_an_event_of_its_own() {
    let bench = Bench::new();
    let device = bench.device();
    let bar = bench.bar();
    for (bytes, expected) in [
        (&[1][..], [1, 0]),
        (&[2], [1, 1]),
        (&[3], [2, 2]),
        (&[0], [2, 2]),
        (&[4], [2, 2]),
        (&[0xff], [3, 3]),
        (&[1, 0, 0, 0], [4, 3]),
        (&[0, 1, 1, 1, 1, 1, 1, 1], [4, 3]),
    ] {
        bench.memory.write(bar, bytes);
        assert_eq!(counts(&device), expected, "{bytes:?}");
    }
    // The rest of the BAR is empty; beyond it is nothing.
    for offset in 1..16 {
        bench.memory.write(bar + offset, &[1]);
    }
    assert!(!bench.memory.write(bar + 15, &[1, 1]));
    assert!(!bench.memory.write(bar + 16, &[1]));
    assert_eq!(counts(&device), [4, 3]);
}

#[test]
fn a_guest_that_goes_on_and_on_is_counted() {
    let bench = Bench::new();
    let device = bench.device();
    let bar = bench.bar();
    for _ in 0..10_000 {
        bench.memory.write(bar, &[1]);
    }
    assert_eq!(counts(&device), [10_000, 0]);
}

#[test]
fn a_copy_is_where_the_guest_has_put_the_original() {
    let bench = Bench::new();
    let device = bench.device();
    let moved = 0xd000_0000u32;
    bench.set_config(0x10, &moved.to_le_bytes());
    assert_eq!(bench.read(moved.into(), 1), 3);
    let saved = device.save().unwrap();
    drop(device);
    assert_eq!(bench.config(0, 4), 0xffff_ffff, "it is gone");
    assert!(!bench.memory.write(moved.into(), &[1]));
    let mut copy = PvPanic::new(bench.pci.segment(0).unwrap(), None).unwrap();
    copy.restore(saved.clone()).unwrap();
    assert!(!bench.memory.write(moved.into(), &[1]), "not started yet");
    copy.start().unwrap();
    assert_eq!(copy.save().unwrap(), saved);
    bench.memory.write(moved.into(), &[1]);
    assert_eq!(counts(&copy), [1, 0]);
}

#[test]
fn states_of_version_1_are_read_and_others_are_refused() {
    let saved: Saved = serde_json::from_str(include_str!("../fixtures/state-v1.json")).unwrap();
    let bench = Bench::new();
    let mut device = bench.device();
    device.restore(saved.clone()).unwrap();
    device.start().unwrap();
    assert_eq!(device.save().unwrap(), saved);
    let before = device.save().unwrap();
    let mut bad = Vec::new();
    for (member, value) in [
        ("config", json!([1, 2, 3])),
        ("bars", json!([])),
        ("msix", json!({ "enabled": true })),
    ] {
        let mut saved = saved.clone();
        saved.body["function"][member] = value;
        bad.push(saved);
    }
    bad.push(Saved::new("pvpanic", 2, &saved.body).unwrap());
    bad.push(Saved::new("rng", 1, &saved.body).unwrap());
    for saved in bad {
        assert!(device.restore(saved.clone()).is_err(), "{saved:?}");
        assert_eq!(device.save().unwrap(), before);
    }
}

#[test]
fn it_is_a_switch_that_is_off() {
    let default = AnyKind::by_default(&PvPanicKind).unwrap();
    assert_eq!(default, json!(false));
    assert!(PvPanicKind.is_off(&default));
    assert!(!PvPanicKind.is_off(&json!(true)));
    let facts = Facts::default();
    assert_eq!(AnyKind::check(&PvPanicKind, &json!(true), &facts), Ok(()));
    assert!(AnyKind::check(&PvPanicKind, &json!({ "on": 1 }), &facts).is_err());
    let schema = PvPanicKind.schema();
    assert_eq!(schema.get("type"), Some(&json!("boolean")));
    assert!(schema.get("description").is_some());
}
