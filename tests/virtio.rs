//! PCI and the devices on it, as our own guest without an operating system drives them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use testkit::Builder;
use testkit::bare::{Bare, Report};

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
    let report = run("test=work", |builder| builder.console("null"));
    assert_eq!(report.fact("works.console"), Some("yes"));
    assert_eq!(report.fact("works.rng"), Some("yes"));
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
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let mut client = loop {
        match UnixStream::connect(&socket) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    client.write_all(b"some text").unwrap();
    client.write_all(b", q").unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut client, &mut said).unwrap();
    assert!(said.contains("SOME TEXT, Q"), "{said:?}");
    let report = guest.finish(SECONDS).unwrap();
    assert_eq!(report.fact("typed"), Some("12"));
}
