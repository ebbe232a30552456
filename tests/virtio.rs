//! PCI and the devices on it, as our own guest without an operating system drives them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use testkit::bare::{Bare, Report};
use testkit::{Builder, Exit, Signal};

#[path = "virtio/images.rs"]
mod images;

/// Longest that anything of this guest takes, also in an emulated host.
const SECONDS: u64 = 60;

fn run(words: &str, configure: impl FnOnce(Builder) -> Builder) -> Report {
    let guest = Bare::start(words, configure).unwrap();
    guest.finish(SECONDS).unwrap()
}

#[test]
fn what_is_there_is_found_by_both_ways_to_configuration_space() {
    let report = run("test=enumerate", |builder| builder.console("null"));
    assert_eq!(report.fact("ecam"), Some("0xe8000000"));
    assert_eq!(report.fact("function.0"), Some("8086:0d57 class 060000"));
    assert_eq!(report.fact("virtio.1"), Some("console"));
    assert_eq!(report.fact("virtio.2"), Some("rng"));
    assert_eq!(report.fact("rng.queues"), Some("1"));
    assert_eq!(report.fact("rng.vectors"), Some("2"));
    let bars = report.facts().filter(|(name, _)| name.starts_with("bar."));
    for (name, value) in bars {
        assert!(value.ends_with(" 0x80000 64"), "{name} {value}");
    }
}

#[test]
fn every_device_does_something() {
    // The tap is in a network of this thread and its children alone.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["disk", "pmem"] {
        let file = std::fs::File::create(path(name)).unwrap();
        file.set_len(4 << 20).unwrap();
    }
    let report = run("test=work", |builder| {
        builder
            .console("null")
            .arg("--disk", format!("path={},image_type=raw", path("disk")))
            .arg("--net", "tap=")
            .arg("--pmem", format!("file={}", path("pmem")))
            .arg("--vsock", format!("cid=3,socket={}", path("vsock")))
            .arg("--balloon", "size=0,free_page_reporting=on")
            .flag("--watchdog")
            .arg("--rtc", "id=clocks")
    });
    let facts = report.facts();
    let works = facts.filter_map(|(name, value)| Some((name.strip_prefix("works.")?, value)));
    let all = [
        "console", "block", "net", "rng", "pmem", "vsock", "balloon", "watchdog", "rtc",
    ];
    assert!(works.eq(all.map(|name| (name, "yes"))), "{report:?}");
    // What the guest wrote at the ends of both.
    let words = |name| {
        let bytes = std::fs::read(path(name)).unwrap();
        (bytes[..8].to_vec(), bytes[bytes.len() - 8..].to_vec())
    };
    let (start, end) = words("pmem");
    assert!(start == end && start != [0; 8], "{start:?} {end:?}");
    let (start, end) = words("disk");
    assert!(
        start == [0; 8] && end[0] != 0 && end == [end[0]; 8],
        "{start:?} {end:?}"
    );
}

/// What the event monitor was told so far: source and event, and what the event says.
fn events(file: &Path) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let events = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .map_while(Result::ok)
        .map(|mut event| {
            let name = text(&event["source"]) + "/" + &text(&event["event"]);
            (name, event["properties"].take())
        })
        .collect()
}

#[test]
fn a_crash_of_the_guest_is_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    let report = run("test=panic", |builder| {
        builder
            .flag("--pvpanic")
            .arg("--event-monitor", format!("path={}", file.display()))
    });
    assert_eq!(report.fact("events"), Some("0x3"));
    let told = events(&file);
    let panics = told.iter().filter(|(name, _)| name == "guest/panic");
    let panics: Vec<&str> = panics
        .map(|(_, more)| more["event"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(panics, ["panic", "crash_loaded", "unknown_event"]);
}

#[test]
fn the_clocks_of_the_host_are_read() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now();
    let report = run("test=clocks", |builder| builder.arg("--rtc", "id=clocks"));
    let after = now();
    // International Atomic Time is there if the host's kernel knows it.
    assert!(matches!(report.fact("clocks"), Some("2" | "3")));
    let utc: u64 = report.fact("utc").unwrap().parse().unwrap();
    let utc = Duration::from_nanos(utc);
    assert!(before < utc && utc < after, "{before:?} {utc:?} {after:?}");
}

#[test]
fn a_watchdog_lets_go_of_a_guest_whose_driver_leaves() {
    let report = run("test=watchdog seconds=0 leave=yes", |builder| {
        builder.flag("--watchdog").arg("--rtc", "id=clocks")
    });
    assert!(report.fact("silent").is_some());
}

#[test]
#[ignore = "the watchdog waits for 20 seconds, and is pinged for longer"]
fn a_guest_that_is_silent_for_20_seconds_is_reset_and_one_that_pings_is_not() {
    const PINGED: u64 = 25;
    const TIMEOUT: u64 = 20;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    let words = format!("test=watchdog seconds={PINGED}");
    let mut guest = Bare::start(&words, |builder| {
        builder
            .flag("--watchdog")
            .arg("--rtc", "id=clocks")
            .arg("--event-monitor", format!("path={}", file.display()))
    })
    .unwrap();
    let start = Instant::now();
    let reboots = || events(&file).iter().any(|(name, _)| name == "vm/rebooted");
    guest.wait_for("silent", PINGED + SECONDS).unwrap();
    assert!(!reboots());
    let silent = Instant::now();
    while !reboots() {
        let waited = silent.elapsed().as_secs();
        assert!(waited < TIMEOUT + SECONDS, "{:?}", guest.report());
        std::thread::sleep(Duration::from_millis(100));
    }
    // The guest says that it is silent just after its last ping.
    let (after, whole) = (silent.elapsed(), start.elapsed());
    assert!(
        after >= Duration::from_secs(TIMEOUT - 1),
        "{after:?} of {whole:?}"
    );
    guest.vm.signal(Signal::TERM).unwrap();
    assert_eq!(guest.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}

#[test]
fn chains_of_all_shapes_are_filled_with_random_bytes() {
    run("test=entropy", |builder| builder);
}

#[test]
fn the_source_of_random_bytes_is_the_one_asked_for() {
    let error = Bare::start("test=entropy", |builder| {
        builder.arg("--rng", "src=/dev/zero")
    })
    .unwrap()
    .finish(SECONDS)
    .unwrap_err();
    // Of zeros, every block is like the one before.
    assert!(error.to_string().contains("0x0 twice"), "{error}");
}

#[test]
fn the_console_carries_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("console");
    let option = format!("socket={}", socket.display());
    let guest = Bare::start("test=echo", |builder| builder.console(option)).unwrap();
    let mut client = connect(&socket);
    client.write_all(b"some text").unwrap();
    client.write_all(b", q").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.contains("SOME TEXT, Q"), "{said:?}");
    let report = guest.finish(SECONDS).unwrap();
    assert_eq!(report.fact("typed"), Some("12"));
}

#[test]
fn a_program_of_the_host_reaches_the_guest_under_landlock() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vsock");
    let guest = Bare::start("test=serve", |builder| {
        builder
            .flag("--landlock")
            .arg("--vsock", format!("cid=3,socket={}", socket.display()))
    });
    let guest = guest.unwrap();
    let mut client = connect(&socket);
    client.write_all(b"CONNECT 52\nsome text").unwrap();
    let mut said = [0; 23];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"OK 1073741824\nsome text");
    drop(client);
    let report = guest.finish(SECONDS).unwrap();
    assert_eq!(report.fact("served"), Some("9"));
    assert!(!socket.exists());
}

/// Connects to a socket that a monitor is about to make.
fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    loop {
        match UnixStream::connect(socket) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}
