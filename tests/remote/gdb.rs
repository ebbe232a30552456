//! The guest in the hands of gdb itself.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::payload::Payload;

use crate::monitor::Monitor;

const WORD: u32 = 0x0200_0000;
const LIMIT: Duration = Duration::from_secs(60);

/// Two instructions that are easy to follow, then a word of memory is printed for ever.
fn steps() -> Payload {
    Payload::new()
        .raw(&[0xbb])
        .raw(&0xc0de_0001_u32.to_le_bytes()) // mov ebx, ...
        .raw(&[0x43]) // inc ebx
        .forever(|body| body.read_u32(WORD).out_al(0xe9).spin(1000))
}

fn debugged(processors: u32) -> Monitor {
    let monitor = Monitor::start_with(|folder| {
        vec![("--gdb", format!("path={}", folder.join("gdb").display()))]
    });
    monitor.act(&["create", &monitor.machine(steps())]);
    monitor.act(&["resize", "--cpus", &processors.to_string()]);
    monitor.act(&["boot"]);
    monitor
}

fn gdb(monitor: &Monitor, commands: &[&str]) -> Child {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set confirm off", "-ex"]);
    gdb.arg(format!("target remote {}", monitor.path("gdb")));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let piped = gdb.stdin(Stdio::null()).stdout(Stdio::piped());
    piped.stderr(Stdio::piped()).spawn().unwrap()
}

/// What it printed; it must have succeeded.
fn end(gdb: Child) -> String {
    let (success, text) = finish(gdb);
    assert!(success, "{text}");
    text
}

/// Whether it succeeded, and what it printed.
fn finish(mut gdb: Child) -> (bool, String) {
    let deadline = Instant::now() + LIMIT;
    while gdb.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = gdb.kill();
            break;
        }
        sleep(Duration::from_millis(10));
    }
    let said = gdb.wait_with_output().unwrap();
    let (out, err) = (said.stdout, said.stderr);
    let text = String::from_utf8_lossy(&[out, err].concat()).into_owned();
    (said.status.success(), text)
}

fn run(monitor: &Monitor, commands: &[&str]) -> String {
    end(gdb(monitor, commands))
}

#[test]
fn the_guest_stands_still_until_gdb_lets_it_go() {
    let monitor = debugged(1);
    assert_eq!(monitor.state(), "BreakPoint");
    let said = run(
        &monitor,
        &[
            "info threads",
            "p/x $cr0 & 1",
            "x/i $pc",
            "stepi",
            "p/x $rbx",
            "stepi",
            "p/x $rbx",
            "p $fctrl",
            "set var $rbx = 0x77",
            "p/x $rbx",
            "set var *(unsigned char*)0x2000000 = 0x41",
            "x/xb 0x2000000",
            "x/xb 0x100000000",
            "detach",
        ],
    );
    for part in [
        "Thread 1",
        "= 0xc0de0001",
        "= 0xc0de0002",
        "= 895",
        "= 0x77",
        "0x2000000:\t0x41",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(
        said.contains("Cannot access memory at address 0x100000000"),
        "{said}"
    );
    assert_eq!(monitor.state(), "Running");
    monitor.wait_printed(0);
    assert_eq!(fs::read(monitor.path("debug")).unwrap()[0], b'A');
    monitor.end();
}

#[test]
fn gdb_interrupts_the_guest_sees_each_processor_and_ends_it() {
    let mut monitor = debugged(2);
    let child = gdb(&monitor, &["continue", "info threads", "p/x $rbx", "kill"]);
    monitor.wait_printed(0);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).unwrap();
    let (_, said) = finish(child);
    assert!(said.contains("SIGINT"), "{said}");
    assert!(
        said.contains("Thread 1.1") && said.contains("Thread 1.2"),
        "{said}"
    );
    assert!(said.contains("= 0xc0de0002"), "{said}");
    // To kill the program is to end the monitor.
    let exit = monitor.vm.wait_exit(LIMIT.as_secs()).unwrap();
    assert_eq!(exit, testkit::Exit::Code(0), "{}", monitor.vm.stderr());
}

#[test]
fn a_hardware_breakpoint_stops_the_guest() {
    let monitor = debugged(1);
    let said = run(
        &monitor,
        &[
            "hbreak *($pc + 5)",
            "continue",
            "p/x $rbx",
            "delete",
            "detach",
        ],
    );
    assert!(said.contains("Breakpoint 1, "), "{said}");
    assert!(said.contains("= 0xc0de0001"), "{said}");
    monitor.wait_printed(0);
    monitor.end();
}

#[test]
fn what_stops_the_guest_does_not_stop_the_api() {
    let monitor = debugged(1);
    monitor.act(&["pause"]);
    monitor.act(&["resume"]);
    assert_eq!(monitor.state(), "BreakPoint");
    assert_eq!(monitor.printed(), 0);
    // gdb that is killed lets the guest go on. What it is to do begins when it is connected.
    let connected = monitor.path("connected");
    let command = format!("shell touch {connected}; exec sleep 60");
    let mut child = gdb(&monitor, &[&command]);
    let deadline = Instant::now() + LIMIT;
    while !fs::exists(&connected).unwrap() {
        assert!(Instant::now() < deadline, "gdb does not connect");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    monitor.wait_printed(0);
    // A machine that starts anew stands still again.
    monitor.act(&["reboot"]);
    assert_eq!(monitor.state(), "BreakPoint");
    run(&monitor, &["detach"]);
    monitor.wait_printed(0);
    monitor.end();
}
