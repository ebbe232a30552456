//! What of the API is built, found by asking for it: `docs/api-status.md`.
//!
//! `UPDATE_API_STATUS=1 cargo xtask test remote` writes the page; otherwise it is compared.

use std::fmt::Write as _;
use std::path::Path;

use crate::monitor::{Monitor, busy};

/// Endpoint, subcommand of `ch-remote`, and arguments that are well-formed. What ends the machine comes last.
const ROWS: &[(&str, &str, &[&str])] = &[
    ("vmm.ping", "ping", &[]),
    ("vm.info", "info", &[]),
    ("vm.counters", "counters", &[]),
    ("vm.create", "create", &["/dev/null"]),
    ("vm.boot", "boot", &[]),
    ("vm.pause", "pause", &[]),
    ("vm.resume", "resume", &[]),
    ("vm.reboot", "reboot", &[]),
    ("vm.power-button", "power-button", &[]),
    ("vm.nmi", "nmi", &[]),
    ("vm.resize", "resize", &["--cpus", "1"]),
    (
        "vm.resize",
        "resize --cpus (more or fewer, booted)",
        &["--cpus", "2"],
    ),
    (
        "vm.resize",
        "resize --memory (booted)",
        &["--memory", "128M"],
    ),
    ("vm.resize", "resize --balloon", &["--balloon", "1M"]),
    (
        "vm.resize-disk",
        "resize-disk",
        &["--disk", "none", "--size", "1M"],
    ),
    (
        "vm.resize-zone",
        "resize-zone",
        &["--id", "none", "--size", "1M"],
    ),
    ("vm.add-device", "add-device", &["path=/none"]),
    ("vm.add-disk", "add-disk", &["path=/none"]),
    ("vm.add-fs", "add-fs", &["tag=none,socket=/none"]),
    (
        "vm.add-generic-vhost-user",
        "add-generic-vhost-user",
        &["socket=/none"],
    ),
    ("vm.add-net", "add-net", &["tap=nowhere,num_queues=3"]),
    ("vm.add-pmem", "add-pmem", &["file=/none"]),
    ("vm.add-user-device", "add-user-device", &["socket=/none"]),
    ("vm.add-vdpa", "add-vdpa", &["path=/none"]),
    ("vm.add-vsock", "add-vsock", &["cid=1,socket=/none"]),
    ("vm.remove-device", "remove-device", &["none"]),
    ("vm.snapshot", "snapshot", &["file:///none"]),
    ("vm.restore", "restore", &["source_url=file:///none"]),
    (
        "vm.receive-migration",
        "receive-migration",
        &["receiver_url=unix:/none"],
    ),
    (
        "vm.send-migration",
        "send-migration",
        &["destination_url=unix:/none"],
    ),
    ("vm.coredump", "coredump", &["file:///none/core"]),
    ("vm.shutdown", "shutdown", &[]),
    ("vm.delete", "delete", &[]),
    ("vmm.shutdown", "shutdown-vmm", &[]),
];

const HEAD: &str = "# State of the API\n\n\
    Every endpoint of v53, and the subcommand of `ch-remote` that asks for it. What is not built yet answers 501 with \
    the text in the last column, whatever else is wrong with the request. `works` says that the request was understood \
     and done, or refused for a reason of its own; that it does what it says is tested in `tests/remote.rs` and \
     `tests/api.rs`.\n\n\
    A test makes this page by asking a monitor with a running guest: `tests/remote/status.rs`.\n\n\
    | Endpoint | `ch-remote` | State | Answer |\n|---|---|---|---|\n";

/// What the monitor answers to one row.
fn answer(monitor: &Monitor, words: &[&str]) -> (&'static str, String) {
    let said = monitor.remote(&[&["--json"], words].concat());
    if said.code == 0 {
        return ("works", String::new());
    }
    assert_eq!(said.code, 1, "{words:?}: {said:?}");
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    let chain = error["chain"].as_array().unwrap();
    match error["status"].as_u64() {
        Some(501) => ("not yet", chain[2].as_str().unwrap().replace('|', "\\|")),
        // It was understood, and refused for what these arguments are.
        Some(_) => ("works", String::new()),
        None => panic!("{words:?}: {said:?}"),
    }
}

fn page() -> String {
    let monitor = Monitor::boot(busy());
    let mut text = HEAD.to_owned();
    for (endpoint, subcommand, arguments) in ROWS {
        let name = subcommand.split(' ').next().unwrap();
        let (state, answer) = answer(&monitor, &[&[name], *arguments].concat());
        if state == "not yet" {
            let named = answer.contains(endpoint) || *endpoint == "vm.resize";
            assert!(named, "{endpoint} is not named: {answer}");
        }
        let _ = writeln!(
            text,
            "| `{endpoint}` | `{subcommand}` | {state} | {answer} |"
        );
    }
    text
}

/// What is served beyond v53.
const OURS: &[&str] = &[
    "events",
    "metrics",
    "openapi.json",
    "vm.fork",
    "vm.receive-fork",
];

#[test]
fn no_endpoint_is_forgotten() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for path in paths.keys() {
        let name = path.rsplit('/').next().unwrap();
        let known = OURS.contains(&name) || ROWS.iter().any(|(endpoint, ..)| *endpoint == name);
        assert!(known, "{path} has no row");
    }
    assert!(paths.len() > OURS.len());
}

#[test]
fn the_page_says_what_is_built() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api-status.md");
    let page = page();
    if std::env::var_os("UPDATE_API_STATUS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        there, page,
        "docs/api-status.md is old: UPDATE_API_STATUS=1 makes it anew"
    );
}
