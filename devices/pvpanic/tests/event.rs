//! What the event stream says. It is one per process, and so is this test.

use std::time::Duration;

use device::{Bus, Device};
use pci::{Layout, Pci};
use pvpanic::PvPanic;
use serde_json::Value;

#[test]
fn events_have_the_names_of_the_reference_and_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    telemetry::event::init(std::fs::File::create(&path).unwrap()).unwrap();
    let memory = Bus::new("memory");
    let layout = Layout {
        segments: 1,
        memory32: 0xc000_0000..0xe800_0000,
        memory64: 0x10_0000_0000..0x20_0000_0000,
    };
    let pci = Pci::new(&Bus::new("I/O ports"), &memory, &layout).unwrap();
    let mut device = PvPanic::new(pci.segment(0).unwrap(), None).unwrap();
    device.start().unwrap();
    let mut bar = [0; 4];
    memory.read(0xe800_0000 + (1 << 15) + 0x10, &mut bar);
    let bar = u64::from(u32::from_le_bytes(bar) & !0xf);
    for value in [1, 2, 0x40, 3, 0] {
        memory.write(bar, &[value]);
    }
    for _ in 0..1000 {
        memory.write(bar, &[2]);
    }
    assert!(telemetry::event::flush(Duration::from_secs(5)));
    let text = std::fs::read_to_string(&path).unwrap();
    let events: Vec<Value> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let names: Vec<&str> = events
        .iter()
        .map(|event| {
            assert_eq!(
                (&event["source"], &event["event"]),
                (&"guest".into(), &"panic".into())
            );
            event["properties"]["event"].as_str().unwrap()
        })
        .collect();
    let first = [
        "panic",
        "crash_loaded",
        "unknown_event",
        "panic",
        "crash_loaded",
    ];
    assert_eq!(names[..5], first);
    // A burst, and one or two more if the machine is slow.
    assert!(names.len() < 50, "{}", names.len());
}
