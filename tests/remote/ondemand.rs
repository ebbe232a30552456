//! Memory that comes from a snapshot while the guest runs.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::Value;
use testkit::Exit;
use testkit::payload::Payload;

use crate::monitor::Monitor;

const MIB: u64 = 1 << 20;
const MODE: &str = "memory_restore_mode=ondemand";
/// What the guest looks at, far from its program: a byte in each of so many pages.
const LOOKED_AT: u32 = 0x0300_0000;
const PAGES: u32 = 64;

/// Adds up bytes of pages that were written before the snapshot, and prints the sum, for ever.
fn adder() -> Payload {
    let filled = (0..PAGES).fold(Payload::new(), |payload, page| {
        payload.write_u8(LOOKED_AT + page * 0x1000, 3)
    });
    filled.forever(|payload| {
        let payload = payload.raw(&[0x31, 0xdb]); // xor ebx, ebx
        let summed = (0..PAGES).fold(payload, |payload, page| {
            payload
                .read_u32(LOOKED_AT + page * 0x1000)
                .raw(&[0x01, 0xc3]) // add ebx, eax
        });
        summed.raw(&[0x88, 0xd8]).out_al(0xe9).spin(2000) // mov al, bl
    })
}

/// What it prints: only the low byte of the sum.
const SUM: u8 = 3 * 64;

/// A snapshot of a machine of so many MiB, with these members of its memory's configuration.
fn saved(first: &Monitor, mib: u64, more: &[&str]) -> String {
    let path = first.machine(adder());
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["memory"]["size"] = (mib * MIB).into();
    for name in more {
        config["memory"][name] = true.into();
    }
    fs::write(&path, config.to_string()).unwrap();
    first.act(&["create", &path]);
    first.act(&["boot"]);
    first.wait_printed(3);
    first.act(&["pause"]);
    let folder = first.path("saved");
    fs::create_dir(&folder).unwrap();
    first.act(&["snapshot", &format!("file://{folder}")]);
    first.act(&["delete"]);
    folder
}

/// Something in each 64 KiB of a memory file, so that it takes a while to read.
fn fill(folder: &str, from_mib: u64) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(format!("{folder}/memory-ranges"))
        .unwrap();
    let length = file.metadata().unwrap().len();
    // As of a monitor that wrote no checksums.
    let state = format!("{folder}/state.json");
    let text = fs::read_to_string(&state).unwrap();
    let (before, rest) = text.split_once("\"memory_checksums\":{").unwrap();
    let (_, after) = rest.split_once("},").unwrap();
    fs::write(&state, format!("{before}{after}")).unwrap();
    for at in (from_mib * MIB..length).step_by(64 << 10) {
        file.write_all_at(&[9], at).unwrap();
    }
}

fn missing(monitor: &Monitor) -> u64 {
    let info = monitor.remote(&["info"]).json();
    assert_eq!(info["memory_restore_mode"], "OnDemand");
    info["memory_missing"].as_u64().unwrap()
}

#[test]
fn the_guest_runs_while_its_memory_comes() {
    for more in [&[][..], &["shared"]] {
        let first = Monitor::start();
        let folder = saved(&first, 512, more);
        fill(&folder, 64);
        let second = Monitor::start();
        second.act(&[
            "restore",
            &format!("source_url=file://{folder},{MODE},resume=on"),
        ]);
        let left = missing(&second);
        first.wait_printed(10);
        assert!(left > 0, "it was all there before the guest ran");
        // Saved while it comes: it has all of it.
        second.act(&["pause"]);
        let again = first.path("again");
        fs::create_dir(&again).unwrap();
        second.act(&["snapshot", &format!("file://{again}")]);
        assert_eq!(missing(&second), 0);
        second.act(&["resume"]);
        let printed = first.printed();
        first.wait_printed(printed + 10);
        let printed = fs::read(first.path("debug")).unwrap();
        assert!(printed.iter().all(|byte| *byte == SUM), "{printed:?}");
        second.end();
        let memory = |folder: &str| fs::File::open(format!("{folder}/memory-ranges")).unwrap();
        let (before, after) = (memory(&folder), memory(&again));
        for at in (64 * MIB..512 * MIB).step_by(1 << 20) {
            let mut bytes = [[0; 4096]; 2];
            before.read_exact_at(&mut bytes[0], at).unwrap();
            after.read_exact_at(&mut bytes[1], at).unwrap();
            assert!(bytes[0] == bytes[1], "{at:#x}");
        }
        first.end();
    }
}

#[test]
fn memory_that_is_lost_ends_the_machine_and_is_never_zeros() {
    let first = Monitor::start();
    let folder = saved(&first, 4096, &[]);
    fill(&folder, 64);
    let mut second = Monitor::start();
    second.act(&[
        "restore",
        &format!("source_url=file://{folder},{MODE},resume=on"),
    ]);
    first.wait_printed(10);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(format!("{folder}/memory-ranges"))
        .unwrap();
    file.set_len(3840 * MIB).unwrap();
    let exit = second.vm.wait_exit(60).unwrap();
    let said = second.vm.stderr();
    assert_eq!(exit, Exit::Code(1), "{said}");
    assert!(
        said.contains("cannot be read from its snapshot")
            && said.contains("memory-ranges")
            && said.contains("the file is shorter"),
        "{said}"
    );
    let printed = fs::read(first.path("debug")).unwrap();
    assert!(printed.iter().all(|byte| *byte == SUM), "{printed:?}");
    first.end();
}

#[test]
fn memory_of_huge_pages_does_not_come_on_demand() {
    let first = Monitor::start();
    let folder = saved(&first, 64, &[]);
    let config = format!("{folder}/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let huge = text.replacen("\"hugepages\": false", "\"hugepages\": true", 1);
    assert_ne!(huge, text);
    fs::write(&config, &huge).unwrap();
    // Its checksum, in the place of the old one.
    let state = format!("{folder}/state.json");
    let sum = |text: &str| {
        format!(
            "\"bytes\":{},\"crc32\":{}",
            text.len(),
            crc32fast::hash(text.as_bytes())
        )
    };
    let changed = fs::read_to_string(&state)
        .unwrap()
        .replacen(&sum(&text), &sum(&huge), 1);
    fs::write(&state, changed).unwrap();
    let refused = first.refused(&["restore", &format!("source_url=file://{folder},{MODE}")]);
    assert!(
        refused.contains("huge page") && refused.contains("use copy"),
        "{refused}"
    );
    first.end();
}
