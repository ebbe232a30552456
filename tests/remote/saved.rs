//! Saved machines as a whole: with a device of each kind, and when the monitor is killed meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::Signal;
use testkit::payload::Payload;

use crate::monitor::{Monitor, busy};

const MIB: u64 = 1 << 20;

/// A configuration with a device of every kind that users can ask for.
fn everything(monitor: &Monitor) -> String {
    let file = |name: &str, size: u64| {
        let path = monitor.path(name);
        let file = fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        path
    };
    let path = monitor.machine(busy());
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let devices = json!({
        "serial": {"mode": "File", "file": monitor.path("serial")},
        "console": {"mode": "File", "file": monitor.path("console")},
        "rate_limit_groups": [{"id": "g", "rate_limiter_config": {"bandwidth": {
            "size": 1_000_000, "one_time_burst": 0, "refill_time": 100,
        }}}],
        "disks": [
            {"path": file("disk.raw", 16 * MIB), "rate_limit_group": "g"},
            {"path": file("other.raw", 16 * MIB), "readonly": true},
        ],
        "net": [{"tap": "saved%d", "num_queues": 2}],
        "rng": {"src": "/dev/urandom"},
        "pmem": [{"file": file("pmem", 8 * MIB)}],
        "vsock": {"cid": 3, "socket": monitor.path("vsock")},
        "balloon": {"size": 8 * MIB},
        "watchdog": true,
        "rtc": {},
        "pvpanic": true,
    });
    let members = devices.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(members);
    let kinds = catalog_members();
    for member in kinds {
        assert!(config.get(&member).is_some(), "{member} is not in the test");
    }
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// Members of a machine's configuration that are devices.
fn catalog_members() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let members = document["components"]["schemas"]["VmConfig"]["properties"].as_object();
    let others = [
        "cpus",
        "memory",
        "payload",
        "platform",
        "landlock_enable",
        "landlock_rules",
    ];
    let members = members.unwrap().keys().cloned();
    members
        .filter(|name| !others.contains(&name.as_str()))
        .collect()
}

/// Saves a machine that is paused.
fn save(monitor: &Monitor, folder: &str) {
    fs::create_dir(folder).unwrap();
    monitor.act(&["snapshot", &format!("file://{folder}")]);
}

/// State and place of each device of a snapshot, by id.
fn devices(folder: &str) -> BTreeMap<String, Value> {
    let text = fs::read(format!("{folder}/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&text).unwrap();
    let devices = state["state"]["devices"].as_array().unwrap().clone();
    let named = devices.into_iter().map(|mut device| {
        let Value::String(id) = device["id"].take() else {
            panic!("{device}")
        };
        (id, device)
    });
    named.collect()
}

#[test]
fn what_is_saved_restored_and_saved_again_is_the_same() {
    if !tap::testing::own_network() {
        return;
    }
    let first = Monitor::start();
    first.act(&["create", &everything(&first)]);
    first.act(&["boot"]);
    first.wait_printed(0);
    first.act(&["pause"]);
    let folder = |name: &str| first.path(name);
    save(&first, &folder("saved0"));
    first.act(&["delete"]);
    for generation in 0..2 {
        let again = Monitor::start();
        let from = folder(&format!("saved{generation}"));
        again.act(&["restore", &format!("source_url=file://{from}")]);
        assert_eq!(again.state(), "Paused");
        let to = folder(&format!("saved{}", generation + 1));
        save(&again, &to);
        let (before, after) = (devices(&from), devices(&to));
        assert!(before.len() > 15, "{:?}", before.keys());
        for (id, device) in &before {
            assert_eq!(device, &after[id], "{id}, generation {generation}");
        }
        assert_eq!(before.len(), after.len());
        again.act(&["resume"]);
        first.wait_printed(0);
        again.end();
    }
    first.end();
}

/// Bytes at the end of the first 32 MiB that are not zero, so that there is something to write.
fn filled() -> Payload {
    let pages = (0..512u32).map(|page| 0x0100_0000 + page * 0x1000);
    let filled = pages.fold(Payload::new(), |payload, page| payload.write_u8(page, 7));
    filled.forever(|payload| payload.print_e9(".").spin(2000))
}

/// Contents of a folder's files.
fn contents(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let named = entries.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    named.collect()
}

/// Asks for something and kills the monitor a while later. Whether it was done before.
fn kill_after(mut monitor: Monitor, words: &[&str], microseconds: u64) -> bool {
    let mut asking = monitor.command(words).spawn().unwrap();
    std::thread::sleep(Duration::from_micros(microseconds));
    monitor.vm.signal(Signal::KILL).unwrap();
    let done = asking.wait().unwrap().success();
    monitor.vm.wait_exit(30).unwrap();
    done
}

#[test]
fn a_killed_monitor_leaves_a_whole_snapshot_or_none() {
    let files = Monitor::start();
    let (mut whole, mut none) = (0, 0);
    // How long it takes, with the start of the client.
    let mut longest = 0;
    for round in 0..16u64 {
        let monitor = Monitor::start();
        monitor.act(&["create", &monitor.machine(filled())]);
        monitor.act(&["boot"]);
        monitor.wait_printed(0);
        monitor.act(&["pause"]);
        let folder = files.path(&format!("saved{round}"));
        fs::create_dir(&folder).unwrap();
        let url = format!("file://{folder}");
        let own = monitor.path("debug");
        let done = if round == 0 {
            let begin = Instant::now();
            monitor.act(&["snapshot", &url]);
            longest = u64::try_from(begin.elapsed().as_micros()).unwrap();
            drop(monitor);
            true
        } else {
            kill_after(monitor, &["snapshot", &url], longest * round / 15)
        };
        let there = Path::new(&format!("{folder}/state.json")).exists();
        assert!(there || !done, "round {round}: it was said to be done");
        if !there {
            none += 1;
            let names: Vec<String> = contents(&folder).into_keys().collect();
            let known = |name: &String| name.ends_with(".partial") || !name.starts_with("state");
            assert!(names.iter().all(known), "{names:?}");
            continue;
        }
        whole += 1;
        // The file of the debug console went with the folder of the first one.
        fs::create_dir_all(Path::new(&own).parent().unwrap()).unwrap();
        let before = contents(&folder);
        let other = Monitor::start();
        let source = format!("source_url={url},resume=on");
        kill_after(other, &["restore", &source], longest * round / 15);
        assert!(before == contents(&folder), "a restore changes nothing");
        let last = Monitor::start();
        last.act(&["restore", &source]);
        assert_eq!(last.state(), "Running");
        last.end();
        let _ = fs::remove_dir_all(Path::new(&own).parent().unwrap());
    }
    assert!(
        whole > 0 && none > 0,
        "{whole} whole, {none} none of {longest} us"
    );
    files.end();
}
