//! Tests of sources without a task.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Interest, Kick, Readiness, Sources, Timer, Token};

#[test]
fn the_loops_own_token_and_files_that_are_always_ready_are_refused() {
    let mut sources = Sources::new().unwrap();
    let bell = Kick::new().unwrap();
    let refused = sources
        .add(&bell, Token(u64::MAX), Interest::READ)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    sources.add(&bell, Token(0), Interest::READ).unwrap();
    let refused = sources
        .modify(&bell, Token(u64::MAX), Interest::READ)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let refused = sources.add(&bell, Token(1), Interest::READ).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);

    let file = File::open("/dev/null").unwrap();
    let refused = sources.add(&file, Token(2), Interest::READ).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let refused = sources.remove(Kick::new().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

#[test]
fn tells_reading_writing_and_hang_up_apart() {
    let (reader, writer) = io::pipe().unwrap();
    let mut sources = Sources::new().unwrap();
    sources.add(&reader, Token(1), Interest::NONE).unwrap();
    sources.add(&writer, Token(2), Interest::WRITE).unwrap();
    let (token, ready) = sources.next().unwrap();
    assert_eq!(
        (token, ready),
        (
            Token(2),
            Readiness {
                write: true,
                ..Readiness::default()
            }
        )
    );

    io::Write::write_all(&mut &writer, b"last words").unwrap();
    sources.modify(&reader, Token(3), Interest::READ).unwrap();
    sources.remove(&writer).unwrap();
    let (token, ready) = sources.next().unwrap();
    assert_eq!(
        (token, ready),
        (
            Token(3),
            Readiness {
                read: true,
                ..Readiness::default()
            }
        )
    );

    drop(writer);
    let (token, ready) = sources.next().unwrap();
    assert_eq!(token, Token(3));
    assert!(ready.read && ready.hung_up && !ready.error);

    // A hang-up is told also to who is interested in nothing.
    sources.modify(&reader, Token(4), Interest::NONE).unwrap();
    let (_, ready) = sources.next().unwrap();
    assert!(ready.hung_up && !ready.read);
}

#[test]
fn a_kick_adds_up_its_rings_from_all_clones() {
    let bell = Kick::new().unwrap();
    assert_eq!(bell.take(), 0);
    let clone = bell.clone();
    bell.signal();
    clone.signal();
    clone.signal();
    assert_eq!(bell.take(), 3);
    assert_eq!(clone.take(), 0);
}

#[test]
fn a_full_kick_neither_blocks_nor_loses_its_ring() {
    let bell = Kick::new().unwrap();
    rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    bell.signal();
    assert_eq!(bell.take(), u64::MAX - 1);
}

#[test]
fn a_timer_expires_once_when_its_time_has_come() {
    let mut sources = Sources::new().unwrap();
    let timer = sources.add_timer(Token(5)).unwrap();
    assert_eq!(timer.take(), 0);
    let start = Instant::now();
    timer.set(Duration::from_millis(20)).unwrap();
    let (token, ready) = sources.next().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(token == Token(5) && ready.read);
    assert_eq!(timer.take(), 1);
    thread::sleep(Duration::from_millis(30));
    assert_eq!(timer.take(), 0);
}

#[test]
fn a_periodic_timer_counts_what_was_not_taken_until_cancelled() {
    let timer = Timer::new().unwrap();
    timer.set_periodic(Duration::from_millis(2)).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(timer.take() >= 20);
    thread::sleep(Duration::from_millis(10));
    timer.cancel().unwrap();
    assert_eq!(timer.take(), 0);
    thread::sleep(Duration::from_millis(10));
    assert_eq!(timer.take(), 0);
}

#[test]
fn a_timer_takes_the_shortest_and_longest_times() {
    let mut sources = Sources::new().unwrap();
    let timer = sources.add_timer(Token(0)).unwrap();
    timer.set(Duration::MAX).unwrap();
    assert_eq!(timer.take(), 0);
    timer.set(Duration::ZERO).unwrap();
    sources.next().unwrap();
    assert_eq!(timer.take(), 1);
}
