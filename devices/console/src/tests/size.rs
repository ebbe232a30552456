//! The terminal's size.

use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::termios::{Winsize, tcsetwinsize};
use stream::ResizeListener;

use super::*;
use crate::size::{Size, Watch};

/// Field of the transport: the generation of the configuration fields (VIRTIO 1.3, 4.1.4.3).
const GENERATION: usize = 21;

fn field(driver: &Driver<'_>) -> (u64, u64) {
    (driver.field(0, 2), driver.field(2, 2))
}

/// All listeners of the process hear of a resize, and so of each other's: one such test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A console whose terminal has this many columns and 24 rows, and announces changes.
fn announced(bench: &Bench, columns: &Arc<AtomicU16>) -> OverPci<Terminal> {
    let size = Size::default();
    let measured = Arc::clone(columns);
    let listener = ResizeListener::new().unwrap();
    let watch = Watch::new(Some(listener), size.clone(), move || {
        (measured.load(Ordering::Acquire), 24)
    });
    let mut end = HostEnd::open(&Endpoint::Null).unwrap();
    end.typed = Typing::new(None, Some(watch)).unwrap();
    end.size = size;
    device_with(bench, end)
}

#[test]
fn is_unknown_without_a_terminal() {
    let bench = Bench::new();
    let _device = device(&bench, &Endpoint::Null);
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.field(0, 4), 0);
    assert_eq!(driver.field(4, 4), 0);
}

#[test]
fn of_the_monitors_own_terminal_follows_its_signal() {
    let _alone = alone();
    let bench = Bench::new();
    let columns = Arc::new(AtomicU16::new(80));
    let mut device = announced(&bench, &columns);
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.field(0, 4), 24 << 16 | 80);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    for wider in [132, 200, 40] {
        columns.store(wider, Ordering::Release);
        stream::announce_resize();
        bench.sent.wait(Driver::config_message());
        assert_eq!(field(&driver), (wider.into(), 24));
    }
    // Printing goes on beside it.
    queues[1].add(&[Part::Read(b"x")]);
    driver.kick(TRANSMIT);
    eventually(|| queues[1].used_index() == 1);
}

#[test]
fn that_did_not_change_is_not_announced() {
    let _alone = alone();
    let bench = Bench::new();
    let columns = Arc::new(AtomicU16::new(80));
    let mut device = announced(&bench, &columns);
    let driver = Driver::find(&bench, 1);
    let _queues = driver.start(0);
    bench.attend(&mut device);
    let generation = driver.common(GENERATION, 1);
    stream::announce_resize();
    device.stop().unwrap();
    device.start().unwrap();
    columns.store(81, Ordering::Release);
    stream::announce_resize();
    bench.sent.wait(Driver::config_message());
    assert_eq!(driver.common(GENERATION, 1), generation + 1);
}

#[test]
fn is_looked_at_after_a_pause() {
    let _alone = alone();
    let bench = Bench::new();
    let columns = Arc::new(AtomicU16::new(80));
    let mut device = announced(&bench, &columns);
    let driver = Driver::find(&bench, 1);
    let _queues = driver.start(0);
    bench.attend(&mut device);
    device.stop().unwrap();
    columns.store(100, Ordering::Release);
    device.start().unwrap();
    bench.sent.wait(Driver::config_message());
    assert_eq!(field(&driver), (100, 24));
}

#[test]
fn stays_with_the_host_end_when_the_machine_is_built_anew() {
    let _alone = alone();
    let bench = Bench::new();
    let columns = Arc::new(AtomicU16::new(80));
    let mut first = announced(&bench, &columns);
    let driver = Driver::find(&bench, 1);
    let _queues = driver.start(0);
    bench.attend(&mut first);
    first.stop().unwrap();
    let end = Box::new(first).leave().unwrap().downcast().unwrap();
    let mut second = device_with(&bench, *end);
    let driver = Driver::find(&bench, 1);
    assert_eq!(field(&driver), (80, 24));
    let _queues = driver.start(0);
    bench.attend(&mut second);
    columns.store(90, Ordering::Release);
    stream::announce_resize();
    bench.sent.wait(Driver::config_message());
    assert_eq!(field(&driver), (90, 24));
}

fn open_as_user(path: &str) -> File {
    use std::os::unix::fs::OpenOptionsExt;
    // Linux: O_NOCTTY.
    let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    options.open(path).unwrap()
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn of_a_pseudo_terminal_is_looked_at_while_it_has_a_user() {
    let bench = Bench::new();
    let mut device = device(&bench, &Endpoint::Pty);
    let driver = Driver::find(&bench, 1);
    let _queues = driver.start(0);
    bench.attend(&mut device);
    assert_eq!(field(&driver), (0, 0));
    let path = device.decided().unwrap()["file"].clone();
    let user = open_as_user(path.as_str().unwrap());
    // Before it is noticed that there is a user, or after: both are seen.
    resize(&user, 120, 30);
    eventually(|| field(&driver) == (120, 30));
    resize(&user, 60, 20);
    eventually(|| field(&driver) == (60, 20));
    bench.sent.wait(Driver::config_message());
    // The size stays when the user goes, and the next one's is looked at at once.
    drop(user);
    let user = open_as_user(path.as_str().unwrap());
    resize(&user, 61, 21);
    eventually(|| field(&driver) == (61, 21));
}

#[test]
fn is_watched_with_the_system_calls_that_are_declared() {
    sandbox::crash::install().unwrap();
    let bench = Bench::new();
    let sets = [sandbox::COMMON, Console::SYSCALLS.worker];
    let rules = Filter::compile(sandbox::Mode::Trap, &sets).unwrap();
    let end = HostEnd::open(&Endpoint::Pty).unwrap();
    let terminal = Terminal::new(end, "__console", &rules);
    let mut device = OverPci::new("console", terminal, bench.environment("__console")).unwrap();
    device.start().unwrap();
    let driver = Driver::find(&bench, 1);
    let _queues = driver.start(0);
    bench.attend(&mut device);
    let path = device.decided().unwrap()["file"].clone();
    let user = open_as_user(path.as_str().unwrap());
    resize(&user, 90, 25);
    eventually(|| field(&driver) == (90, 25));
}
