//! `ch-remote` as users run it: each subcommand against a monitor whose guest is a few instructions long.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "remote/core_dump.rs"]
mod core_dump;
#[path = "remote/fork.rs"]
mod fork;
#[path = "remote/gdb.rs"]
mod gdb;
#[path = "remote/increments.rs"]
mod increments;
#[path = "remote/monitor.rs"]
mod monitor;
#[path = "remote/ondemand.rs"]
mod ondemand;
#[path = "remote/saved.rs"]
mod saved;
#[path = "remote/snapshot.rs"]
mod snapshot;
#[path = "remote/status.rs"]
mod status;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::terminal::Terminal;

use monitor::{Monitor, alone, busy};

const SECONDS: u64 = 30;

#[test]
fn a_whole_life() {
    let monitor = Monitor::start();
    let pong = monitor.remote(&["ping"]).json();
    assert_eq!(pong["pid"], monitor.vm.pid());
    assert_eq!(pong["version"], "53.0.0");
    assert!(
        monitor
            .refused(&["boot"])
            .starts_with("Server responded with NotFound\n")
    );
    monitor.act(&["create", &monitor.machine(busy())]);
    assert_eq!(monitor.state(), "Created");
    monitor.act(&["boot"]);
    assert_eq!(monitor.state(), "Running");
    monitor.wait_printed(0);
    monitor.act(&["pause"]);
    let paused = monitor.printed();
    assert_eq!(monitor.state(), "Paused");
    assert_eq!(monitor.printed(), paused);
    assert!(monitor.refused(&["pause"]).contains("paused already"));
    monitor.act(&["resume"]);
    monitor.wait_printed(paused);
    assert_eq!(monitor.remote(&["counters"]).json(), json!({}));
    monitor.act(&["power-button"]);
    monitor.act(&["reboot"]);
    monitor.wait_printed(0);
    monitor.act(&["nmi"]);
    monitor.act(&["shutdown"]);
    assert_eq!(monitor.state(), "Created");
    monitor.act(&["delete"]);
    assert!(
        monitor
            .refused(&["info"])
            .starts_with("Server responded with NotFound\n")
    );
    monitor.end();
}

#[test]
fn a_configuration_comes_from_standard_input_as_it_is() {
    let monitor = Monitor::start();
    let machine = std::fs::read_to_string(monitor.machine(busy())).unwrap();
    for words in [&["create"][..], &["create", "-"]] {
        let said = monitor.remote_with(words, &machine);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        monitor.act(&["delete"]);
    }
    let said = monitor.remote_with(&["create"], r#"{"paylod":{}}"#);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("Server responded with BadRequest"),
        "{said:?}"
    );
    assert!(said.err.contains("did you mean \"payload\""), "{said:?}");
    let missing = monitor.path("missing");
    assert!(monitor.refused(&["create", &missing]).contains(&missing));
    monitor.end();
}

#[test]
fn sizes_change() {
    let monitor = Monitor::start();
    monitor.act(&["create", &monitor.machine(busy())]);
    monitor.act(&["resize"]);
    monitor.act(&["resize", "--cpus", "2", "--memory", "32M"]);
    let config = monitor.remote(&["info"]).json()["config"].take();
    assert_eq!(config["cpus"]["boot_vcpus"], 2);
    assert_eq!(config["memory"]["size"], 32 << 20);
    monitor.act(&["boot"]);
    assert!(
        monitor
            .refused(&["resize", "--cpus", "3"])
            .contains("vcpus")
    );
    let refused = monitor.refused(&["resize-disk", "--disk", "none", "--size", "1G"]);
    assert!(refused.contains("none"), "{refused}");
    monitor.end();
}

#[test]
fn devices_come_and_go_before_the_boot() {
    let monitor = Monitor::start();
    monitor.act(&["create", &monitor.machine(busy())]);
    std::fs::File::create(monitor.path("disk"))
        .and_then(|file| file.set_len(1 << 20))
        .unwrap();
    let disk = format!("path={},id=extra,image_type=raw", monitor.path("disk"));
    monitor.act(&["add-disk", &disk]);
    monitor.act(&[
        "add-pmem",
        &format!("file={},id=lasting", monitor.path("disk")),
    ]);
    monitor.act(&["add-net", "id=wire,tap=nowhere"]);
    let socket = monitor.path("vsock");
    monitor.act(&["add-vsock", &format!("cid=3,socket={socket}")]);
    let config = monitor.remote(&["info"]).json()["config"].take();
    assert_eq!(config["disks"][0]["id"], "extra");
    assert_eq!(config["pmem"][0]["id"], "lasting");
    assert_eq!(config["net"][0]["tap"], "nowhere");
    assert_eq!(config["vsock"]["cid"], 3);
    for id in ["lasting", "wire"] {
        monitor.act(&["remove-device", id]);
    }
    assert!(monitor.refused(&["remove-device", "wire"]).contains("wire"));
    let wrong = monitor.refused(&["add-disk", "pth=/x"]);
    assert!(wrong.contains("path"), "{wrong}");
    monitor.act(&["boot"]);
    let grown = ["resize-disk", "--disk", "extra", "--size", "2M"];
    monitor.act(&grown);
    let length = std::fs::metadata(monitor.path("disk")).unwrap().len();
    assert_eq!(length, 2 << 20);
    let counters = monitor.remote(&["counters"]).json();
    assert!(counters["extra"].is_object(), "{counters}");
    monitor.end();
}

#[test]
fn a_device_that_comes_to_a_running_machine_is_told_of() {
    let monitor = Monitor::boot(busy());
    std::fs::File::create(monitor.path("disk"))
        .and_then(|file| file.set_len(1 << 20))
        .unwrap();
    let disk = format!("path={},id=late,image_type=raw", monitor.path("disk"));
    let added = monitor.remote(&["add-disk", &disk]).json();
    assert_eq!(added["id"], "late");
    let tree = monitor.remote(&["info"]).json()["device_tree"].take();
    assert_eq!(tree["_virtio-pci-late"]["pci_bdf"], added["bdf"]);
    monitor.end();
}

#[test]
fn descriptors_of_a_tap_reach_the_monitor() {
    if !tap::testing::own_network() {
        return;
    }
    let tap = tap::Tap::open("given0", 2).unwrap();
    let monitor = Monitor::start();
    let held = monitor.taps();
    let twice = |monitor: &Monitor, words| monitor.with_descriptors(tap.queues(), words);
    monitor.act(&["create", &monitor.machine(busy())]);
    monitor.act(&["resize", "--cpus", "2"]);
    // Before the boot they wait for it. One that is not needed is not kept.
    let added = twice(&monitor, "id=early,num_queues=4");
    assert_eq!((added.code, added.err.as_str()), (0, ""), "{added:?}");
    assert_eq!(monitor.taps(), held + 2);
    let net = monitor.remote(&["info"]).json()["config"]["net"][0].take();
    assert_eq!(net["fds"].as_array().unwrap().len(), 2, "{net}");
    monitor.act(&["remove-device", "early"]);
    assert_eq!(monitor.taps(), held);
    let refused = twice(&monitor, "num_queues=2");
    assert!(refused.err.contains("fd has 2 descriptors"), "{refused:?}");
    assert_eq!(monitor.taps(), held);
    twice(&monitor, "id=early,num_queues=4");
    for _ in 0..2 {
        monitor.act(&["boot"]);
        monitor.wait_printed(0);
        // Those that are kept for another boot, and those of the device.
        assert_eq!(monitor.taps(), held + 4);
        monitor.act(&["shutdown"]);
        assert_eq!(monitor.taps(), held + 2);
    }
    monitor.act(&["delete"]);
    assert_eq!(monitor.taps(), held);

    // To a machine that runs.
    monitor.act(&["create", &monitor.machine(busy())]);
    monitor.act(&["resize", "--cpus", "2"]);
    monitor.act(&["boot"]);
    let refused = twice(&monitor, "num_queues=4,id=__rng");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(monitor.taps(), held);
    let added = twice(&monitor, "num_queues=4,mac=52:54:00:01:02:03");
    // The one that was refused had an id of its own, and used up no number.
    assert_eq!(added.json()["id"], "_net0");
    assert_eq!(monitor.taps(), held + 4);
    // Nobody has this one.
    let closed = monitor.refused(&["add-net", "fd=[77],num_queues=2"]);
    assert!(
        closed.contains("cannot send the file descriptor 77"),
        "{closed}"
    );
    monitor.end();
}

#[test]
fn wrong_usage_is_2_and_what_cannot_be_asked_is_1() {
    for words in [
        &[][..],
        &["nonsense"],
        &["--api-socket", "/s", "add-disk"],
        &["--api-socket", "/s", "resize", "--memory", "1.5G"],
    ] {
        let said = alone(words);
        assert_eq!(
            (said.code, said.out.as_str()),
            (2, ""),
            "{words:?}: {said:?}"
        );
        assert!(said.err.contains("--help"), "{said:?}");
    }
    for word in ["--help", "--version", "help"] {
        let said = alone(&[word]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    }
    assert_eq!(alone(&["-V"]).out, "ch-remote v53.0.0\n");
    let said = alone(&["ping"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("--api-socket"), "{said:?}");
}

#[test]
fn a_socket_that_nobody_serves_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let path = path.to_str().unwrap();
    let said = alone(&["--api-socket", path, "ping"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains(path), "{said:?}");
    drop(UnixListener::bind(path).unwrap());
    let said = alone(&["--api-socket", path, "--json", "ping"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert!(error["status"].is_null());
    assert!(
        error["chain"][1].as_str().unwrap().contains("refused"),
        "{error}"
    );
}

#[test]
fn whoever_hangs_up_or_does_not_speak_http_is_an_error() {
    for answer in ["", "220 mail.example.org ESMTP\r\n"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&client).read_line(&mut line).unwrap();
                std::io::Write::write_all(&mut client, answer.as_bytes()).unwrap();
            });
            let said = alone(&["--api-socket", path.to_str().unwrap(), "ping"]);
            assert_eq!(said.code, 1, "{said:?}");
        });
    }
}

#[test]
fn programs_get_errors_as_json() {
    let monitor = Monitor::start();
    let said = monitor.remote(&["info", "--json"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["status"], 404);
    assert_eq!(error["chain"][1], "Error from API");
    let line = "API: GET /api/v1/vm.info: 404: Error from API: ";
    assert!(
        monitor.vm.stderr().contains(line),
        "{}",
        monitor.vm.stderr()
    );
    monitor.end();
}

#[test]
fn events_are_followed() {
    let monitor = Monitor::boot(busy());
    let mut command = monitor.command(&["events"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Whether it listens already can only be seen by what it hears.
    let heard = std::thread::scope(|scope| {
        let heard = scope.spawn(|| {
            let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            event["event"].as_str().unwrap().to_owned()
        });
        while !heard.is_finished() {
            monitor.act(&["pause"]);
            monitor.act(&["resume"]);
        }
        heard.join().unwrap()
    });
    assert!(["pausing", "paused", "resuming", "resumed"].contains(&heard.as_str()));
    monitor.end();
    assert!(child.wait().unwrap().code().is_some());
}

#[test]
fn top_shows_processors_and_counters() {
    let monitor = Monitor::boot(busy());
    let said = monitor.remote(&["top", "--count", "1"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(
        said.out.starts_with("Running  memory 64M of 64M"),
        "{said:?}"
    );
    assert!(said.out.contains("\nvcpu0 "), "{said:?}");
    monitor.end();
}

#[test]
fn people_read_a_summary_and_leave_top_with_a_key() {
    let monitor = Monitor::boot(busy());
    let mut terminal = Terminal::open().unwrap();
    let mut child = terminal
        .spawn(&monitor.command(&["info"]), Stdio::inherit())
        .unwrap();
    terminal.wait_for("State       Running", SECONDS).unwrap();
    terminal.wait_for("CONFIGURATION", SECONDS).unwrap();
    assert!(child.wait().unwrap().success());
    let before = terminal.attributes().unwrap();
    let mut child = terminal
        .spawn(&monitor.command(&["top"]), Stdio::inherit())
        .unwrap();
    terminal.wait_for("vcpu0", SECONDS).unwrap();
    terminal.send("q").unwrap();
    assert!(child.wait().unwrap().success());
    // The screen is given back, and the keys.
    terminal.wait_for("\u{1b}[?1049l", SECONDS).unwrap();
    assert_eq!(terminal.attributes().unwrap().is_raw(), before.is_raw());
    monitor.end();
}
