//! Machines that are saved and go on elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use testkit::payload::Payload;

use crate::monitor::Monitor;

/// A word of memory, far from the program.
const WORD: u32 = 0x0200_0000;

/// Counts in a register and in memory, and prints both.
fn counter() -> Payload {
    Payload::new().forever(|payload| {
        payload
            .raw(&[0x43]) // inc ebx
            .raw(&[0xfe, 0x05]) // inc byte [WORD]
            .raw(&WORD.to_le_bytes())
            .raw(&[0x88, 0xd8]) // mov al, bl
            .out_al(0xe9)
            .read_u32(WORD)
            .out_al(0xe9)
            .spin(2000)
    })
}

/// The output, in pairs of which each is one more than the one before.
fn check(printed: &[u8], after: Option<u8>) -> u8 {
    let pairs = printed.as_chunks::<2>().0;
    let mut last = after.unwrap_or_else(|| pairs[0][0].wrapping_sub(1));
    for pair in pairs {
        let next = last.wrapping_add(1);
        assert_eq!(pair, &[next; 2], "after {last}");
        last = next;
    }
    last
}

fn info(monitor: &Monitor) -> Value {
    monitor.remote(&["info"]).json()
}

/// Where a machine goes on, in a monitor of its own whose files are those of the first one.
fn restore(first: &Monitor, folder: &str, more: &str) -> Monitor {
    let second = Monitor::start();
    let config = format!("{folder}/config.json");
    assert!(
        fs::read_to_string(config)
            .unwrap()
            .contains(&first.path("debug"))
    );
    second.act(&["restore", &format!("source_url=file://{folder}{more}")]);
    second
}

fn wait_for(monitor: &Monitor, bytes: usize) -> Vec<u8> {
    monitor.wait_printed(bytes);
    let mut printed = fs::read(monitor.path("debug")).unwrap();
    printed.truncate(printed.len() & !1);
    printed
}

#[test]
fn a_saved_machine_goes_on_where_it_was_by_every_mode() {
    let first = Monitor::boot(counter());
    let folder = first.path("saved");
    let mut last = save(&first, &folder);
    let memory = fs::metadata(format!("{folder}/memory-ranges")).unwrap();
    assert_eq!(memory.len(), 64 << 20);
    assert!(memory.blocks() * 512 < 4 << 20, "empty pages are holes");
    let again = first.refused(&["snapshot", &format!("file://{folder}")]);
    assert!(again.contains("replaces nothing"), "{again}");
    first.act(&["delete"]);
    for (more, mode) in [
        ("", "Mapped"),
        (",memory_restore_mode=copy", "Copy"),
        (",prefault=on", "Mapped"),
        (",memory_restore_mode=ondemand", "OnDemand"),
    ] {
        let second = restore(&first, &folder, more);
        let about = info(&second);
        assert_eq!(about["state"], "Paused");
        assert_eq!(about["memory_restore_mode"], mode);
        assert_eq!(first.printed(), 0, "it stands still");
        second.act(&["resume"]);
        let printed = wait_for(&first, 20);
        check(&printed, Some(last));
        second.act(&["reboot"]);
        second.end();
    }
    // The second generation, of memory that is private over the first one's file.
    let second = restore(&first, &folder, ",resume=on");
    assert_eq!(second.state(), "Running");
    wait_for(&first, 20);
    second.act(&["pause"]);
    let next = first.path("next");
    fs::create_dir(&next).unwrap();
    second.act(&["snapshot", &format!("file://{next}")]);
    let printed = fs::read(first.path("debug")).unwrap();
    let odd = printed.len() % 2;
    last = check(&printed[..printed.len() - odd], Some(last));
    second.end();
    let third = restore(&first, &next, ",resume=on");
    let printed = wait_for(&first, 20 + odd);
    let begin = if odd == 1 {
        assert_eq!(printed[0], last.wrapping_add(1));
        last = printed[0];
        1
    } else {
        0
    };
    check(&printed[begin..], Some(last));
    third.end();
    first.end();
}

/// Pauses the guest between two pairs and saves it; what it printed last.
fn save(monitor: &Monitor, folder: &str) -> u8 {
    loop {
        monitor.wait_printed(20);
        monitor.act(&["pause"]);
        let printed = fs::read(monitor.path("debug")).unwrap();
        if printed.len().is_multiple_of(2) {
            fs::create_dir(folder).unwrap();
            monitor.act(&["snapshot", &format!("file://{folder}")]);
            return check(&printed, None);
        }
        monitor.act(&["resume"]);
    }
}

#[test]
fn what_cannot_be_saved_or_restored_is_refused_and_leaves_nothing() {
    let monitor = Monitor::boot(counter());
    let folder = monitor.path("saved");
    let url = format!("file://{folder}");
    assert!(monitor.refused(&["snapshot", &url]).contains("not paused"));
    monitor.act(&["pause"]);
    assert!(
        monitor
            .refused(&["snapshot", &url])
            .contains("cannot create")
    );
    assert!(
        monitor
            .refused(&["snapshot", "tcp://h:1"])
            .contains("file:///")
    );
    fs::create_dir(&folder).unwrap();
    monitor.act(&["snapshot", &url]);
    monitor.act(&["delete"]);
    let source = format!("source_url={url}");
    let refused = |more: &str| monitor.refused(&["restore", &format!("{source}{more}")]);
    let both = format!("{source},memory_restore_mode=ondemand,prefault=on");
    assert!(monitor.remote(&["restore", &both]).err.contains("prefault"));
    let config = format!("{folder}/config.json");
    let whole = fs::read(&config).unwrap();
    fs::write(&config, &whole[1..]).unwrap();
    assert!(refused("").contains("damaged"));
    fs::write(&config, &whole).unwrap();
    monitor.act(&["restore", &source]);
    assert!(refused("").contains("there is a VM already"));
    monitor.act(&["resume"]);
    monitor.wait_printed(20);
    monitor.end();
}

/// Where the guest finds the id that tells its machine from copies.
const GENERATION_ID: u32 = 0xe_f000;

/// Prints the id for ever.
fn identity() -> Payload {
    Payload::new().forever(|payload| {
        (0..4)
            .fold(payload, |payload, word| {
                payload
                    .read_u32(GENERATION_ID + 4 * word)
                    .out_eax_bytes(0xe9)
            })
            .spin(2000)
    })
}

/// Pauses the guest between two ids: where one is cut, all after it seem to be others.
/// It prints to the debug console of `console`.
fn pause_between(monitor: &Monitor, console: &Monitor) {
    loop {
        monitor.act(&["pause"]);
        if console.printed().is_multiple_of(16) {
            return;
        }
        monitor.act(&["resume"]);
    }
}

/// The last id that the guest has printed as a whole since now.
fn generation(monitor: &Monitor) -> [u8; 16] {
    let before = monitor.printed();
    monitor.wait_printed(before + 48);
    let printed = fs::read(monitor.path("debug")).unwrap();
    *printed.as_chunks::<16>().0.last().unwrap()
}

#[test]
fn a_copy_has_a_generation_id_of_its_own_and_keeps_it() {
    let first = Monitor::boot(identity());
    let id = generation(&first);
    assert_ne!(id, [0; 16]);
    first.act(&["pause"]);
    first.act(&["resume"]);
    assert_eq!(generation(&first), id);
    pause_between(&first, &first);
    first.act(&["reboot"]);
    assert_eq!(generation(&first), id, "a reset makes no other machine");
    pause_between(&first, &first);
    let folder = first.path("saved");
    fs::create_dir(&folder).unwrap();
    first.act(&["snapshot", &format!("file://{folder}")]);
    first.act(&["delete"]);
    let mut seen = vec![id];
    for _ in 0..2 {
        let copy = restore(&first, &folder, ",resume=on");
        let id = generation(&first);
        assert!(!seen.contains(&id), "{seen:?}");
        seen.push(id);
        pause_between(&copy, &first);
        copy.act(&["reboot"]);
        assert_eq!(generation(&first), id);
        copy.end();
    }
    first.end();
}
