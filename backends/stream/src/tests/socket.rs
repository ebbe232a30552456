use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Console, assert_same, chain, console, pattern, read_exactly, start};
use crate::ring::Ring;
use crate::{Endpoint, Error, Stream};

struct Fixture {
    console: Console,
    path: PathBuf,
    _folder: TempDir,
}

fn fixture(room: usize) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial.sock");
    let console = console(&Endpoint::Socket(path.clone()), room);
    Fixture {
        console,
        path,
        _folder: folder,
    }
}

impl Fixture {
    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client
    }

    fn print(&self, bytes: &[u8]) {
        self.console.output.clone().write_all(bytes).unwrap();
    }
}

/// Ends a client's connection for good. Dropping it is not enough: another test that starts a process
/// at this moment has a copy of every descriptor in the child until that calls execve(2), and as
/// long as a copy is open the client has not left.
fn leave(client: UnixStream) {
    client.shutdown(Shutdown::Both).unwrap();
    drop(client);
}

#[test]
fn keeps_output_until_a_client_connects_and_for_the_next() {
    let fixture = fixture(0);
    for round in 0..5 {
        let text = pattern(100_000 + round);
        for part in text.chunks(333) {
            fixture.print(part);
        }
        // What is printed while nobody is known to be there goes to the next client. To see that
        // this one left takes the worker a moment.
        let client = fixture.connect();
        assert_same(&read_exactly(&client, text.len()), &text);
        fixture.print(b"live");
        assert_same(&read_exactly(&client, 4), b"live");
        leave(client);
    }
    assert_eq!(fixture.console.output.dropped(), 0);
}

#[test]
fn a_client_that_does_not_read_never_blocks_the_guest_and_gets_the_newest_later() {
    let fixture = fixture(0);
    let mut client = fixture.connect();
    fixture.print(b"!");
    read_exactly(&client, 1);
    let text = pattern(4 << 20);
    let start = Instant::now();
    for part in text.chunks(4096) {
        fixture.print(part);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );

    let dropped = usize::try_from(fixture.console.output.dropped()).unwrap();
    let mut found = vec![0; text.len() - dropped];
    client.read_exact(&mut found).unwrap();
    // What the socket's own buffer took at first, a gap, and then the newest in full.
    let (first, newest) = found.split_at(found.len() - Ring::CAPACITY);
    assert_same(newest, &text[text.len() - Ring::CAPACITY..]);
    assert_same(first, &text[..first.len()]);
    assert!(dropped > 2 << 20, "{dropped}");
}

#[test]
fn refuses_a_second_client_and_takes_the_next_after_the_first_left() {
    let fixture = fixture(100);
    let mut first = fixture.connect();
    first.write_all(b"a").unwrap();
    fixture.console.typed.wait_for(b"a");
    let mut second = fixture.connect();
    assert_eq!(second.read(&mut [0; 8]).unwrap(), 0, "closed");
    fixture.print(b"still yours");
    assert_same(&read_exactly(&first, 11), b"still yours");

    let mut typed = b"a".to_vec();
    for _ in 0..50 {
        leave(first);
        // At once: the worker may hear of this client before it hears that the other left.
        first = fixture.connect();
        first.write_all(b"b").unwrap();
        typed.push(b'b');
        fixture.console.typed.wait_for(&typed);
    }
    fixture.print(b"to the last");
    assert_same(&read_exactly(&first, 11), b"to the last");
}

#[test]
fn a_client_that_is_done_typing_still_reads() {
    let fixture = fixture(100);
    let client = fixture.connect();
    (&client).write_all(b"ls\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    fixture.console.typed.wait_for(b"ls\n");
    std::thread::sleep(Duration::from_millis(20));
    fixture.print(b"bin etc\n");
    assert_same(&read_exactly(&client, 8), b"bin etc\n");
}

#[test]
fn lines_of_clients_that_left_reach_a_slow_guest_in_order() {
    let fixture = fixture(0);
    for line in ["first\n", "second\n", "third\n"] {
        let mut client = fixture.connect();
        client.write_all(line.as_bytes()).unwrap();
        leave(client);
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut last = fixture.connect();
    last.write_all(b"fourth\n").unwrap();
    for _ in 0..26 {
        fixture.console.typed.make_room(1);
        fixture.console.resume.signal();
        std::thread::sleep(Duration::from_micros(300));
    }
    fixture
        .console
        .typed
        .wait_for(b"first\nsecond\nthird\nfourth\n");
}

#[test]
fn a_slow_guest_makes_the_client_wait_and_loses_nothing() {
    let fixture = fixture(16);
    let text = pattern(500_000);
    let client = fixture.connect();
    client.set_nonblocking(true).unwrap();
    let (mut sent, mut had_to_wait) = (0, false);
    let deadline = Instant::now() + Duration::from_secs(30);
    while fixture.console.typed.bytes().len() < text.len() {
        assert!(Instant::now() < deadline);
        if sent < text.len() {
            match (&client).write(&text[sent..]) {
                Ok(length) => sent += length,
                Err(_) => had_to_wait = true,
            }
        }
        fixture.console.typed.make_room(3000);
        fixture.console.resume.signal();
        std::thread::yield_now();
    }
    assert!(had_to_wait);
    assert_same(&fixture.console.typed.bytes(), &text);
}

#[test]
fn a_client_stays_over_a_stop_and_start() {
    let mut fixture = fixture(100);
    let mut client = fixture.connect();
    client.write_all(b"one").unwrap();
    fixture.console.typed.wait_for(b"one");
    let worker = fixture.console.task.stop().unwrap();
    client.write_all(b"two").unwrap();
    let mut waiting = UnixStream::connect(&fixture.path).unwrap();
    fixture.console.output.write_all(b"out").unwrap();
    fixture.console.task = start(worker);
    fixture.console.typed.wait_for(b"onetwo");
    assert_same(&read_exactly(&client, 3), b"out");
    assert_eq!(waiting.read(&mut [0; 8]).unwrap(), 0, "refused");
}

#[test]
fn is_for_the_user_alone_and_gone_afterwards() {
    let fixture = fixture(0);
    let metadata = fs::metadata(&fixture.path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let client = fixture.connect();
    let path = fixture.path.clone();
    fixture.console.task.stop().unwrap();
    assert!(!path.exists());
    leave(client);
}

#[test]
fn replaces_what_a_dead_process_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let console = console(&Endpoint::Socket(path.clone()), 9);
    UnixStream::connect(&path)
        .unwrap()
        .write_all(b"hello")
        .unwrap();
    console.typed.wait_for(b"hello");
}

#[test]
fn refuses_a_socket_in_use_and_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    let listener = UnixListener::bind(&path).unwrap();
    let error = Stream::open(&Endpoint::Socket(path.clone())).unwrap_err();
    assert!(matches!(error, Error::SocketInUse { .. }), "{error:?}");
    let text = chain(&error);
    assert!(
        text.contains("socket=") && text.contains(path.to_str().unwrap()),
        "{text}"
    );
    listener.accept().unwrap(); // the probe
    UnixStream::connect(&path).unwrap();
}

#[test]
fn refuses_what_is_not_a_socket_and_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thesis.txt");
    fs::write(&path, "precious").unwrap();
    let error = Stream::open(&Endpoint::Socket(path.clone())).unwrap_err();
    assert!(matches!(error, Error::NotASocket { .. }), "{error:?}");
    assert!(error.to_string().contains("socket="), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let error = Stream::open(&Endpoint::Socket(link)).unwrap_err();
    assert!(matches!(error, Error::NotASocket { .. }), "{error:?}");
}

#[test]
fn says_why_a_path_cannot_be_had() {
    for path in [
        "/no/such/folder/s".to_owned(),
        format!("/tmp/{}", "x".repeat(120)),
    ] {
        let error = Stream::open(&Endpoint::Socket(path.clone().into())).unwrap_err();
        let text = chain(&error);
        assert!(text.contains("socket=") && text.contains(&path), "{text}");
        assert!(matches!(error, Error::Socket { .. }), "{error:?}");
    }
}

#[test]
fn a_device_that_only_prints_throws_input_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("debug.sock");
    let stream = Stream::open(&Endpoint::Socket(path.clone())).unwrap();
    let (mut output, worker) = stream.output_only().unwrap();
    let _task = reactor::Task::spawn("debug", sandbox::Filter::none(), worker.unwrap()).unwrap();
    output.write_all(b"trace").unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&pattern(1 << 20)).unwrap();
    assert_same(&read_exactly(&client, 5), b"trace");
}
