//! The monitor is played by shell scripts: what is tested is the test kit.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A program that runs this script.
fn fake(script: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("monitor");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

/// Starts a fake; a program that another thread's fork still has open for writing is busy.
fn start(script: &str, prepare: impl Fn(Builder) -> Builder) -> (tempfile::TempDir, Vm) {
    let (folder, path) = fake(script);
    for _ in 0..100 {
        match prepare(Vm::builder().binary(&path)).spawn() {
            Ok(vm) => return (folder, vm),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("the fake monitor does not start");
}

#[test]
fn options_arrive_in_a_fixed_order_and_unchanged() {
    let (_folder, mut vm) = start("for word; do echo \"[$word]\"; done", |builder| {
        builder
            .arg("--event-monitor", "path=a b")
            .flag("-v")
            .cpus("boot=2")
            .cmdline("a=1")
            .extend_cmdline("b=2")
            .kernel("/k")
            .serial(SerialLink::Stdio)
    });
    vm.wait_for("[-v]", 20).unwrap();
    let expected = "[--kernel] [/k] [--cmdline] [a=1 b=2] [--cpus] [boot=2] [--serial] [tty] \
                    [--console] [off] [--event-monitor] [path=a b] [-v]";
    assert_eq!(
        vm.console()
            .split_terminator('\n')
            .collect::<Vec<_>>()
            .join(" "),
        expected
    );
}

/// The guest's own script answers, on pipes instead of a serial port.
fn guest_script(extra: &str) -> String {
    let serve = guest::SERVE
        .replace("stty -echo -opost", ":")
        .replace("dmesg -n 1", ":");
    let serve = serve.replace("/tmp/", "$HOME/");
    format!("echo booting\n{serve}\n{extra}serve")
}

#[test]
fn commands_give_output_and_status() {
    let home = tempfile::tempdir().unwrap();
    let (_folder, mut vm) = start(&guest_script(""), |builder| {
        builder.variable("HOME", home.path())
    });
    assert_eq!(
        vm.run("echo out; echo err >&2; exit 3").unwrap(),
        Output {
            stdout: "out\nerr\n".to_owned(),
            status: 3,
        }
    );
    // Longer than a line, binary-looking, and with words of the protocol in it.
    let script = format!(
        "echo '@end 2 0'; echo {} | tail -c 5; printf 'no newline'",
        "x".repeat(3000)
    );
    assert_eq!(
        vm.run(&script).unwrap().stdout,
        "@end 2 0\nxxxx\nno newline"
    );
    // Long enough to be packed.
    let long = vm.run("seq 1 1000").unwrap().stdout;
    assert!(long.starts_with("1\n2\n") && long.ends_with("\n1000\n"));
    assert_eq!(
        vm.run("true").unwrap(),
        Output {
            stdout: String::new(),
            status: 0
        }
    );
    vm.run_last("kill $PPID").unwrap();
    assert_eq!(vm.wait_exit(20).unwrap(), Exit::Signal(15));
}

#[test]
fn a_guest_that_starts_again_gives_no_answer_and_is_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let (_folder, mut vm) = start(
        &guest_script("exec 5>&2\necho triple fault >&5\n"),
        |builder| builder.variable("HOME", home.path()),
    );
    // What is in the log of old does not matter.
    vm.wait_for_log("triple fault", 20).unwrap();
    assert_eq!(vm.run("echo on").unwrap().stdout, "on\n");
    let started = Instant::now();
    let script = "echo triple fault: the machine resets >&5; sleep 50";
    let error = vm.run(script).unwrap_err().to_string();
    assert!(error.contains("started again"), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(40),
        "it was waited for"
    );
}

#[test]
fn an_early_end_is_reported_with_the_log() {
    let (_folder, mut vm) = start("echo hello; echo no such kernel >&2; exit 1", |builder| {
        builder
    });
    let error = vm.wait_for("login:", 20).unwrap_err().to_string();
    for part in ["login:", "Code(1)", "hello", "no such kernel"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn silence_is_reported_with_the_console() {
    let (_folder, mut vm) = start("echo waiting; sleep 100", |builder| builder);
    vm.wait_for("waiting", 20).unwrap();
    let error = vm.wait_for("login:", 1).unwrap_err();
    assert!(matches!(&error, Error::Timeout { context, .. } if context.contains("waiting")));
    assert!(vm.is_running().unwrap());
    let pid = vm.pid();
    drop(vm);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_monitor_on_a_terminal_has_its_log_beside() {
    let terminal = Terminal::open().unwrap();
    let (folder, path) = fake("stty raw -echo; echo up; echo log >&2; read x; echo [$x]");
    std::thread::sleep(Duration::from_millis(50));
    let mut vm = Vm::builder()
        .binary(path)
        .terminal(terminal)
        .spawn()
        .unwrap();
    vm.wait_for("up", 20).unwrap();
    assert!(vm.terminal().unwrap().attributes().unwrap().is_raw());
    vm.send("key\n").unwrap();
    vm.wait_for("[key]", 20).unwrap();
    assert_eq!(vm.wait_exit(20).unwrap(), Exit::Code(0));
    assert_eq!(vm.stderr(), "log\n");
    drop(folder);
}
