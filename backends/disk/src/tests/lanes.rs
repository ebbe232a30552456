//! Waiting, watching, draining and dropping.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;

fn tokens(events: &[Event]) -> Vec<u64> {
    let token = |event: &Event| match event {
        Event::Ready { token } => Some(*token),
        Event::Done { .. } => None,
    };
    events.iter().filter_map(token).collect()
}

/// Runs with a lane of each engine, through the page cache and around it.
fn each(test: impl Fn(&dyn Disk, &Path)) {
    for engine in ENGINES {
        for direct in [false, true] {
            let (_folder, path) = image(1 << 20);
            let options = OpenOptions {
                direct,
                ..options(&path, engine)
            };
            if let Some(disk) = open_for(&options, engine) {
                test(&*disk, &path);
            }
        }
    }
}

#[test]
fn a_readable_descriptor_is_told_again_until_it_is_not() {
    each(|disk, _| {
        let mut lane = disk.lane(4).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        let (other, mut other_there) = UnixStream::pair().unwrap();
        lane.watch(here.as_fd(), 5).unwrap();
        lane.watch(other.as_fd(), 6).unwrap();
        there.write_all(b"x").unwrap();
        let mut events = Vec::new();
        for _ in 0..3 {
            events.clear();
            lane.wait(&mut events).unwrap();
            assert_eq!(tokens(&events), [5]);
        }
        let mut byte = [0; 1];
        std::io::Read::read_exact(&mut &here, &mut byte).unwrap();
        other_there.write_all(b"y").unwrap();
        // What was asked for before the byte was taken may be told once more.
        let mut seen = Vec::new();
        while !seen.contains(&6) {
            events.clear();
            lane.wait(&mut events).unwrap();
            seen.extend(tokens(&events));
        }
        for _ in 0..3 {
            events.clear();
            lane.wait(&mut events).unwrap();
            assert_eq!(tokens(&events), [6]);
        }
    });
}

/// Also through a ring of the kernel's, which shows some of what is done only to whoever calls.
#[test]
fn whoever_looks_again_and_again_sees_all_that_a_wait_tells() {
    each(|disk, _| {
        let mut lane = disk.lane(4).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        lane.watch(here.as_fd(), 5).unwrap();
        let mut events = Vec::new();
        lane.poll(&mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
        there.write_all(b"x").unwrap();
        let operation = Operation::Discard {
            offset: 0,
            length: 4096,
        };
        lane.push(Request { tag: 7, operation });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let done = |events: &[Event]| {
            let done = |event: &Event| matches!(event, Event::Done { tag: 7, .. });
            events.iter().any(done) && tokens(events).contains(&5)
        };
        while !done(&events) {
            assert!(std::time::Instant::now() < deadline, "{events:?}");
            lane.poll(&mut events).unwrap();
        }
        assert_eq!(lane.in_flight(), 0);
    });
}

#[test]
fn a_wait_ends_when_another_thread_makes_a_descriptor_readable() {
    each(|disk, _| {
        let mut lane = disk.lane(4).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        lane.watch(here.as_fd(), 1).unwrap();
        let (ready, waits) = std::sync::mpsc::channel();
        let writer = thread::spawn(move || {
            waits.recv().unwrap();
            there.write_all(b"x").unwrap();
            there
        });
        ready.send(()).unwrap();
        let mut events = Vec::new();
        lane.wait(&mut events).unwrap();
        assert_eq!(tokens(&events), [1]);
        writer.join().unwrap();
    });
}

#[test]
fn draining_leaves_descriptors_alone_and_the_lane_usable_on_another_thread() {
    each(|disk, _| {
        let ram = ram();
        let mut lane = disk.lane(8).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        lane.watch(here.as_fd(), 9).unwrap();
        there.write_all(b"x").unwrap();
        // The watch is in the kernel's hands when the thread that asked for it ends.
        let mut lane = thread::spawn(move || {
            let mut events = Vec::new();
            lane.wait(&mut events).unwrap();
            assert_eq!(tokens(&events), [9]);
            lane
        })
        .join()
        .unwrap();
        for tag in 0..8 {
            push(
                &mut *lane,
                tag,
                read(tag * 4096, vectors(&ram, &[(tag * 4096, 4096)])),
            );
        }
        assert_eq!(lane.in_flight(), 8);
        let mut events = Vec::new();
        lane.drain(&mut events).unwrap();
        assert_eq!((events.len(), lane.in_flight()), (8, 0));
        assert!(tokens(&events).is_empty());
        let lane = thread::spawn(move || {
            let mut events = Vec::new();
            lane.wait(&mut events).unwrap();
            assert_eq!(tokens(&events), [9]);
            lane
        });
        drop(lane.join().unwrap());
    });
}

#[test]
fn a_watch_that_waited_on_a_thread_that_ended_goes_on() {
    each(|disk, _| {
        let mut lane = disk.lane(8).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        lane.watch(here.as_fd(), 9).unwrap();
        let ram = ram();
        let mut lane = thread::spawn(move || {
            // Arms the watch, and returns for the read.
            perform(&mut *lane, read(0, vectors(&ram, &[(0, 512)]))).unwrap();
            lane
        })
        .join()
        .unwrap();
        there.write_all(b"x").unwrap();
        let mut events = Vec::new();
        lane.wait(&mut events).unwrap();
        assert_eq!(tokens(&events), [9]);
    });
}

#[test]
fn dropping_a_lane_waits_for_what_is_under_way() {
    each(|disk, path| {
        let ram = ram();
        for begun in [false, true] {
            let mut lane = disk.lane(64).unwrap();
            let (here, mut there) = UnixStream::pair().unwrap();
            lane.watch(here.as_fd(), 1).unwrap();
            there.write_all(b"x").unwrap();
            let fill = if begun { 3 } else { 4 };
            for tag in 0..64 {
                let vectors = vectors(&ram, &[(tag * 8192 + 1, 8192)]);
                vectors.copy_from(&[fill; 8192]);
                push(&mut *lane, tag, write(tag * 8192, vectors));
            }
            if begun {
                lane.wait(&mut Vec::new()).unwrap();
            }
            drop(lane);
            assert!(std::fs::read(path).unwrap()[..64 * 8192] == [fill; 64 * 8192]);
        }
    });
}

#[test]
fn a_lane_takes_more_than_its_depth() {
    each(|disk, _| {
        let ram = ram();
        let mut lane = disk.lane(1).unwrap();
        for tag in 0..200 {
            push(
                &mut *lane,
                tag,
                read(tag * 512, vectors(&ram, &[(tag * 512, 512)])),
            );
        }
        let mut events = Vec::new();
        while lane.in_flight() > 0 {
            lane.wait(&mut events).unwrap();
        }
        assert_eq!(events.len(), 200);
        let mut bytes = vec![0; 200 * 512];
        ram.read(0, &mut bytes).unwrap();
        assert!(bytes == pattern(200 * 512));
    });
}

#[test]
fn nothing_to_wait_for_is_an_error_and_not_for_ever() {
    each(|disk, _| {
        let mut lane = disk.lane(1).unwrap();
        lane.wait(&mut Vec::new()).unwrap_err();
        lane.drain(&mut Vec::new()).unwrap();
        let file = File::open("/dev/null").unwrap();
        lane.watch(file.as_fd(), u64::MAX).unwrap_err();
    });
}

#[test]
fn vectors_come_back_as_they_went() {
    each(|disk, _| {
        let ram = ram();
        let mut lane = disk.lane(1).unwrap();
        push(
            &mut *lane,
            3,
            read(512, vectors(&ram, &[(1, 700), (5000, 324)])),
        );
        let mut events = Vec::new();
        lane.wait(&mut events).unwrap();
        let [
            Event::Done {
                tag: 3,
                result: Ok(()),
                vectors: Some(vectors),
            },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!((vectors.len(), vectors.as_raw().len()), (1024, 2));
    });
}

#[test]
fn discards_and_zeros_give_space_back_if_the_disk_is_sparse() {
    for engine in ENGINES {
        for sparse in [false, true] {
            let (_folder, path) = image(1 << 20);
            File::open(&path).unwrap().sync_all().unwrap();
            let options = OpenOptions {
                sparse,
                ..options(&path, engine)
            };
            let Some(disk) = open_for(&options, engine) else {
                continue;
            };
            assert_eq!(
                (disk.can_discard(), disk.can_write_zeroes()),
                (sparse, true)
            );
            let blocks = || std::fs::metadata(&path).unwrap().blocks();
            let full = blocks();
            let mut lane = disk.lane(4).unwrap();
            let (offset, length) = (1 << 18, 1 << 18);
            let discard = Operation::Discard { offset, length };
            perform(&mut *lane, discard).unwrap();
            assert_eq!(blocks() <= full - 512, sparse);
            for (part, unmap) in [(2, false), (3, true)] {
                let before = blocks();
                let offset = part << 18;
                let zeroes = Operation::WriteZeroes {
                    offset,
                    length,
                    unmap,
                };
                perform(&mut *lane, zeroes).unwrap();
                assert_eq!(blocks() <= before - 512, sparse && unmap);
                let mut bytes = vec![1; 1 << 18];
                let file = File::open(&path).unwrap();
                file.read_exact_at(&mut bytes, offset).unwrap();
                assert!(bytes.iter().all(|byte| *byte == 0));
            }
        }
    }
}
