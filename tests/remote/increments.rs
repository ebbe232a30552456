//! Snapshots that have only what was changed since another one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use testkit::payload::Payload;

use crate::monitor::{Monitor, alone};

/// Words of memory that the guest counts in, one in each of these pages.
const FIRST: u32 = 0x0200_0000;
const PAGES: u32 = 3;
const TURN: usize = 1 + PAGES as usize;

/// Counts in a register and in several pages, and prints all.
fn counter() -> Payload {
    Payload::new().forever(|payload| {
        let payload = payload.raw(&[0x43, 0x88, 0xd8]).out_al(0xe9); // inc ebx; mov al, bl
        let counted = (0..PAGES).fold(payload, |payload, page| {
            let word = FIRST + page * 0x2000;
            payload
                .raw(&[0xfe, 0x05]) // inc byte [word]
                .raw(&word.to_le_bytes())
                .read_u32(word)
                .out_al(0xe9)
        });
        counted.spin(2000)
    })
}

/// Pauses between two turns; what was printed last. All turns say one number, which goes up by one.
fn pause(monitor: &Monitor, printer: &Monitor, after: Option<u8>) -> u8 {
    loop {
        printer.wait_printed(10 * TURN);
        monitor.act(&["pause"]);
        let printed = fs::read(printer.path("debug")).unwrap();
        if printed.len().is_multiple_of(TURN) {
            let mut last = after.unwrap_or_else(|| printed[0].wrapping_sub(1));
            for turn in printed.chunks(TURN) {
                last = last.wrapping_add(1);
                assert!(
                    turn.iter().all(|byte| *byte == last),
                    "{turn:?}, not {last}"
                );
            }
            return last;
        }
        monitor.act(&["resume"]);
    }
}

fn snapshot<'a>(url: &'a str, base: &'a str) -> [&'a str; 4] {
    ["snapshot", url, "--base", base]
}

#[test]
fn a_chain_of_ten_goes_on_where_it_was_and_has_only_what_changed() {
    let first = Monitor::boot(counter());
    let folder = |number: u32| first.path(&format!("saved{number}"));
    let url = |number| format!("file://{}", folder(number));
    for number in 0..=10 {
        fs::create_dir(folder(number)).unwrap();
    }
    let mut last = pause(&first, &first, None);
    let early = first.refused(&snapshot(&url(1), &url(0)));
    assert!(early.contains("lies over no snapshot"), "{early}");
    first.act(&["snapshot", &url(0)]);
    first.act(&["delete"]);
    for number in 1..=10 {
        let next = Monitor::start();
        next.act(&[
            "restore",
            &format!("source_url={},resume=on", url(number - 1)),
        ]);
        last = pause(&next, &first, Some(last));
        if number == 2 {
            let other = next.refused(&snapshot(&url(number), &url(0)));
            assert!(
                other.contains("is not the snapshot that this VM"),
                "{other}"
            );
        }
        next.act(&snapshot(&url(number), &url(number - 1)));
        let memory = fs::metadata(format!("{}/memory-ranges", folder(number))).unwrap();
        assert_eq!(memory.len(), 64 << 20);
        let pages = memory.blocks() * 512 / 4096;
        assert!((u64::from(PAGES)..16).contains(&pages), "{pages} pages");
        next.end();
    }
    for more in [
        "",
        ",memory_restore_mode=copy",
        ",memory_restore_mode=ondemand",
    ] {
        let end = Monitor::start();
        end.act(&[
            "restore",
            &format!("source_url={},resume=on{more}", url(10)),
        ]);
        pause(&end, &first, Some(last));
        // As a whole again, which needs no other one.
        let whole = format!("{}{}", first.path("whole"), more.len());
        fs::create_dir(&whole).unwrap();
        end.act(&["snapshot", &format!("file://{whole}")]);
        let state = fs::read_to_string(format!("{whole}/state.json")).unwrap();
        assert!(state.contains("\"version\":1,\"config\""), "it has no base");
        end.end();
    }
    merged(&first, &url(10), last);
    // A chain with a gap is none.
    fs::remove_dir_all(folder(4)).unwrap();
    let other = Monitor::start();
    let gap = other.refused(&["restore", &format!("source_url={}", url(10))]);
    assert!(gap.contains("saved4"), "{gap}");
    other.end();
    first.end();
}

/// The chain as one, without a monitor, goes on as it does; and damage in the lowest of the chain is found.
fn merged(first: &Monitor, chain: &str, last: u8) {
    let folder = first.path("merged");
    let url = format!("file://{folder}");
    fs::create_dir(&folder).unwrap();
    let said = alone(&["merge-snapshot", chain, &url]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
    let checked = |url: &str| alone(&["check-snapshot", url]);
    let about = |url: &str, snapshots: u64| {
        let json = checked(url).json();
        assert_eq!(json["snapshots"], snapshots);
        assert_eq!(json["memory_bytes"], 64 << 20);
        assert_eq!(json["without_checksums"], serde_json::json!([]));
    };
    about(chain, 11);
    about(&url, 1);
    let again = alone(&["merge-snapshot", chain, &url]);
    assert!(again.err.contains("replaces nothing"), "{again:?}");
    let end = Monitor::start();
    end.act(&["restore", &format!("source_url={url},resume=on")]);
    pause(&end, first, Some(last));
    end.end();
    let lowest = format!("{}/memory-ranges", first.path("saved0"));
    let whole = fs::read(&lowest).unwrap();
    let place = whole.iter().position(|byte| *byte != 0).unwrap();
    let mut damaged = whole.clone();
    damaged[place] ^= 1;
    fs::write(&lowest, damaged).unwrap();
    let said = checked(chain);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("saved0/memory-ranges") && said.err.contains("damaged"),
        "{said:?}"
    );
    let other = Monitor::start();
    let refused = other.refused(&[
        "restore",
        &format!("source_url={chain},memory_restore_mode=copy"),
    ]);
    assert!(refused.contains("damaged"), "{refused}");
    other.end();
    fs::write(&lowest, whole).unwrap();
}
