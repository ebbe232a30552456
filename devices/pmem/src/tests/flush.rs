//! Requests.

use super::*;

const FLUSH: Part<'_> = Part::Read(&[0; 4]);

/// A device that flushes with `sync`.
fn device(bench: &Bench, sync: impl FnMut() -> io::Result<()> + Send + 'static) -> OverPci<Pmem> {
    let file = file();
    let medium = Medium::open(&config(file.path())).unwrap();
    let pmem = new_pmem(bench, &Mapped::default(), medium);
    on_pci(bench, pmem.with_sync(Box::new(sync)))
}

#[test]
fn a_flush_of_a_file_succeeds() {
    let (bench, file) = (Bench::new(), file());
    let medium = Medium::open(&config(file.path())).unwrap();
    let mut device = on_pci(&bench, new_pmem(&bench, &Mapped::default(), medium));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    let parts = queues[0].add(&[FLUSH, Part::Write(4)]);
    bench.ram.write(parts[1], &[9; 4]).unwrap();
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 4)]);
    assert_eq!(queues[0].bytes(parts[1], 4), [0; 4]);
    bench.sent.wait(Driver::queue_message(0));
}

#[test]
fn what_the_disk_says_is_what_the_guest_hears() {
    let bench = Bench::new();
    let bad = Arc::new(AtomicBool::new(true));
    let mut interrupted = false;
    let mut device = device(&bench, {
        let bad = Arc::clone(&bad);
        move || {
            interrupted = !interrupted;
            if interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if bad.load(Ordering::Relaxed) {
                return Err(io::Error::other("the disk is full"));
            }
            Ok(())
        }
    });
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    for (number, (is_bad, answer)) in [(true, [0xff; 4]), (false, [0; 4]), (true, [0xff; 4])]
        .into_iter()
        .enumerate()
    {
        bad.store(is_bad, Ordering::Relaxed);
        let parts = queues[0].add(&[FLUSH, Part::Write(4)]);
        driver.kick(0);
        eventually(|| usize::from(queues[0].used_index()) == number + 1);
        assert_eq!(queues[0].bytes(parts[1], 4), answer);
    }
}

#[test]
fn requests_that_wait_together_are_one_flush() {
    let bench = Bench::new();
    let count = Arc::new(AtomicU64::new(0));
    let (go, gate) = mpsc::channel::<()>();
    let mut device = device(&bench, {
        let count = Arc::clone(&count);
        move || {
            count.fetch_add(1, Ordering::Relaxed);
            gate.recv().map_err(io::Error::other)
        }
    });
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    queues[0].add(&[FLUSH, Part::Write(4)]);
    driver.kick(0);
    eventually(|| count.load(Ordering::Relaxed) == 1);
    // These come while the first is under way, and so are not part of it.
    for _ in 0..100 {
        queues[0].add(&[FLUSH, Part::Write(4)]);
        driver.kick(0);
    }
    go.send(()).unwrap();
    eventually(|| count.load(Ordering::Relaxed) == 2);
    assert_eq!(queues[0].used_index(), 1);
    go.send(()).unwrap();
    eventually(|| queues[0].used_index() == 101);
    assert_eq!(count.load(Ordering::Relaxed), 2);
    assert!(queues[0].used().iter().all(|(_, written)| *written == 4));
}

#[test]
fn requests_of_other_types_fail_and_flush_nothing() {
    let bench = Bench::new();
    let count = Arc::new(AtomicU64::new(0));
    let mut device = device(&bench, {
        let count = Arc::clone(&count);
        move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    let mut answers = Vec::new();
    for kind in [1u32, 0x100, u32::MAX] {
        let parts = queues[0].add(&[Part::Read(&kind.to_le_bytes()), Part::Write(8)]);
        answers.push(parts[1]);
    }
    driver.kick(0);
    eventually(|| queues[0].used_index() == 3);
    assert_eq!(count.load(Ordering::Relaxed), 0);
    assert_eq!(queues[0].used(), [(0, 4), (2, 4), (4, 4)]);
    for answer in answers {
        assert_eq!(queues[0].bytes(answer, 8), [255, 255, 255, 255, 0, 0, 0, 0]);
    }
    // One that is split at every byte, and longer than it need be.
    let bytes = [0u8; 9].map(|byte| [byte]);
    let mut parts: Vec<Part<'_>> = bytes.iter().map(|byte| Part::Read(byte)).collect();
    parts.extend([Part::Write(1); 4]);
    queues[0].add(&parts);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 4);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn requests_that_are_none_end_the_queue_and_nothing_else() {
    for parts in [
        &[Part::Read(&[0; 3]), Part::Write(4)][..],
        &[Part::Write(4)],
        &[FLUSH],
        &[FLUSH, Part::Write(3)],
        &[Part::Read(&[])],
    ] {
        let bench = Bench::new();
        let mut device = device(&bench, || Ok(()));
        let driver = Driver::find(&bench, 1);
        let mut queues = driver.start(0);
        bench.attend(&mut device);
        queues[0].add(parts);
        queues[0].add(&[FLUSH, Part::Write(4)]);
        driver.kick(0);
        eventually(|| driver.needs_reset());
        assert_eq!(queues[0].used_index(), 0, "{parts:?}");
        let mut queues = driver.start(0);
        bench.attend(&mut device);
        queues[0].add(&[FLUSH, Part::Write(4)]);
        driver.kick(0);
        eventually(|| queues[0].used_index() == 1);
    }
}

#[test]
fn nothing_is_lost_when_it_is_stopped_at_any_time() {
    let bench = Bench::new();
    let mut device = device(&bench, || Ok(()));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    for round in 1..=100u16 {
        queues[0].add(&[FLUSH, Part::Write(4)]);
        driver.kick(0);
        device.stop().unwrap();
        let used = queues[0].used_index();
        assert!(used == round || used == round - 1);
        device.start().unwrap();
        eventually(|| queues[0].used_index() == round);
    }
    assert!(!driver.needs_reset());
}
