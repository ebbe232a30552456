use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::termios::{LocalModes, tcgetattr};

use super::{Console, assert_same, pattern, read_exactly, start, stopped_console, wait_until};
use crate::open::Source;
use crate::ring::Ring;
use crate::{Endpoint, Stream};

/// What a user's `screen` or `socat` does.
fn open_as_user(path: &Path) -> File {
    let flags = libc::O_NOCTTY;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

fn pty_console(room: usize) -> (Console, PathBuf) {
    let stream = Stream::open(&Endpoint::Pty).unwrap();
    let path = stream.path().unwrap().to_owned();
    let (output, worker, typed, resume) = stopped_console(stream, room);
    (
        Console {
            output,
            typed,
            resume,
            task: start(worker),
        },
        path,
    )
}

#[test]
fn is_raw_and_under_dev_pts() {
    let (_console, path) = pty_console(0);
    assert!(path.starts_with("/dev/pts"), "{path:?}");
    let mode = tcgetattr(open_as_user(&path)).unwrap();
    assert!(
        !mode
            .local_modes
            .intersects(LocalModes::ECHO | LocalModes::ICANON)
    );
}

#[test]
fn keeps_output_for_a_late_reader_and_for_the_next_one() {
    let (mut console, path) = pty_console(0);
    for round in 0..5 {
        let text = pattern(5000 + round);
        console.output.write_all(&text[..3000]).unwrap();
        console.output.write_all(&text[3000..]).unwrap();
        let mut user = open_as_user(&path);
        assert_same(&read_exactly(&user, text.len()), &text);
        console.output.write_all(b"live").unwrap();
        assert_same(&read_exactly(&mut user, 4), b"live");
        drop(user);
        // Printed before the worker knows that the user left, it goes to the kernel's buffer, and
        // from there to the next user all the same.
        console.output.write_all(b"gone?").unwrap();
        let user = open_as_user(&path);
        assert_same(&read_exactly(&user, 5), b"gone?");
    }
    assert_eq!(console.output.dropped(), 0);
    console.task.stop().unwrap();
}

#[test]
fn keeps_the_newest_megabyte_and_counts_the_rest() {
    let (mut console, path) = pty_console(0);
    let text = pattern(Ring::CAPACITY + 777_777);
    for part in text.chunks(1000) {
        console.output.write_all(part).unwrap();
    }
    assert_eq!(console.output.dropped(), 777_777);
    let found = read_exactly(open_as_user(&path), Ring::CAPACITY);
    assert_same(&found, &text[777_777..]);
}

#[test]
fn delivers_everything_to_a_slow_reader() {
    let (mut console, path) = pty_console(0);
    let mut user = open_as_user(&path);
    console.output.write_all(b"hello").unwrap();
    assert_same(&read_exactly(&user, 5), b"hello");

    let text = pattern(600_000);
    for part in text.chunks(617) {
        console.output.write_all(part).unwrap();
    }
    let mut found = Vec::new();
    let mut buffer = [0; 10_000];
    while found.len() < text.len() {
        let length = user.read(&mut buffer).unwrap();
        found.extend_from_slice(&buffer[..length]);
    }
    assert_same(&found, &text);
    assert_eq!(console.output.dropped(), 0);
}

#[test]
fn types_only_as_far_as_the_guest_has_room() {
    let (console, path) = pty_console(10);
    let mut user = open_as_user(&path);
    user.write_all(b"0123456789abcdefghij").unwrap();
    console.typed.wait_for(b"0123456789");
    std::thread::sleep(Duration::from_millis(20));
    console.typed.wait_for(b"0123456789");
    console.typed.make_room(5);
    console.resume.signal();
    console.typed.wait_for(b"0123456789abcde");
    console.typed.make_room(500);
    console.resume.signal();
    console.typed.wait_for(b"0123456789abcdefghij");
}

#[test]
fn what_a_user_typed_before_leaving_reaches_a_slow_guest() {
    // Sometimes the worker sees this user only when they have left already.
    let (console, path) = pty_console(0);
    open_as_user(&path).write_all(b"poweroff\r").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..9 {
        console.typed.make_room(1);
        console.resume.signal();
        std::thread::sleep(Duration::from_millis(1));
    }
    console.typed.wait_for(b"poweroff\r");

    // And the next user is heard after that.
    let mut user = open_as_user(&path);
    user.write_all(b"hi").unwrap();
    console.typed.make_room(2);
    console.resume.signal();
    console.typed.wait_for(b"poweroff\rhi");
}

#[test]
fn what_a_user_typed_who_came_and_went_during_a_stop_is_heard() {
    let (mut console, path) = pty_console(100);
    let worker = console.task.stop().unwrap();
    open_as_user(&path).write_all(b"reboot\r").unwrap();
    console.task = start(worker);
    console.typed.wait_for(b"reboot\r");
}

#[test]
fn a_user_stays_over_a_stop_and_start() {
    let (mut console, path) = pty_console(100);
    let mut user = open_as_user(&path);
    user.write_all(b"one").unwrap();
    console.typed.wait_for(b"one");

    let worker = console.task.stop().unwrap();
    user.write_all(b"two").unwrap();
    console.output.write_all(b"paused").unwrap();
    console.task = start(worker);
    console.typed.wait_for(b"onetwo");
    assert_same(&read_exactly(&user, 6), b"paused");
}

#[test]
fn a_user_who_comes_or_goes_during_a_stop_is_noticed() {
    let (mut console, path) = pty_console(100);
    let user = open_as_user(&path);
    console.output.write_all(b"1").unwrap();
    read_exactly(&user, 1);
    let worker = console.task.stop().unwrap();
    drop(user);
    console.task = start(worker);
    wait_until(|| !console.output.has_reader());

    let worker = console.task.stop().unwrap();
    console.output.write_all(b"2").unwrap();
    let user = open_as_user(&path);
    console.task = start(worker);
    assert_same(&read_exactly(&user, 1), b"2");
}

#[test]
fn works_without_news_of_openings() {
    let stream = Stream::open(&Endpoint::Pty).unwrap();
    let path = stream.path().unwrap().to_owned();
    let (output, input) = stream.split();
    let mut input = input.unwrap();
    let Source::Pty { pty, .. } = &mut input.0 else {
        unreachable!()
    };
    pty.openings = None;
    let mut output = output;
    output.write_all(b"late").unwrap();
    let typed = super::Typed::new(9);
    let worker = crate::InputWorker::new(input, typed.clone(), reactor::Kick::new().unwrap());
    let _task = start(worker);
    for text in [&b"late"[..], b"later"] {
        std::thread::sleep(Duration::from_millis(10));
        let user = open_as_user(&path);
        assert_same(&read_exactly(&user, text.len()), text);
        drop(user);
        wait_until(|| !output.has_reader());
        output.write_all(b"later").unwrap();
    }
}

#[test]
fn sleeps_while_nobody_has_it_open_and_while_a_user_is_silent() {
    let (console, path) = pty_console(0);
    drop(open_as_user(&path));
    let quiet = |what| {
        std::thread::sleep(Duration::from_millis(50));
        let before = switches();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(switches() - before, 0, "{what}");
    };
    // Both tests below must see this console's thread only.
    let worker = console.task.stop().unwrap();
    let task = reactor::Task::spawn("quiet-pty", sandbox::Filter::none(), worker).unwrap();
    quiet("nobody there");
    let mut user = open_as_user(&path);
    quiet("user silent");
    // The guest has no room: that there is something to read must not keep us busy, not even
    // when the user is gone.
    user.write_all(b"x").unwrap();
    quiet("no room");
    drop(user);
    quiet("no room and hung up");
    task.stop().unwrap();
}

/// How often the kernel has switched to the thread called "quiet-pty".
fn switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let status = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .find(|status| status.starts_with("Name:\tquiet-pty\n"))
        .expect("the thread runs");
    let count = |line: &str| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap();
    status
        .lines()
        .filter(|line| line.contains("ctxt_switches"))
        .map(count)
        .sum()
}
