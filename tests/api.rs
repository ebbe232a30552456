//! The API as a user sees it: the life of a machine over a Unix socket, many users at a time, and every end.
//!
//! Guests here are a few instructions long and print to the debug console.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "api/client.rs"]
mod client;
#[path = "api/many.rs"]
mod many;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::{Exit, Vm};

use client::{Client, LIMIT};

const SECONDS: u64 = 30;

/// A monitor that serves the API, and files for its guest.
struct Monitor {
    vm: Vm,
    folder: TempDir,
}

impl Monitor {
    /// Without a machine.
    fn start(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let builder = Vm::builder().arg("--api-socket", format!("path={}", socket.display()));
        let builder = builder.arg(
            "--event-monitor",
            format!("path={}", folder.path().join("events").display()),
        );
        let vm = words
            .iter()
            .fold(builder, |builder, word| builder.flag(word))
            .spawn();
        Self {
            vm: vm.unwrap(),
            folder,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api")
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// The body of `vm.create` for a machine that runs `payload`.
    fn machine(&self, payload: Payload, processors: u32) -> String {
        let kernel = self.folder.path().join("kernel");
        payload.elf().write(&kernel).unwrap();
        json!({
            "payload": {"kernel": kernel},
            "cpus": {"boot_vcpus": processors, "max_vcpus": processors},
            "memory": {"size": 64 << 20},
            "console": {"mode": "Off"},
            "debug_console": {"mode": "File", "file": self.folder.path().join("debug"), "iobase": 0xe9},
        })
        .to_string()
    }

    fn printed(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("debug")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the guest has printed more than this many bytes.
    fn wait_printed(&self, more_than: usize) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            let count = self.printed().len();
            if count > more_than {
                return count;
            }
            assert!(
                Instant::now() < deadline,
                "{count} bytes, not more than {more_than}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Names of the events so far.
    fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("events")).unwrap();
        serde_json::Deserializer::from_str(&text)
            .into_iter::<Value>()
            // Of the last one perhaps not all is written yet.
            .map_while(Result::ok)
            .map(|event| {
                let text = |member: &str| event[member].as_str().unwrap().to_owned();
                format!("{}/{}", text("source"), text("event"))
            })
            .collect()
    }

    /// The same when there are so many: a thread of its own writes them, so that answers may be there before.
    fn wait_events(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let events = self.events();
            if events.len() >= count || Instant::now() > deadline {
                return events;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(mut self) {
        let answer = self.client().put("vmm.shutdown", "");
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        let exit = self.vm.wait_exit(SECONDS).unwrap();
        assert_eq!(exit, Exit::Code(0), "{}", self.vm.stderr());
        assert!(!self.socket().exists(), "the socket is left behind");
    }
}

/// Prints for ever.
fn busy() -> Payload {
    Payload::new().forever(|body| body.print_e9(".").spin(1000))
}

/// Prints once for each time it is started.
fn quiet() -> Payload {
    Payload::new().print_e9("boot\n").halt()
}

#[test]
fn a_whole_life() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    let mode = std::fs::metadata(monitor.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "the socket is for its owner only");
    let ping = client.get("vmm.ping").json();
    assert_eq!(ping["version"], "53.0.0");
    assert_eq!(ping["pid"], monitor.vm.pid());
    client.act("vm.create", &monitor.machine(busy(), 2));
    let info = client.get("vm.info").json();
    assert_eq!(info["state"], "Created");
    assert_eq!(info["config"]["rng"]["src"], "/dev/urandom");
    assert!(info.get("device_tree").is_none());
    client.act("vm.boot", "");
    let info = client.get("vm.info").json();
    assert_eq!(info["state"], "Running");
    assert_eq!(info["memory_actual_size"], 64 << 20);
    let rng = &info["device_tree"]["_virtio-pci-__rng"];
    assert_eq!(rng["pci_bdf"], "0000:00:01.0");
    assert_eq!(rng["children"], json!(["__rng"]));
    assert_eq!(rng["resources"][0]["PciBar"]["size"], 0x8_0000);
    assert_eq!(info["device_tree"]["__rng"]["parent"], "_virtio-pci-__rng");
    assert_eq!(client.get("vm.counters").json(), json!({}));
    monitor.wait_printed(0);

    client.act("vm.pause", "");
    assert_eq!(client.state(), "Paused");
    let paused = monitor.printed().len();
    // Whatever is still on its way would be there by the time of these answers.
    for _ in 0..50 {
        client.get("vm.counters");
        assert_eq!(monitor.printed().len(), paused);
    }
    client.act("vm.resume", "");
    assert_eq!(client.state(), "Running");
    monitor.wait_printed(paused);

    client.act("vm.shutdown", "");
    assert_eq!(client.state(), "Created");
    client.act("vm.boot", "");
    client.act("vm.delete", "");
    assert_eq!(client.get("vm.info").status, 404);
    client.act("vm.delete", "");
    assert_eq!(
        monitor.wait_events(12),
        [
            "vmm/starting",
            "vm/booting",
            "vm/booted",
            "vm/pausing",
            "vm/paused",
            "vm/resuming",
            "vm/resumed",
            "vm/shutdown",
            "vm/booting",
            "vm/booted",
            "vm/shutdown",
            "vm/deleted",
        ]
    );
    monitor.end();
}

#[test]
fn refusals_have_their_status_and_say_why() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    let chain = |answer: client::Answer| {
        let list: Vec<String> = serde_json::from_str(&answer.body).unwrap();
        (answer.status, list)
    };
    for (name, status) in [
        ("vm.boot", 404),
        ("vm.reboot", 404),
        ("vm.pause", 500),
        ("vm.resume", 500),
        ("vm.shutdown", 500),
        ("vm.power-button", 500),
        ("vm.nmi", 500),
    ] {
        let (got, list) = chain(client.put(name, ""));
        assert_eq!(got, status, "{name}");
        assert_eq!(list[0], "Error from API", "{name}");
        assert!(list.len() > 1, "{name}: {list:?}");
    }
    assert_eq!(client.get("vm.counters").status, 500);
    assert_eq!(client.put("vm.resize", "{}").status, 404);
    assert_eq!(
        client
            .put("vm.resize-disk", r#"{"id":"a","desired_size":1}"#)
            .status,
        404
    );
    // Route and method.
    assert_eq!(
        chain(client.get("vm.boot")),
        (400, vec!["Bad Request".into()])
    );
    assert_eq!(
        chain(client.put("vm.info", "")),
        (400, vec!["Bad Request".into()])
    );
    assert_eq!(
        chain(client.get("vm.nonsense")),
        (404, vec!["Not Found".into()])
    );
    assert_eq!(
        chain(client.get("vm.info?a=b")),
        (404, vec!["Not Found".into()])
    );
    // Bodies.
    assert_eq!(client.put("vm.boot", "{}").status, 400);
    assert_eq!(client.put("vm.create", "").status, 400);
    for (body, part) in [
        ("{", "EOF"),
        (
            r#"{"cpus":{"boot_vcpu":1}}"#,
            "$.cpus.boot_vcpu, did you mean \"boot_vcpus\"",
        ),
        (r#"{"paylod":{}}"#, "did you mean \"payload\""),
        (r#"{"memory":{"size":"1G"}}"#, "$.memory.size"),
    ] {
        let (status, list) = chain(client.put("vm.create", body));
        assert_eq!(
            (status, list[0].as_str()),
            (400, "Failed to deserialize JSON"),
            "{body}"
        );
        assert!(list[1].contains(part), "{body}: {list:?}");
    }
    let receive = r#"{"receiver_url":"unix:/x"}"#;
    let (status, list) = chain(client.put("vm.receive-migration", receive));
    assert_eq!(status, 501);
    assert!(list[1].contains("vm.receive-migration"), "{list:?}");
    // There is nothing to save.
    let save = r#"{"destination_url":"file:///x"}"#;
    let (status, list) = chain(client.put("vm.snapshot", save));
    assert_eq!(status, 500);
    assert!(list[1].contains("not running"), "{list:?}");
    // What is wrong with the machine is found at its boot.
    client.act("vm.create", r#"{"payload":{"kernel":"/none"}}"#);
    let (status, list) = chain(client.put("vm.boot", ""));
    assert_eq!(status, 500);
    assert!(list[1].contains("/none"), "{list:?}");
    let (status, list) = chain(client.put("vm.create", r#"{"payload":{"kernel":"/k"}}"#));
    assert_eq!(status, 500);
    assert!(list[1].contains("already"), "{list:?}");
    monitor.end();
}

#[test]
fn before_the_boot_the_configuration_can_change() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    client.act("vm.create", &monitor.machine(quiet(), 4));
    client.act(
        "vm.resize",
        r#"{"desired_vcpus":2,"desired_ram":33554432,"desired_balloon":null}"#,
    );
    client.act("vm.remove-device", r#"{"id":"__rng"}"#);
    assert_eq!(
        client.put("vm.remove-device", r#"{"id":"__rng"}"#).status,
        500
    );
    let config = client.get("vm.info").json()["config"].take();
    assert_eq!(config["cpus"]["boot_vcpus"], 2);
    assert_eq!(config["memory"]["size"], 32 << 20);
    assert!(config.get("rng").is_none());
    client.act("vm.boot", "");
    monitor.wait_printed(0);
    // Then it takes more than this version has.
    assert_eq!(
        client.put("vm.resize", r#"{"desired_vcpus":3}"#).status,
        501
    );
    assert_eq!(
        client.put("vm.resize", r#"{"desired_vcpus":5}"#).status,
        500
    );
    client.act("vm.resize", r#"{"desired_vcpus":2}"#);
    let none = client.put("vm.resize", r#"{"desired_vcpus":0}"#);
    let why = none.json().to_string();
    assert_eq!(none.status, 500);
    assert!(why.contains("from 1 to 4 processors"), "{why}");
    monitor.end();
}

#[test]
fn a_reboot_and_an_interrupt_reach_the_guest() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    client.act("vm.create", &monitor.machine(quiet(), 1));
    client.act("vm.boot", "");
    monitor.wait_printed(0);
    client.act("vm.reboot", "");
    assert_eq!(client.state(), "Running");
    monitor.wait_printed("boot\n".len());
    // It has no handler for it, and falls over: the machine resets.
    client.act("vm.nmi", "");
    monitor.wait_printed("boot\nboot\n".len());
    // A paused guest gets it when it goes on.
    client.act("vm.pause", "");
    client.act("vm.nmi", "");
    assert_eq!(monitor.printed(), "boot\n".repeat(3));
    client.act("vm.resume", "");
    monitor.wait_printed("boot\n".len() * 3);
    client.act("vm.pause", "");
    client.act("vm.reboot", "");
    assert_eq!(client.state(), "Running");
    monitor.end();
}

#[test]
fn a_guest_that_powers_off_leaves_its_machine_if_the_monitor_stays() {
    let monitor = Monitor::start(&["--no-shutdown"]);
    let mut client = monitor.client();
    client.act(
        "vm.create",
        &monitor.machine(Payload::new().print_e9("x").power_off(), 1),
    );
    for _ in 0..3 {
        let _ = std::fs::remove_file(monitor.folder.path().join("debug"));
        client.act("vm.boot", "");
        monitor.wait_printed(0);
        let deadline = Instant::now() + LIMIT;
        while client.state() != "Created" {
            assert!(Instant::now() < deadline);
        }
    }
    monitor.end();
    // Otherwise it ends with the guest.
    let mut monitor = Monitor::start(&[]);
    let mut client = monitor.client();
    client.act("vm.create", &monitor.machine(Payload::new().power_off(), 1));
    client.act("vm.boot", "");
    assert_eq!(monitor.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert!(!monitor.socket().exists());
}

#[test]
fn one_monitor_at_a_socket() {
    let monitor = Monitor::start(&[]);
    monitor.client().get("vmm.ping");
    let socket = format!("path={}", monitor.socket().display());
    let mut second = Vm::builder().arg("--api-socket", &socket).spawn().unwrap();
    assert_eq!(second.wait_exit(SECONDS).unwrap(), Exit::Code(1));
    assert!(
        second.stderr().contains("another monitor serves"),
        "{}",
        second.stderr()
    );
    assert_eq!(monitor.client().get("vmm.ping").status, 200);
    // A monitor that is killed leaves its socket, which is no obstacle.
    let Monitor { vm, folder } = monitor;
    vm.signal(testkit::Signal::KILL).unwrap();
    drop(vm);
    assert!(folder.path().join("api").exists());
    let mut third = Vm::builder().arg("--api-socket", &socket).spawn().unwrap();
    let mut client = Client::connect(&folder.path().join("api"));
    assert_eq!(client.get("vmm.ping").json()["pid"], third.pid());
    client.act("vmm.shutdown", "");
    assert_eq!(third.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}

#[test]
fn a_signal_ends_a_monitor_that_waits() {
    let mut monitor = Monitor::start(&["--landlock"]);
    assert_eq!(monitor.client().get("vmm.ping").status, 200);
    monitor.vm.signal(testkit::Signal::TERM).unwrap();
    let exit = monitor.vm.wait_exit(SECONDS).unwrap();
    assert_eq!(exit, Exit::Code(0), "{}", monitor.vm.stderr());
    assert!(!monitor.socket().exists(), "the socket is left behind");
}
