//! Machines that are made of one that goes on.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::payload::Payload;

use crate::monitor::Monitor;

/// Words of memory, far from the program: a counter, and where the guest's kind is.
const COUNTER: u32 = 0x0200_0000;
/// Where the guest finds the id that tells its machine from copies.
const GENERATION_ID: u32 = 0xe_f000;
/// Bytes of what the guest prints in one turn.
const TURN: usize = 8;

/// Counts in memory; prints the first word of the generation id and the count, for ever.
fn counter() -> Payload {
    Payload::new().forever(|payload| {
        payload
            .raw(&[0xff, 0x05]) // inc dword [COUNTER]
            .raw(&COUNTER.to_le_bytes())
            .read_u32(GENERATION_ID)
            .out_eax_bytes(0xe9)
            .read_u32(COUNTER)
            .out_eax_bytes(0xe9)
            .spin(2000)
    })
}

/// What a guest has printed, in whole turns: generation and count. `skip`: bytes of a turn that began in another
/// machine.
fn turns(monitor: &Monitor, skip: usize) -> Vec<(u32, u32)> {
    let printed = fs::read(monitor.path("debug")).unwrap();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let turns = printed[skip..].chunks_exact(TURN);
    turns
        .map(|turn| (word(&turn[..4]), word(&turn[4..])))
        .collect()
}

/// The turns of a child of a parent that ran, which may have begun one: those that go up by one.
fn whole_turns(child: &Monitor) -> Vec<(u32, u32)> {
    let ascend = |turns: &[(u32, u32)]| {
        let mut pairs = turns.windows(2);
        pairs.all(|pair| pair[1] == (pair[0].0, pair[0].1.wrapping_add(1)))
    };
    let mut ways = (TURN..2 * TURN).map(|skip| turns(child, skip));
    ways.find(|turns| turns.len() > 1 && ascend(turns)).unwrap()
}

/// A machine with shared memory that has printed something.
fn parent(memory: &Value) -> Monitor {
    parent_of(counter(), memory)
}

fn parent_of(payload: Payload, memory: &Value) -> Monitor {
    let parent = Monitor::start();
    let path = parent.machine(payload);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["memory"] = memory.clone();
    fs::write(&path, config.to_string()).unwrap();
    parent.act(&["create", &path]);
    parent.act(&["boot"]);
    parent.wait_printed(10 * TURN);
    parent
}

fn shared() -> Value {
    json!({"size": 64 << 20, "shared": true})
}

/// Forks into these monitors, each of which has a debug console of its own; the answer.
fn fork(parent: &Monitor, children: &[&Monitor], more: &[&str]) -> Value {
    let devices: Vec<Value> = children
        .iter()
        .map(|child| json!({"__debug_console": {"file": child.path("debug")}}))
        .collect();
    let path = parent.path("devices.json");
    fs::write(&path, Value::from(devices).to_string()).unwrap();
    let sockets: Vec<String> = children
        .iter()
        .map(|child| child.socket().display().to_string())
        .collect();
    let mut words = vec!["fork", "--devices", &path];
    words.extend(more);
    words.extend(sockets.iter().map(String::as_str));
    parent.remote(&words).json()
}

fn mode(monitor: &Monitor) -> Value {
    monitor.remote(&["info"]).json()["memory_restore_mode"].clone()
}

/// Pauses it between two turns.
fn pause(monitor: &Monitor) {
    loop {
        monitor.act(&["pause"]);
        if monitor.printed().is_multiple_of(TURN) {
            return;
        }
        monitor.act(&["resume"]);
    }
}

/// All counts go up by one, and all turns have one generation, which is given with the last count.
fn check(turns: &[(u32, u32)]) -> (u32, u32) {
    assert!(turns.len() > 2, "{turns:?}");
    for pair in turns.windows(2) {
        assert_eq!(pair[1], (pair[0].0, pair[0].1 + 1));
    }
    turns[turns.len() - 1]
}

#[test]
fn children_go_on_where_the_parent_was_and_see_nothing_of_each_other() {
    let parent = parent(&shared());
    pause(&parent);
    let (id, last) = check(&turns(&parent, 0));
    let children = [Monitor::start(), Monitor::start()];
    let answer = fork(&parent, &[&children[0], &children[1]], &["--resume"]);
    assert_eq!(answer, json!({"memory_mode": "Frozen", "pause_us": 0}));
    assert_eq!(parent.state(), "Paused");
    // The parent has not run since: what is frozen serves once more.
    let late = Monitor::start();
    fork(&parent, &[&late], &[]);
    assert_eq!((late.state(), late.printed()), ("Paused".into(), 0));
    parent.act(&["resume"]);
    late.act(&["resume"]);
    let mut generations = vec![id];
    for child in children.iter().chain([&late]) {
        child.wait_printed(100 * TURN);
        let turns = turns(child, 0);
        assert_eq!(turns[0].1, last + 1, "as if it were the parent");
        generations.push(check(&turns).0);
        assert_eq!(mode(child), "Forked");
    }
    parent.wait_printed(parent.printed() + 100 * TURN);
    assert_eq!(check(&turns(&parent, 0)).0, id);
    assert_eq!(mode(&parent), "Forked");
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 4, "{generations:x?}");
    // All of them are machines as any other.
    for child in children.into_iter().chain([late]) {
        child.act(&["reboot"]);
        assert_eq!(mode(&child), Value::Null);
        child.end();
    }
    parent.end();
}

#[test]
fn a_parent_that_runs_stands_still_for_a_moment_and_can_be_forked_again() {
    let parent = parent(&shared());
    let child = Monitor::start();
    let answer = fork(&parent, &[&child], &["--resume"]);
    assert_eq!(answer["memory_mode"], "Frozen");
    let stood = answer["pause_us"].as_u64().unwrap();
    assert!((1..1_000_000).contains(&stood), "{answer}");
    child.wait_printed(10 * TURN);
    // It has run since, and is copied as a whole if that is asked for.
    let other = Monitor::start();
    let answer = fork(&parent, &[&other], &["--memory", "copied", "--resume"]);
    assert_eq!(answer["memory_mode"], "Copied");
    other.wait_printed(10 * TURN);
    // A child can be saved as well.
    child.act(&["pause"]);
    let folder = child.path("saved");
    fs::create_dir(&folder).unwrap();
    child.act(&["snapshot", &format!("file://{folder}")]);
    pause(&parent);
    check(&turns(&parent, 0));
    for monitor in [other, child, parent] {
        monitor.end();
    }
}

#[test]
fn a_parent_that_runs_is_forked_ten_times_and_so_are_its_children() {
    let parent = parent(&shared());
    // More than there can be layers: some of them become one.
    let children: Vec<Monitor> = (0..10)
        .map(|_| {
            let child = Monitor::start();
            let before = parent.printed() / TURN;
            let answer = fork(&parent, &[&child], &["--resume"]);
            assert_eq!(answer["memory_mode"], "Frozen");
            parent.wait_printed(parent.printed() + 10 * TURN);
            child.wait_printed(10 * TURN);
            let counts = whole_turns(&child);
            assert!(counts[0].1 as usize >= before, "{counts:?} after {before}");
            child
        })
        .collect();
    // A child of a child of a child, of one that runs, and of one that is paused.
    let mut line = vec![children.into_iter().next_back().unwrap()];
    for number in 0..3 {
        let child = Monitor::start();
        let before = &line[line.len() - 1];
        if number == 1 {
            pause(before);
        }
        let (_, last) = *whole_turns(before).last().unwrap();
        fork(before, &[&child], &["--resume"]);
        child.wait_printed(20 * TURN);
        let counts = whole_turns(&child);
        assert!(counts[0].1 >= last, "{counts:?} after {last}");
        line.push(child);
    }
    pause(&parent);
    check(&turns(&parent, 0));
    for monitor in line.into_iter().chain([parent]) {
        monitor.end();
    }
}

#[test]
fn what_cannot_be_forked_is_refused_and_the_parent_goes_on() {
    let parent = parent(&json!({"size": 64 << 20}));
    let child = Monitor::start();
    let socket = child.socket().display().to_string();
    let refused = |words: &[&str]| parent.refused(&[&["fork"], words].concat());
    assert!(refused(&[&socket]).contains("--memory shared=on"));
    let copied = refused(&["--memory", "copied", &socket]);
    assert!(copied.contains("device __debug_console"), "{copied}");
    let nobody = parent.path("nobody");
    let devices = parent.path("devices.json");
    let own = json!([{"__debug_console": {"file": parent.path("other")}}]);
    fs::write(&devices, own.to_string()).unwrap();
    let words = ["--memory", "copied", "--devices", &devices];
    let unreachable = refused(&[&words[..], &[&nobody]].concat());
    assert!(unreachable.contains("cannot reach"), "{unreachable}");
    // A monitor that has a VM takes no other one.
    child.act(&["create", &child.machine(counter())]);
    let taken = refused(&[&words[..], &[&socket]].concat());
    assert!(taken.contains("there is a VM already"), "{taken}");
    assert!(!Path::new(&parent.path("other")).exists());
    parent.wait_printed(parent.printed() + 10 * TURN);
    check(&turns(&parent, 0));
    child.end();
    parent.end();
}

/// Pages that every machine writes its own generation id to.
const PAGES: u32 = 64;

/// Writes the first word of the generation id to each of some pages, reads all of them again, and prints the word, or
/// 0 if one of them had another; for ever.
fn owner() -> Payload {
    let begin = |payload: Payload| {
        payload
            .raw(&[0xbf]) // mov edi, COUNTER
            .raw(&COUNTER.to_le_bytes())
            .raw(&[0xb9]) // mov ecx, PAGES
            .raw(&PAGES.to_le_bytes())
    };
    Payload::new().forever(|payload| {
        let written = begin(payload.read_u32(GENERATION_ID))
            .raw(&[0x89, 0x07]) // 1: mov [edi], eax
            .raw(&[0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]) // add edi, 4096
            .raw(&[0xe2, 0xf6]) // loop 1b
            .spin(2000);
        begin(written)
            .raw(&[0x39, 0x07]) // 2: cmp [edi], eax
            .raw(&[0x74, 0x02]) // je 3f
            .raw(&[0x31, 0xc0]) // xor eax, eax
            .raw(&[0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]) // 3: add edi, 4096
            .raw(&[0xe2, 0xf2]) // loop 2b
            .out_eax_bytes(0xe9)
    })
}

/// The words that a guest has printed.
fn words(monitor: &Monitor) -> Vec<u32> {
    let printed = fs::read(monitor.path("debug")).unwrap();
    let words = printed.as_chunks::<4>().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

#[test]
fn twenty_children_at_once_write_the_same_pages_and_find_only_their_own() {
    let parent = parent_of(owner(), &shared());
    pause(&parent);
    let id = words(&parent)[0];
    let children: Vec<Monitor> = (0..20).map(|_| Monitor::start()).collect();
    let all: Vec<&Monitor> = children.iter().collect();
    let answer = fork(&parent, &all, &["--resume"]);
    assert_eq!(answer["memory_mode"], "Frozen");
    parent.act(&["resume"]);
    let mut ids = vec![id];
    for child in &children {
        child.wait_printed(40 * 4);
        let printed = words(child);
        // In the first turn it has the parent's word in a register.
        assert!(printed[1] != 0 && printed[1..].iter().all(|word| *word == printed[1]));
        assert!([id, printed[1]].contains(&printed[0]), "{printed:x?}");
        ids.push(printed[1]);
    }
    parent.wait_printed(parent.printed() + 40 * 4);
    assert!(words(&parent).iter().all(|word| *word == id));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 21, "{ids:x?}");
    for child in children {
        child.end();
    }
    parent.end();
}

#[test]
fn the_client_starts_monitors_for_children() {
    let parent = parent(&shared());
    let devices = parent.path("devices.json");
    let own = json!([{"__debug_console": {"file": parent.path("other")}}]);
    fs::write(&devices, own.to_string()).unwrap();
    let socket = parent.path("child");
    let words = [
        "fork",
        "--start",
        "--resume",
        "--devices",
        &devices,
        &socket,
    ];
    assert_eq!(parent.remote(&words).json()["memory_mode"], "Frozen");
    let said = crate::monitor::alone(&["--api-socket", &socket, "info"]);
    assert_eq!(said.json()["state"], "Running");
    let said = crate::monitor::alone(&["--api-socket", &socket, "shutdown-vmm"]);
    assert_eq!(said.code, 0, "{said:?}");
    parent.end();
}
