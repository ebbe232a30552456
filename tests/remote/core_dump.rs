//! Core dumps, read by the programs that they are for.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use testkit::payload::Payload;

use crate::monitor::Monitor;

const WORD: u32 = 0x0200_0000;

/// Has values of its own in a register and in memory, and prints for ever.
fn marked() -> Payload {
    Payload::new()
        .write_u32(WORD, 0x1234_5678)
        .raw(&[0xbb])
        .raw(&0xc0de_0001_u32.to_le_bytes()) // mov ebx, ...
        .forever(|body| body.print_e9(".").spin(1000))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let said = Command::new(program).args(arguments).output();
    let said = said.unwrap_or_else(|error| panic!("{program}: {error}"));
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{program}: {err}");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

#[test]
fn a_core_dump_is_what_debuggers_read_and_the_guest_goes_on() {
    let monitor = Monitor::boot(marked());
    monitor.wait_printed(0);
    let core = monitor.path("core");
    let url = format!("file://{core}");
    monitor.act(&["coredump", &url]);
    assert_eq!(monitor.state(), "Running");
    monitor.wait_printed(monitor.printed());

    let about = fs::metadata(&core).unwrap();
    assert!(about.len() > 64 << 20 && about.len() < 65 << 20);
    assert!(about.blocks() * 512 < 4 << 20, "empty pages are holes");
    assert_eq!(about.permissions().mode() & 0o777, 0o600);

    let head = run("readelf", &["-hlnW", &core]);
    assert!(head.contains("CORE (Core file)"), "{head}");
    assert!(head.contains("X86-64"), "{head}");
    assert!(!head.contains("Warning"), "{head}");
    for note in ["NT_PRSTATUS", "NT_FPREGSET"] {
        assert_eq!(head.matches(note).count(), 1, "{head}");
    }
    assert!(head.contains("QEMU                 0x000001b8"), "{head}");
    let loads = head
        .lines()
        .filter(|line| line.trim_start().starts_with("LOAD"));
    let sizes = loads.map(|line| {
        let word = line.split_whitespace().nth(4).unwrap();
        u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap()
    });
    assert_eq!(sizes.sum::<u64>(), 64 << 20, "{head}");

    let shown = run(
        "gdb",
        &[
            "-nx",
            "-batch",
            "-ex",
            "info threads",
            "-ex",
            "p/x $ebx",
            "-ex",
            "p/x $cs",
            "-ex",
            "p $fctrl",
            "-ex",
            "x/wx 0x2000000",
            "-ex",
            "x/i $pc",
            "-c",
            &core,
        ],
    );
    assert!(shown.contains("LWP 1"), "{shown}");
    assert!(shown.contains("= 0xc0de0001"), "{shown}");
    // What `FNINIT` leaves.
    assert!(shown.contains("= 895"), "{shown}");
    assert!(shown.contains("0x2000000:\t0x12345678"), "{shown}");
    monitor.end();
}

#[test]
fn a_core_dump_replaces_nothing_and_leaves_the_machine_as_it_was() {
    let monitor = Monitor::start();
    let core = monitor.path("core");
    let url = format!("file://{core}");
    assert!(
        monitor
            .refused(&["coredump", &url])
            .contains("InternalServerError")
    );
    monitor.act(&["create", &monitor.machine(marked())]);
    assert!(monitor.refused(&["coredump", &url]).contains("not running"));
    monitor.act(&["boot"]);
    assert!(
        monitor
            .refused(&["coredump", &core])
            .contains("file:///<file>")
    );
    let nowhere = monitor.refused(&["coredump", "file:///nowhere/core"]);
    assert!(
        nowhere.contains("cannot create /nowhere/core.partial"),
        "{nowhere}"
    );
    assert_eq!(monitor.state(), "Running");
    monitor.act(&["pause"]);
    monitor.act(&["coredump", &url]);
    assert_eq!(monitor.state(), "Paused");
    let whole = fs::read(&core).unwrap();
    assert!(
        monitor
            .refused(&["coredump", &url])
            .contains("replaces nothing")
    );
    assert!(fs::read(&core).unwrap() == whole);
    // It stands still: another one is the same.
    monitor.act(&["coredump", &format!("{url}.again")]);
    assert!(fs::read(format!("{core}.again")).unwrap() == whole);
    monitor.act(&["resume"]);
    monitor.wait_printed(monitor.printed());
    monitor.end();
}
