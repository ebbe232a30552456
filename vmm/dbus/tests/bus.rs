//! The API on a bus of its own, asked by systemd's client.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{Body, Content, Handler, Request, Respond, Response};
use dbus::{Bus, Place, Service};
use sandbox::{COMMON, Filter, Mode};

const NAME: &str = "org.example.vm";
const PATH: &str = "/org/example/vm";
const INTERFACE: &str = "org.cloudhypervisor.DBusApi1";
const LIMIT: Duration = Duration::from_secs(30);

/// A bus; ended when it is dropped.
struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start() -> Self {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--print-address"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        Self { child, address }
    }

    fn busctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("busctl");
        command
            .arg(format!("--address={}", self.address))
            .args(words);
        command.stdin(Stdio::null());
        command
    }

    fn call(&self, words: &[&str]) -> Output {
        let words = [&["call", NAME, PATH, INTERFACE], words].concat();
        self.busctl(&words).output().unwrap()
    }

    fn place(&self, service: &str) -> Place {
        Place {
            service: service.to_owned(),
            path: PATH.to_owned(),
            bus: Bus::Address(self.address.clone()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers with what it was asked: as the driver does from another thread, later. It is there before the filters are.
struct Echo(Mutex<Sender<(Response, Respond)>>);

impl Echo {
    fn new() -> Arc<Self> {
        let (sender, answers) = channel::<(Response, Respond)>();
        std::thread::spawn(move || {
            for (response, respond) in answers {
                respond(response);
            }
        });
        Arc::new(Self(Mutex::new(sender)))
    }
}

impl Handler for Echo {
    fn serve(&self, request: Request, respond: Respond) {
        let name = request.path.strip_prefix(api::PREFIX).unwrap();
        let status = match name {
            "vm.boot" => 204,
            "vm.info" => 404,
            _ => 200,
        };
        let asked = format!(
            "{:?} {name} {}",
            request.method,
            String::from_utf8_lossy(&request.body)
        );
        let response = Response {
            status,
            content: Content::Json,
            body: Body::Whole(asked.into_bytes()),
        };
        self.0.lock().unwrap().send((response, respond)).unwrap();
    }
}

fn filter() -> Filter {
    Filter::compile(Mode::Trap, &[COMMON, dbus::SYSCALLS]).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[test]
fn methods_are_endpoints_and_errors_have_their_chain() {
    let daemon = Daemon::start();
    let service = Service::start(daemon.place(NAME), Echo::new(), filter()).unwrap();
    let ping = daemon.call(&["VmmPing"]);
    assert_eq!(text(&ping.stdout), "s \"Get vmm.ping \"", "{ping:?}");
    let added = daemon.call(&["VmAddDisk", "s", "{}"]);
    assert_eq!(text(&added.stdout), "s \"Put vm.add-disk {}\"", "{added:?}");
    let boot = daemon.call(&["VmBoot"]);
    assert!(boot.status.success() && boot.stdout.is_empty(), "{boot:?}");
    let info = daemon.call(&["VmInfo"]);
    assert!(!info.status.success(), "{info:?}");
    assert!(text(&info.stderr).contains("Get vm.info"), "{info:?}");
    service.stop();
    // The name is given back.
    assert!(!daemon.call(&["VmmPing"]).status.success());
}

#[test]
fn every_method_and_the_signal_are_described() {
    let daemon = Daemon::start();
    let service = Service::start(daemon.place(NAME), Echo::new(), filter()).unwrap();
    let said = daemon
        .busctl(&["introspect", NAME, PATH, INTERFACE])
        .output()
        .unwrap();
    let said = text(&said.stdout);
    let members = |kind: &str| said.lines().filter(|line| line.contains(kind)).count();
    assert_eq!(
        (members(" method "), members(" signal ")),
        (METHODS.len(), 1),
        "{said}"
    );
    for (method, signature) in METHODS {
        let found = said.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words[..4.min(words.len())]
                == [&format!(".{method}"), "method", signature.0, signature.1]
        });
        assert!(found, "{method} {signature:?}: {said}");
    }
    service.stop();
}

/// Names, and the signatures of what goes in and out.
const METHODS: &[(&str, (&str, &str))] = &[
    ("VmmPing", ("-", "s")),
    ("VmmShutdown", ("-", "-")),
    ("VmAddDevice", ("s", "s")),
    ("VmAddDisk", ("s", "s")),
    ("VmAddFs", ("s", "s")),
    ("VmAddGenericVhostUser", ("s", "s")),
    ("VmAddNet", ("s", "s")),
    ("VmAddPmem", ("s", "s")),
    ("VmAddUserDevice", ("s", "s")),
    ("VmAddVdpa", ("s", "s")),
    ("VmAddVsock", ("s", "s")),
    ("VmBoot", ("-", "-")),
    ("VmCoredump", ("s", "-")),
    ("VmCounters", ("-", "s")),
    ("VmCreate", ("s", "-")),
    ("VmDelete", ("-", "-")),
    ("VmInfo", ("-", "s")),
    ("VmPause", ("-", "-")),
    ("VmPowerButton", ("-", "-")),
    ("VmReboot", ("-", "-")),
    ("VmRemoveDevice", ("s", "-")),
    ("VmResize", ("s", "-")),
    ("VmResizeZone", ("s", "-")),
    ("VmRestore", ("s", "-")),
    ("VmReceiveMigration", ("s", "-")),
    ("VmSendMigration", ("s", "-")),
    ("VmResume", ("-", "-")),
    ("VmShutdown", ("-", "-")),
    ("VmSnapshot", ("s", "-")),
];

#[test]
fn events_are_signals() {
    let daemon = Daemon::start();
    let service = Service::start(daemon.place(NAME), Echo::new(), filter()).unwrap();
    let mut command = daemon.busctl(&["--json=short", "monitor", NAME]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let teller = std::thread::spawn(move || {
        // The client listens at some time.
        while ended.recv_timeout(Duration::from_millis(50)).is_err() {
            telemetry::event!("vm", "booting");
        }
    });
    let begin = Instant::now();
    let line = lines.find_map(|line| {
        assert!(begin.elapsed() < LIMIT);
        line.ok().filter(|line| line.contains("booting"))
    });
    let line = line.unwrap();
    assert!(
        line.contains("\"member\":\"Event\"") && line.contains(INTERFACE),
        "{line}"
    );
    end.send(()).unwrap();
    teller.join().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    service.stop();
}

#[test]
fn a_name_that_is_taken_or_no_bus_is_an_error_that_says_so() {
    let daemon = Daemon::start();
    let service = Service::start(daemon.place(NAME), Echo::new(), filter()).unwrap();
    let error = Service::start(daemon.place(NAME), Echo::new(), filter()).unwrap_err();
    assert!(error.to_string().contains(NAME), "{error}");
    let error = Service::start(daemon.place("no name"), Echo::new(), filter()).unwrap_err();
    assert!(
        error.to_string().contains("--dbus-service-name no name"),
        "{error}"
    );
    service.stop();
    let nowhere = Place {
        bus: Bus::Address("unix:path=/nowhere/bus".to_owned()),
        ..daemon.place(NAME)
    };
    let error = Service::start(nowhere, Echo::new(), filter()).unwrap_err();
    assert!(error.to_string().contains("cannot reach"), "{error}");
}
