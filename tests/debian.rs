//! Debian with systemd on a disk, and in it every device that a guest usually has.
//!
//! Starting it takes half a minute in an emulated host, so one guest is looked at from all sides. The disk is one
//! for all tests: they take turns.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "api/client.rs"]
mod client;
#[path = "debian/devices.rs"]
mod devices;
#[path = "debian/disks.rs"]
mod disks;
#[path = "debian/network.rs"]
mod network;
#[path = "debian/sockets.rs"]
mod sockets;

use std::io::{Write as _, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use client::Client;
use tempfile::TempDir;
use testkit::{Builder, Exit, Vm, env};

/// From the monitor's start until systemd has started what takes requests.
const BOOT_SECONDS: u64 = 240;
/// Longest that one script takes.
const SCRIPT_SECONDS: u64 = 240;

/// Longest that systemd takes to stop everything.
const STOP_SECONDS: u64 = 150;

/// One guest at a time has the disk.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running Debian, with its API and a folder for its files.
struct Debian {
    vm: Vm,
    folder: TempDir,
}

impl Debian {
    /// Starts it with further options and waits until it takes requests.
    fn start(options: impl FnOnce(Builder, &Path) -> Builder) -> Self {
        let folder = tempfile::tempdir_in(env::scratch().unwrap()).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let builder = Vm::debian("serial=root-disk")
            .unwrap()
            .arg("--api-socket", format!("path={}", path("api")))
            .arg("--event-monitor", format!("path={}", path("events")));
        let mut vm = options(builder, folder.path()).spawn().unwrap();
        vm.wait_ready(BOOT_SECONDS).unwrap();
        Self { vm, folder }
    }

    /// Runs a script in the guest that has to succeed, and gives what it printed.
    fn run(&mut self, script: &str) -> String {
        let output = self.vm.run_within(script, SCRIPT_SECONDS).unwrap();
        assert_eq!(output.status, 0, "{script}: {}", output.stdout);
        output.stdout
    }

    fn client(&self) -> Client {
        Client::connect(&self.path("api"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the guest's script succeeds.
    fn wait(&mut self, script: &str) {
        self.run(&format!(
            "for i in $(seq 60); do if {script}; then exit 0; fi; sleep 0.5; done; exit 1"
        ));
    }
}

/// Runs a program of the host that has to succeed, and gives what it printed.
fn host(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {words:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits a little; false, so that a search goes on.
fn pause() -> bool {
    std::thread::sleep(std::time::Duration::from_millis(500));
    false
}

/// A file of zeros, sparse.
fn file(path: &Path, size: u64) -> String {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
    path.display().to_string()
}

/// Looks at one side of the guest.
type Step = fn(&mut Debian);

#[test]
fn every_device_of_a_usual_guest() {
    let _turn = turn();
    let mut debian = Debian::start(|builder, folder| {
        let builder = disks::options(builder, folder);
        let builder = network::options(builder);
        let builder = sockets::options(builder, folder);
        devices::options(builder, folder)
    });
    let steps: [(&str, Step); 13] = [
        ("what is there", devices::look),
        ("fio on every engine", disks::verify_on_every_engine),
        ("fstrim", disks::trim_gives_space_back),
        ("a disk grows", disks::resize_while_it_runs),
        ("network both ways", network::talk_both_ways),
        ("queues and offloads", network::queues_and_offloads_change),
        ("vsock both ways", sockets::both_ways),
        ("entropy", devices::entropy),
        ("persistent memory", devices::persistent_memory),
        ("balloon", devices::balloon),
        ("counters", devices::counters),
        ("pause and resume", devices::pause_and_resume),
        ("panic", devices::panic_is_an_event),
    ];
    let start = Instant::now();
    for (name, step) in steps {
        // Not `eprintln`, which is shown at the end only: this takes minutes.
        let _ = writeln!(
            stderr(),
            "   {:>4.0} s {name}",
            start.elapsed().as_secs_f32()
        );
        step(&mut debian);
    }
}

#[test]
fn a_killed_monitor_loses_nothing_that_was_synced() {
    let _turn = turn();
    disks::survive_a_kill();
}

#[test]
fn systemd_reaches_a_login_on_the_console_and_stops_when_the_power_button_is_pressed() {
    let _turn = turn();
    let folder = tempfile::tempdir_in(env::scratch().unwrap()).unwrap();
    let shown = folder.path().join("console");
    let socket = folder.path().join("api");
    let mut vm = Vm::debian("")
        .unwrap()
        .console(format!("file={}", shown.display()))
        .arg("--api-socket", format!("path={}", socket.display()))
        .spawn()
        .unwrap();
    vm.wait_ready(BOOT_SECONDS).unwrap();
    let state = vm.run_within("systemctl is-system-running --wait", SCRIPT_SECONDS);
    assert_eq!(state.unwrap().stdout, "running\n");
    // The getty is what systemd starts last, when everything else has started.
    let login = || std::fs::read_to_string(&shown).is_ok_and(|text| text.contains("guest login:"));
    if !(0..120).any(|_| login() || pause()) {
        let script = "ls -l /dev/hvc0; lsmod | grep virtio; systemctl status serial-getty@hvc0";
        let why = vm.run_within(script, SCRIPT_SECONDS).unwrap();
        panic!("no login in {shown:?}: {}", why.stdout);
    }
    // logind hears the button when it has found the device; `systemctl is-system-running` has waited for it.
    Client::connect(&socket).act("vm.power-button", "");
    assert_eq!(vm.wait_exit(STOP_SECONDS).unwrap(), Exit::Code(0));
    assert!(
        vm.console().contains("reboot: Power down"),
        "systemd stops it in order: {}",
        vm.console()
    );
}
