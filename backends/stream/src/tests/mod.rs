//! Tests of whole streams, with real pseudo terminals, sockets and files.
//!
//! Workers run under the filter that the crate says they need, so one system call too many ends
//! the test.

mod file;
mod pty;
mod size;
mod socket;
mod syscalls;
mod terminal;
mod typed;

use std::io::Read;
use std::time::{Duration, Instant};

use reactor::{Kick, Task};
use sandbox::{COMMON, Filter, Mode};

use crate::{Endpoint, InputWorker, Output, SYSCALLS, Stream};
use typed::Typed;

/// A running console: what a device has of one.
struct Console {
    output: Output,
    typed: Typed,
    resume: Kick,
    task: Task<InputWorker<Typed>>,
}

/// Opens an endpoint and runs its worker, with a receiver that has `room`.
fn console(endpoint: &Endpoint, room: usize) -> Console {
    let (output, worker, typed, resume) = stopped_console(Stream::open(endpoint).unwrap(), room);
    Console {
        output,
        typed,
        resume,
        task: start(worker),
    }
}

fn stopped_console(stream: Stream, room: usize) -> (Output, InputWorker<Typed>, Typed, Kick) {
    let (output, input) = stream.split();
    let (typed, resume) = (Typed::new(room), Kick::new().unwrap());
    let worker = InputWorker::new(input.unwrap(), typed.clone(), resume.clone());
    (output, worker, typed, resume)
}

fn start(worker: InputWorker<Typed>) -> Task<InputWorker<Typed>> {
    sandbox::crash::install().unwrap(); // names a call that the filter forbids
    let filter = Filter::compile(Mode::Trap, &[COMMON, SYSCALLS]).unwrap();
    let task = Task::spawn("console", filter, worker).unwrap();
    assert!(task.wait_registered());
    task
}

/// Bytes whose order can be told: no two stretches of 16 are alike within 16 MiB.
fn pattern(length: usize) -> Vec<u8> {
    let line = |number: usize| format!("{number:015}\n").into_bytes();
    let mut bytes: Vec<u8> = (0..length.div_ceil(16)).flat_map(line).collect();
    bytes.truncate(length);
    bytes
}

fn read_exactly(mut from: impl Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

/// Compares without printing megabytes.
#[track_caller]
fn assert_same(found: &[u8], wanted: &[u8]) {
    if found != wanted {
        let at = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
        let near = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 40)]).into_owned()
        };
        panic!(
            "{} bytes found, {} wanted; they differ at {at}: {:?} for {:?}",
            found.len(),
            wanted.len(),
            near(found),
            near(wanted)
        );
    }
}

#[track_caller]
fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "nothing happened in 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The message of an error and of all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[test]
fn off_has_no_stream() {
    let error = Stream::open(&Endpoint::Off).unwrap_err();
    assert!(error.to_string().contains("\"off\""), "{error}");
}

#[test]
fn null_takes_everything_and_has_no_input() {
    let stream = Stream::open(&Endpoint::Null).unwrap();
    assert_eq!(stream.path(), None);
    let (mut output, input) = stream.split();
    std::io::Write::write_all(&mut output, &pattern(5 << 20)).unwrap();
    assert!(input.is_none());
    assert_eq!(output.dropped(), 0);
}
