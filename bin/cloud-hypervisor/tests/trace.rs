//! The build that says where the time of its start went.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kernel;

use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;

/// mov al, 0x34 (S5 and `SLP_EN`); mov dx, 0x600 (the sleep control register); out dx, al; hlt.
const POWER_OFF: &[u8] = &[0xb0, 0x34, 0x66, 0xba, 0x00, 0x06, 0xee, 0xf4];

fn start(folder: &Path, words: &[&str]) -> Child {
    let mut monitor = Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor"));
    monitor.args(["--console", "off", "--memory", "size=64M"]);
    monitor.args(words).current_dir(folder).spawn().unwrap()
}

/// The steps of a file as (thread, name, begin, end), which it has in the order of their ends.
fn steps(file: &Path) -> Vec<(String, String, f64, f64)> {
    let text = std::fs::read(file).unwrap();
    let written: Value = serde_json::from_slice(&text).unwrap();
    let events = written["traceEvents"].as_array().unwrap();
    let thread = |tid: &Value| {
        let named = |event: &&Value| event["ph"] == "M" && event["tid"] == *tid;
        let event = events.iter().find(named).unwrap();
        event["args"]["name"].as_str().unwrap().to_owned()
    };
    events
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| {
            let name = event["name"].as_str().unwrap().to_owned();
            let begin = event["ts"].as_f64().unwrap();
            let end = begin + event["dur"].as_f64().unwrap();
            (thread(&event["tid"]), name, begin, end)
        })
        .collect()
}

/// Under the default filters and Landlock: what is written is opened before them.
#[test]
fn a_start_is_told_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    kernel::write(folder.path(), POWER_OFF);
    let mut monitor = start(folder.path(), &["--kernel", "kernel", "--landlock"]);
    let file = format!("cloud-hypervisor-{}.trace", monitor.id());
    assert!(monitor.wait().unwrap().success());
    let steps = steps(&folder.path().join(file));
    let find = |thread: &str, name: &str| {
        let step = steps.iter().find(|step| step.0 == thread && step.1 == name);
        let (_, _, begin, end) = step.unwrap_or_else(|| panic!("{thread}: {name}: {steps:?}"));
        assert!(0.0 <= *begin && begin <= end, "{name}: {begin} {end}");
        (*begin, *end)
    };
    find("main", "command line");
    find("payload_loader", "payload");
    let boot = find("vmm", "boot");
    let within = [
        "memory",
        "virtual machine",
        "processors",
        "devices",
        "wait for the payload",
        "tables and registers",
        "start of processors",
    ];
    let mut last = boot.0;
    for name in within {
        let (begin, end) = find("vmm", name);
        assert!(last <= begin && end <= boot.1 + 0.01, "{name}");
        last = end;
    }
    find("vmm", "build __serial");
}

#[test]
fn a_start_that_fails_is_told_up_to_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kernel"), "none").unwrap();
    let mut monitor = start(folder.path(), &["--kernel", "kernel"]);
    let file = format!("cloud-hypervisor-{}.trace", monitor.id());
    assert_eq!(monitor.wait().unwrap().code(), Some(1));
    let steps = steps(&folder.path().join(file));
    assert!(steps.iter().any(|step| step.1 == "wait for the payload"));
    assert!(!steps.iter().any(|step| step.1 == "start of processors"));
}
