use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::super::stamped;
use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A monitor that writes to a pipe.
fn piped() -> (Monitor, io::PipeReader) {
    let (read, write) = io::pipe().unwrap();
    let monitor = Monitor::start(File::from(OwnedFd::from(write)), || Ok(())).unwrap();
    (monitor, read)
}

fn event(name: &'static str) -> Event {
    Event::new("vm", name, &[])
}

/// Reads whole events until the pipe's other end is closed or `count` are there.
fn read_events(reader: &mut impl Read, count: usize) -> Vec<serde_json::Value> {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while text.matches("\n\n").count() < count {
        let length = reader.read(&mut chunk).unwrap();
        assert!(length > 0, "the stream ended early");
        text.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
    }
    text.split_terminator("\n\n")
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn nanoseconds(event: &serde_json::Value) -> u128 {
    let part = |name: &str| event["timestamp"][name].as_u64().unwrap();
    u128::from(part("secs")) * 1_000_000_000 + u128::from(part("nanos"))
}

#[test]
fn two_threads_lose_nothing_and_time_never_goes_back() {
    let (monitor, mut reader) = piped();
    let send = |name| {
        (0..400).for_each(|_| stamped(event(name), |event| monitor.send(event)));
    };
    let events = thread::scope(|scope| {
        scope.spawn(|| send("booting"));
        scope.spawn(|| send("booted"));
        read_events(&mut reader, 800)
    });
    assert!(monitor.flush(LONG));
    for name in ["booting", "booted"] {
        assert_eq!(
            events.iter().filter(|event| event["event"] == name).count(),
            400
        );
    }
    assert!(events.is_sorted_by_key(nanoseconds));
}

#[test]
fn a_reader_that_sleeps_holds_nobody_up_and_the_bound_holds() {
    let (monitor, mut reader) = piped();
    // Far more than the pipe's 64 KiB and the queue.
    let start = Instant::now();
    for _ in 0..10_000 {
        monitor.send(event("resizing"));
    }
    assert!(start.elapsed() < LONG);
    assert!(
        !monitor.flush(Duration::from_millis(20)),
        "cannot be written yet"
    );
    let (waiting, lost) = {
        let state = monitor.shared.lock();
        (state.queue.len(), state.lost)
    };
    assert!(waiting <= CAPACITY);
    assert!(lost > 5000, "{lost}");

    // What was not lost comes when the reader does, whole and in order.
    let expected = 10_000 - usize::try_from(lost).unwrap();
    let events = read_events(&mut reader, expected);
    assert_eq!(events.len(), expected);
    assert!(events.is_sorted_by_key(nanoseconds));
    assert!(monitor.flush(LONG));
    assert_eq!(monitor.shared.lock().queue.len(), 0);
}

#[test]
fn a_reader_that_is_gone_ends_it_quietly() {
    let (monitor, reader) = piped();
    drop(reader);
    monitor.send(event("booting"));
    assert!(!monitor.flush(LONG), "false: it was not written");
    for _ in 0..10_000 {
        monitor.send(event("booted"));
    }
    assert!(monitor.shared.lock().queue.is_empty());
    assert!(!monitor.flush(LONG));
}

#[test]
fn flushing_nothing_takes_no_time() {
    let (monitor, _reader) = piped();
    assert!(monitor.flush(Duration::ZERO));
}

#[test]
fn the_thread_is_prepared_before_it_works() {
    let (read, write) = io::pipe().unwrap();
    let (sender, receiver) = mpsc::channel();
    let prepare = move || {
        let name = thread::current().name().map(ToOwned::to_owned);
        sender.send(name).map_err(io::Error::other)
    };
    let sink = File::from(OwnedFd::from(write.try_clone().unwrap()));
    Monitor::start(sink, prepare).unwrap();
    assert_eq!(
        receiver.try_recv().unwrap().as_deref(),
        Some("event-monitor")
    );
    let flags = fcntl_getfl(&write).unwrap();
    assert!(flags.contains(OFlags::NONBLOCK));

    let failing = || Err(io::Error::other("no filter"));
    let error = Monitor::start(File::from(OwnedFd::from(write)), failing).unwrap_err();
    assert!(matches!(&error, Error::Thread(cause) if cause.to_string() == "no filter"));
    drop(read);
}
