//! A device is added by writing its file and one line in a list: here it is [`mirror`], and the list is the catalog's
//! with one kind more. Everything that a machine and a user do with devices works with it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod mirror;
#[path = "../pages/page.rs"]
mod page;

use catalog::{CATALOG, Kinds};
use device::{AnyKind, Device};
use serde_json::{Map, Value, json};
use surface::{Driver, Rig};
use virtio::testing::eventually;

use mirror::Mirror;
use page::Page;

/// The catalog with one kind more.
fn kinds() -> Kinds {
    let more: &[&'static dyn AnyKind] = &[&Mirror];
    Kinds(Box::leak([CATALOG, more].concat().into_boxed_slice()))
}

/// The devices of a machine that takes no terminal and has these mirrors.
fn devices(mirrors: Value) -> Map<String, Value> {
    let mut devices = Map::new();
    for console in ["serial", "console", "debug_console"] {
        devices.insert(console.into(), json!({ "mode": "Null" }));
    }
    devices.insert("mirrors".into(), mirrors);
    kinds().settle(&mut devices);
    devices
}

fn check(devices: &Map<String, Value>) -> Result<(), String> {
    let checked = kinds().check(devices, &Rig::facts(), &["cpus"]);
    checked.map_err(|problem| problem.to_string())
}

#[test]
fn it_is_planned_last_under_an_id_of_its_own() {
    let devices = devices(json!([{}, { "id": "glass", "pci_device_id": 9 }, { "shift": 7 }]));
    assert_eq!(check(&devices), Ok(()));
    let plan = kinds().plan(&devices);
    let mirrors = &plan[plan.len() - 3..];
    let ids: Vec<&str> = mirrors.iter().map(|planned| planned.id.as_str()).collect();
    assert_eq!(ids, ["_mirror0", "glass", "_mirror1"]);
    assert_eq!(mirrors[1].chosen_slot(), Some((0, 9)));
    assert!(plan.len() > 3 && catalog::plan(&devices).len() == plan.len() - 3);
}

#[test]
fn its_configuration_is_checked_and_mistakes_are_named() {
    let wrong = |mirror: Value| check(&devices(json!([mirror]))).unwrap_err();
    assert!(wrong(json!({ "shift": 0 })).contains("use 1 to 255"));
    assert!(wrong(json!({ "shitf": 1 })).contains("shitf"));
    assert!(wrong(json!({ "pci_device_id": 0 })).contains("host bridge"));
    assert!(wrong(json!({ "id": "__serial" })).contains("monitor's own"));
    let twice = json!([{ "id": "a" }, { "id": "a" }]);
    assert!(check(&devices(twice)).unwrap_err().contains("\"a\""));
    let mut misspelt = devices(json!([]));
    misspelt.insert("mirors".into(), json!([]));
    assert!(
        check(&misspelt)
            .unwrap_err()
            .contains("did you mean \"mirrors\"?")
    );
    let mut one = devices(json!([]));
    one["mirrors"] = json!({});
    assert!(check(&one).unwrap_err().contains("a list"));
}

#[test]
fn it_is_an_option_with_help_and_a_page() {
    let (option, kind) = kinds().options().last().unwrap();
    assert_eq!(option.flag, "mirror");
    assert!(catalog::options().all(|(names, _)| names.flag != "mirror"));
    for text in kind.examples() {
        let config = kind.read_flag(text).unwrap();
        assert_eq!(kind.read_flag(&kind.write_flag(&config)).unwrap(), config);
    }
    let help = keyvalue::help(&kind.schema());
    assert!(help.starts_with("shift=<u8>"), "{help}");
    assert!(
        help.contains("What is added to each byte [default: 1]"),
        "{help}"
    );
    let rig = Rig::new();
    let device = rig.build(kind, &json!({})).unwrap();
    let text = Page {
        kind,
        option,
        source: include_str!("mirror.rs"),
        device: &*device,
    }
    .text();
    for line in [
        "# --mirror",
        "A device that no other file of the project knows: what a driver gives it comes back changed.",
        "In JSON the member `mirrors`, a list; the flag can be repeated. There is none unless asked for.",
        "| `shift` | `<u8>` | `1` | What is added to each byte. Not 0, which would be no change. |",
        "--mirror id=glass",
        "`bytes`.",
        "Version 1.",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
    assert!(!text.contains("Not on its page"));
}

/// Sends bytes and waits for them to come back.
fn mirrored(rig: &Rig, device: &mut dyn Device, driver: &mut Driver<'_>, bytes: &[u8]) -> Vec<u8> {
    const AT: u64 = 0x20_0000;
    let len = u32::try_from(bytes.len()).unwrap();
    rig.ram().write(AT, bytes).unwrap();
    let room = AT + 0x1000;
    rig.ram().write(room, &vec![0; bytes.len()]).unwrap();
    driver.describe(0, 0, AT, len, 1, 1);
    driver.describe(0, 1, room, len, 2, 0);
    driver.offer(0, 0);
    rig.attend(device);
    let mut back = vec![0; bytes.len()];
    eventually(|| {
        rig.ram().read(room, &mut back).unwrap();
        back.iter().all(|byte| *byte != 0)
    });
    back
}

#[test]
fn a_board_with_all_that_is_planned_has_it_at_work_and_restores_it() {
    let devices = devices(json!([{ "shift": 1 }]));
    let rig = Rig::new();
    let build = || -> Vec<Box<dyn Device>> {
        let plan = kinds().plan(&devices).into_iter();
        plan.map(|planned| rig.build(planned.kind, planned.config).unwrap())
            .collect()
    };
    let mut machine = build();
    let slot = (1..32).rfind(|slot| Driver::find(&rig, *slot).is_some());
    for device in &mut machine {
        device.start().unwrap();
    }
    let mut driver = Driver::find(&rig, slot.unwrap()).unwrap();
    assert_eq!(driver.config(0) >> 16, 0x1040 + 63);
    driver.begin(u64::MAX);
    let mirror = machine.last_mut().unwrap();
    rig.attend(&mut **mirror);
    assert_eq!(mirrored(&rig, &mut **mirror, &mut driver, b"HAL"), b"IBM");
    assert_eq!(mirror.counters(), [("bytes", 3)]);
    let saved: Vec<_> = machine
        .iter_mut()
        .map(|device| {
            device.stop().unwrap();
            device.save().unwrap()
        })
        .collect();
    drop(machine);
    let mut machine = build();
    for (device, saved) in machine.iter_mut().zip(saved) {
        device.restore(saved).unwrap();
    }
    for device in &mut machine {
        device.start().unwrap();
    }
    let mirror = machine.last_mut().unwrap();
    assert_eq!(mirrored(&rig, &mut **mirror, &mut driver, b"GZSB"), b"H[TC");
    assert_eq!(mirror.counters(), [("bytes", 7)]);
}
