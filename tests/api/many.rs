//! Many users at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Client, LIMIT};
use crate::{Monitor, busy};

/// What users ask of a running machine: how, what, and with which body.
const USES: &[(&str, &str, Body)] = &[
    ("GET", "vm.info", |_, _| String::new()),
    ("PUT", "vm.pause", |_, _| String::new()),
    ("PUT", "vm.add-disk", disk),
    ("GET", "vm.counters", |_, _| String::new()),
    ("PUT", "vm.resume", |_, _| String::new()),
    ("PUT", "vm.remove-device", |user, _| {
        json!({"id": name(user)}).to_string()
    }),
    ("GET", "vmm.ping", |_, _| String::new()),
];

/// Of a user, and with this file for a disk.
type Body = fn(usize, &str) -> String;

/// More users than PCI has places, so that they meet.
fn name(user: usize) -> String {
    format!("d{}", user % 40)
}

fn disk(user: usize, image: &str) -> String {
    json!({"id": name(user), "path": image, "readonly": true, "image_type": "Raw"}).to_string()
}

/// Ids of the disks that the configuration has, and of those that are there.
fn disks(client: &mut Client) -> (Vec<String>, Vec<String>) {
    let info = client.get("vm.info").json();
    let list = info["config"]["disks"].as_array().cloned();
    let ids = list.unwrap_or_default().into_iter();
    let mut configured: Vec<_> = ids
        .map(|disk| disk["id"].as_str().unwrap().to_owned())
        .collect();
    configured.sort();
    let tree = info["device_tree"].as_object().unwrap().keys();
    let mut present: Vec<_> = tree.filter(|id| id.starts_with('d')).cloned().collect();
    present.sort();
    (configured, present)
}

#[test]
fn many_users_at_a_time() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    client.act("vm.create", &monitor.machine(busy(), 4));
    client.act("vm.boot", "");
    let socket = monitor.socket();
    std::thread::scope(|scope| {
        for user in 0..8 {
            let socket = &socket;
            scope.spawn(move || {
                let mut client = Client::connect(socket);
                for round in 0..60 {
                    let answer = match (user + round) % 4 {
                        0 => client.put("vm.pause", ""),
                        1 => client.put("vm.resume", ""),
                        2 => client.get("vm.info"),
                        _ => client.get("vm.counters"),
                    };
                    // Refused or done, but answered.
                    assert!([200, 204, 500].contains(&answer.status), "{answer:?}");
                }
            });
        }
    });
    if client.state() == "Paused" {
        client.act("vm.resume", "");
    }
    assert_eq!(client.state(), "Running");
    monitor.wait_printed(monitor.printed().len());
    monitor.end();
}

#[test]
fn two_hundred_users_who_come_and_go() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    client.act("vm.create", &monitor.machine(busy(), 2));
    client.act("vm.boot", "");
    let socket = monitor.socket();
    let image = monitor.folder.path().join("disk").display().to_string();
    std::fs::write(&image, [0; 4096]).unwrap();
    let done = AtomicUsize::new(0);
    let added = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for user in 0..200 {
            let (socket, image, done, added) = (&socket, &image, &done, &added);
            scope.spawn(move || {
                let begin = Instant::now();
                for (method, name, body) in USES.iter().cycle().skip(user % USES.len()).take(4) {
                    let body = body(user, image);
                    // Whoever finds no room, or has to make room for another, comes again.
                    let status = loop {
                        let asked = Client::try_connect(socket)
                            .and_then(|mut client| client.ask(method, name, &body));
                        if let Ok(answer) = asked
                            && answer.status != 503
                        {
                            break answer.status;
                        }
                        assert!(begin.elapsed() < LIMIT, "{name} is not answered");
                        std::thread::sleep(Duration::from_millis(5));
                    };
                    assert!([200, 204, 404, 500].contains(&status), "{name}: {status}");
                    if *name == "vm.add-disk" && status == 200 {
                        added.fetch_add(1, Ordering::Relaxed);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 800);
    let mut client = monitor.client();
    if client.state() == "Paused" {
        client.act("vm.resume", "");
    }
    // This guest never lets a device go, so each that was added is there, once, and counts.
    let (configured, present) = disks(&mut client);
    assert_eq!(configured, present);
    assert_eq!(present.len(), added.into_inner(), "{present:?}");
    assert!(present.len() > 5, "{present:?}");
    let counters = client.get("vm.counters").json();
    let counting: Vec<_> = counters.as_object().unwrap().keys().cloned().collect();
    assert_eq!(counting.len(), present.len(), "{counters}");
    monitor.wait_printed(monitor.printed().len());
    monitor.end();
}

#[test]
fn whoever_asks_while_the_monitor_ends_does_not_wait_for_ever() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    client.act("vm.create", &monitor.machine(busy(), 2));
    client.act("vm.boot", "");
    let socket = monitor.socket();
    let started = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(&socket);
                started.store(true, Ordering::Release);
                let begin = Instant::now();
                // Until the connection ends; an answer that never comes is a timeout.
                while let Ok(answer) = client.ask("GET", "vm.info", "") {
                    assert!([200, 404, 500].contains(&answer.status), "{answer:?}");
                }
                assert!(begin.elapsed() < LIMIT);
            });
        }
        while !started.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        monitor.end();
    });
}
