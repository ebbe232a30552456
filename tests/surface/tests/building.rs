//! Every kind is built from each of its examples, started, stopped, saved and restored.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use device::{Device, Presence};
use surface::{Example, Rig, examples};

/// Does something with every example, on a rig of its own.
fn each(act: impl Fn(&Example)) {
    let folder = tempfile::tempdir().unwrap();
    for example in examples(folder.path()) {
        let Example { kind, config, .. } = &example;
        kind.check(config, &Rig::facts()).unwrap();
        act(&example);
    }
}

fn build(rig: &Rig, example: &Example) -> Box<dyn Device> {
    let device = rig.build(example.kind, &example.config);
    device.unwrap_or_else(|error| panic!("{}: {error}", example.label))
}

#[test]
fn kinds_without_a_default_have_examples() {
    for (names, kind) in catalog::options() {
        let needs = kind.presence() == Presence::OnRequest;
        assert!(!needs || !kind.examples().is_empty(), "--{}", names.flag);
    }
}

#[test]
fn every_example_builds_starts_stops_and_starts_again() {
    each(|example| {
        let rig = Rig::new();
        let mut device = build(&rig, example);
        for _ in 0..2 {
            device.start().unwrap();
            device.stop().unwrap();
        }
    });
}

#[test]
fn a_saved_state_is_restored_and_saved_the_same() {
    each(|example| {
        let first = {
            let rig = Rig::new();
            let mut device = build(&rig, example);
            device.start().unwrap();
            device.stop().unwrap();
            device.save().unwrap()
        };
        let rig = Rig::new();
        let mut copy = build(&rig, example);
        let restored = copy.restore(first.clone());
        restored.unwrap_or_else(|error| panic!("{}: {error}", example.label));
        let (before, after) = (
            serde_json::to_value(&first).unwrap(),
            serde_json::to_value(copy.save().unwrap()).unwrap(),
        );
        assert_eq!(before, after, "{}", example.label);
        copy.start().unwrap();
        copy.stop().unwrap();
    });
}

#[test]
fn a_state_of_another_kind_is_refused_and_changes_nothing() {
    each(|example| {
        let rig = Rig::new();
        let mut device = build(&rig, example);
        let before = serde_json::to_value(device.save().unwrap()).unwrap();
        let wrong: device::Saved = serde_json::from_value(serde_json::json!({
            "kind": "no-such-kind", "version": 1, "body": null
        }))
        .unwrap();
        assert!(device.restore(wrong).is_err(), "{}", example.label);
        let after = serde_json::to_value(device.save().unwrap()).unwrap();
        assert_eq!(before, after, "{}", example.label);
    });
}

#[test]
fn what_a_device_had_is_free_again_when_it_is_gone() {
    each(|example| {
        let rig = Rig::new();
        for _ in 0..3 {
            drop(build(&rig, example));
        }
    });
}
