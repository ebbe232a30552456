//! Every kind is built from each of its examples, on a board without processors.

use std::path::Path;
use std::sync::Arc;

use arch::layout;
use device::{Board, Device, Host, Power};
use memory::{GuestRam, RamOptions, RegionSpec};
use pci::{Layout, Pci};

use super::{facts, options};
use crate::{AnyKind, CATALOG, Presence, Value};

/// Bytes of RAM, from address 0.
const RAM: u64 = 64 << 20;
/// Physical address bits of processors that do not exist.
const BITS: u8 = 40;

/// A machine without processors. The devices' memory comes from the hypervisor, so that there has to be one.
struct Rig {
    board: Arc<Board>,
    _pci: Arc<Pci>,
}

impl Rig {
    fn new() -> Self {
        let hypervisor = hypervisor::open().expect("the tests need /dev/kvm");
        let vm = hypervisor
            .create_vm(&hypervisor::VmOptions::default())
            .unwrap();
        let regions = [RegionSpec {
            start: 0,
            size: RAM,
        }];
        let ram = GuestRam::new(&regions, &RamOptions::default()).unwrap();
        let board = Arc::new(Board::new(
            vm,
            ram,
            Power::new(|_| {}),
            facts(),
            sandbox::Mode::Off,
            layout::platform_area(BITS),
            |_| {},
        ));
        let plan = Layout {
            segments: 1,
            memory32: layout::MMIO32_START..layout::MMIO32_START + layout::MMIO32_SIZE,
            memory64: layout::device_area(RAM, BITS).unwrap(),
        };
        let pci = Arc::new(Pci::new(board.ports(), board.mmio(), &plan).unwrap());
        board.provide(Arc::clone(&pci));
        Self { board, _pci: pci }
    }

    fn build(&self, kind: &dyn AnyKind, config: &Value) -> Result<Box<dyn Device>, String> {
        let id = kind.names().id.to_owned();
        let mut host = Host::new(&self.board, id, kind.syscalls().worker);
        // What is printed says everything, as it would to a user.
        kind.build(config, &mut host).map_err(|error| chain(&error))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// The configuration that an example means, with its files in `folder`.
fn example(kind: &dyn AnyKind, text: &str, folder: &Path) -> Value {
    let text = text.replace("/vm/", &format!("{}/", folder.display()));
    for word in text.split([',', '=', '[', ']']) {
        if word.ends_with(".raw") {
            std::fs::File::create(word)
                .unwrap()
                .set_len(16 << 20)
                .unwrap();
        }
    }
    kind.read_flag(&text).unwrap()
}

/// Builds `kind` again and again: from its default, and from each example. Kinds that others depend on come first.
fn each(mut act: impl FnMut(&dyn AnyKind, &str, &dyn Fn(&Rig) -> Box<dyn Device>)) {
    for kind in CATALOG {
        let names = kind.names();
        let folder = tempfile::tempdir().unwrap();
        let examples = kind.examples().iter();
        let mut configs: Vec<(String, Value)> = examples
            .map(|text| ((*text).to_owned(), example(*kind, text, folder.path())))
            .collect();
        if let Some(config) = kind.by_default().filter(|config| !kind.is_off(config)) {
            configs.push(("default".into(), config));
        }
        if names.option.is_none() {
            configs.push(("always".into(), serde_json::json!({})));
        }
        for (label, config) in configs {
            kind.check(&config, &facts()).unwrap();
            let label = format!("{} {label}", names.kind);
            // The terminal is not ours to take.
            if config.get("mode").and_then(Value::as_str) == Some("Tty") {
                continue;
            }
            act(*kind, &label, &|rig| {
                rig.build(*kind, &config)
                    .unwrap_or_else(|error| panic!("{label}: {error}"))
            });
        }
    }
}

#[test]
fn kinds_without_a_default_have_examples() {
    for (names, kind) in options() {
        let needs = kind.presence() == Presence::OnRequest;
        assert!(!needs || !kind.examples().is_empty(), "--{}", names.flag);
    }
}

#[test]
fn every_example_builds_starts_stops_and_starts_again() {
    each(|_, label, build| {
        let rig = Rig::new();
        let mut device = build(&rig);
        for _ in 0..2 {
            device
                .start()
                .unwrap_or_else(|error| panic!("{label}: {error}"));
            device
                .stop()
                .unwrap_or_else(|error| panic!("{label}: {error}"));
        }
    });
}

#[test]
fn a_saved_state_is_restored_and_saved_the_same() {
    each(|_, label, build| {
        let first = {
            let rig = Rig::new();
            let mut device = build(&rig);
            device.start().unwrap();
            device.stop().unwrap();
            device
                .save()
                .unwrap_or_else(|error| panic!("{label}: {error}"))
        };
        let rig = Rig::new();
        let mut copy = build(&rig);
        copy.restore(first.clone())
            .unwrap_or_else(|error| panic!("{label}: {error}"));
        let (before, after) = (
            serde_json::to_value(&first).unwrap(),
            serde_json::to_value(copy.save().unwrap()).unwrap(),
        );
        assert_eq!(before, after, "{label}");
        copy.start().unwrap();
        copy.stop().unwrap();
    });
}

#[test]
fn a_state_of_another_kind_is_refused_and_changes_nothing() {
    each(|_, label, build| {
        let rig = Rig::new();
        let mut device = build(&rig);
        let before = serde_json::to_value(device.save().unwrap()).unwrap();
        let wrong: device::Saved = serde_json::from_value(serde_json::json!({
            "kind": "no-such-kind", "version": 1, "body": null
        }))
        .unwrap();
        assert!(device.restore(wrong).is_err(), "{label}");
        assert_eq!(
            before,
            serde_json::to_value(device.save().unwrap()).unwrap()
        );
    });
}

#[test]
fn what_a_device_had_is_free_again_when_it_is_gone() {
    each(|_, _, build| {
        let rig = Rig::new();
        for _ in 0..3 {
            drop(build(&rig));
        }
    });
}
