use std::collections::HashSet;

use device::{Form, Presence};

use super::*;

#[test]
fn names_are_unique_and_options_are_those_of_the_reference() {
    let mut seen = HashSet::new();
    for kind in CATALOG {
        let names = kind.names();
        assert!(seen.insert(names.kind), "{}", names.kind);
        assert!(seen.insert(names.id), "{}", names.id);
        assert_eq!(
            names.option.is_none(),
            kind.presence() == Presence::Always,
            "{kind:?}"
        );
    }
    let flags: HashSet<_> = options().map(|(names, _)| names.flag).collect();
    assert_eq!(flags.len(), options().count());
    for (names, _) in options() {
        let flag = names.flag.replace('-', "_");
        match names.form {
            Form::One | Form::Switch => assert_eq!(flag, names.field),
            // `--disk` fills `disks`; some lists have the flag's own name.
            Form::Many => assert_eq!(flag, names.field.trim_end_matches('s')),
        }
    }
}

#[test]
fn every_option_is_documented() {
    for (names, kind) in options() {
        let schema = kind.schema();
        let described = |value: &Value| value.get("description").is_some();
        assert!(described(schema.as_value()), "--{}", names.flag);
        if names.form == Form::Switch {
            assert_eq!(schema.get("type"), Some(&Value::from("boolean")));
            continue;
        }
        let properties = schema.get("properties").and_then(Value::as_object).unwrap();
        for (key, property) in properties {
            let inside = property
                .get("allOf")
                .and_then(|all| all.get(0))
                .is_some_and(described);
            assert!(described(property) || inside, "--{} {key}", names.flag);
        }
    }
}

/// Configurations to try a kind with: its default, or its first example.
fn sample(kind: &dyn AnyKind) -> Value {
    let first = kind.examples().first();
    let example = first.map(|text| kind.read_flag(text).unwrap());
    kind.by_default()
        .or(example)
        .expect("a kind without a default has an example")
}

#[test]
fn defaults_read_back_and_survive_their_own_flag() {
    for (names, kind) in options() {
        let config = sample(kind);
        kind.check(&config, &facts()).unwrap();
        if names.form == Form::Switch {
            continue;
        }
        let flag = kind.write_flag(&config);
        assert_eq!(
            kind.read_flag(&flag).unwrap(),
            config,
            "--{} {flag}",
            names.flag
        );
    }
}

/// A machine large enough for every example.
fn facts() -> Facts {
    Facts {
        boot_vcpus: 4,
        ram_below_4g: 64 << 20,
        ..Facts::default()
    }
}

#[test]
fn an_unknown_key_is_an_error_everywhere() {
    for (names, kind) in options() {
        if names.form == Form::Switch {
            continue;
        }
        let mut config = sample(kind);
        config["no_such_key"] = Value::Null;
        let problem = kind.check(&config, &facts()).unwrap_err();
        assert_eq!(problem.option, format!("--{}", names.flag));
        assert!(problem.text.contains("no_such_key"), "{problem}");
        assert!(kind.read_flag("no_such_key=1").is_err());
    }
}

#[test]
fn an_unknown_member_names_the_nearest() {
    let mut devices = Map::new();
    devices.insert("serail".into(), Value::Null);
    let problem = check(&devices, &Facts::default(), &["cpus"]).unwrap_err();
    assert!(
        problem.text.contains("did you mean \"serial\"?"),
        "{problem}"
    );
}

#[test]
fn what_is_off_is_not_planned() {
    let mut devices = Map::new();
    settle(&mut devices);
    let ids = |devices: &Map<String, Value>| -> Vec<String> {
        plan(devices)
            .into_iter()
            .map(|planned| planned.id)
            .collect()
    };
    assert!(ids(&devices).contains(&"__serial".to_owned()));
    assert!(!ids(&devices).contains(&"__debug_console".to_owned()));
    devices["serial"] = serde_json::json!({ "mode": "Off" });
    assert!(!ids(&devices).contains(&"__serial".to_owned()));
    // The interrupt controller comes first: lines need it.
    assert_eq!(ids(&devices)[0], "__ioapic");
}

#[test]
fn paths_of_the_configured_devices_are_known() {
    let mut devices = Map::new();
    devices.insert(
        "serial".into(),
        serde_json::json!({ "mode": "File", "file": "/dev/null" }),
    );
    settle(&mut devices);
    let paths = paths(&devices).unwrap();
    assert!(paths.contains(&("/dev/null".into(), Access::ReadWrite)));
    assert!(paths.contains(&("/dev/urandom".into(), Access::Read)));
}

#[test]
fn a_device_on_pci_can_have_another_id_and_a_slot_of_its_users_choice() {
    let mut devices = Map::new();
    let config = serde_json::json!({ "src": "/dev/zero", "id": "noise", "pci_device_id": 9 });
    devices.insert("rng".into(), config);
    settle(&mut devices);
    let plan = plan(&devices);
    let noise = plan.iter().find(|planned| planned.id == "noise").unwrap();
    assert_eq!(noise.chosen_slot(), Some((0, 9)));
    assert!(plan.iter().all(|planned| planned.id != "__rng"));
    let console = plan.iter().find(|planned| planned.id == "__console");
    assert_eq!(console.unwrap().chosen_slot(), None);
}

#[test]
fn two_devices_with_one_id_are_refused() {
    let mut devices = Map::new();
    devices.insert(
        "rng".into(),
        serde_json::json!({ "src": "/dev/zero", "id": "one" }),
    );
    devices.insert(
        "console".into(),
        serde_json::json!({ "mode": "Null", "id": "one" }),
    );
    settle(&mut devices);
    let problem = check(&devices, &Facts::default(), &[]).unwrap_err();
    assert!(problem.text.contains("\"one\""), "{problem}");
}
