//! Each thread's declared system calls are all it needs.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use sandbox::{COMMON, Filter, Mode, SPAWN};

use super::pattern;
use crate::{Endpoint, OPEN_SYSCALLS, OUTPUT_SYSCALLS, Stream};

#[test]
fn opening_needs_no_more_than_declared() {
    sandbox::crash::install().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let live = folder.path().join("live");
    let _listener = UnixListener::bind(&live).unwrap();
    let (file, fresh) = (folder.path().join("log"), folder.path().join("fresh"));

    let filter = Filter::compile(Mode::Trap, &[COMMON, OPEN_SYSCALLS, SPAWN]).unwrap();
    let opener = thread::spawn(move || {
        filter.apply().unwrap();
        for path in [fresh, stale] {
            Stream::open(&Endpoint::Socket(path)).unwrap();
        }
        Stream::open(&Endpoint::Socket(live)).unwrap_err();
        Stream::open(&Endpoint::Pty).unwrap();
        Stream::open(&Endpoint::File(file)).unwrap();
        Stream::open(&Endpoint::File("/dev/null".into())).unwrap();
        Stream::open(&Endpoint::Tty).unwrap();
    });
    opener.join().unwrap();
}

#[test]
fn printing_needs_no_more_than_declared() {
    sandbox::crash::install().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::File::open(fifo).unwrap()
    });
    let slow = Stream::open(&Endpoint::File(fifo)).unwrap().split().0;
    let mut reader = reader.join().unwrap();
    let (mut kept, _input) = Stream::open(&Endpoint::Pty).unwrap().split();

    let filter = Filter::compile(Mode::Trap, &[COMMON, OUTPUT_SYSCALLS]).unwrap();
    let printer = thread::spawn(move || {
        filter.apply().unwrap();
        let mut slow = slow;
        slow.write_all(&pattern(200_000)).unwrap();
        kept.write_all(&pattern(200_000)).unwrap();
    });
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    printer.join().unwrap();
    assert_eq!(all.len(), 200_000);
}
