use super::*;
use crate::testing::{MIB, first, ram, resident_pages};
use crate::{GuestRam, RamOptions, RegionSpec};

const ASKED: RamOptions = RamOptions {
    prefault: true,
    shared: false,
    hugepages: None,
    thp: true,
    mergeable: false,
    reserve: false,
};

fn names_of_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .collect()
}

#[test]
fn threads_are_as_many_as_there_are_processors_and_work() {
    assert_eq!(thread_count(1, 8), 1);
    assert_eq!(thread_count(64 * MIB, 8), 1);
    assert_eq!(thread_count(64 * MIB + 1, 8), 2);
    assert_eq!(thread_count(u64::MAX, 8), 8);
    assert_eq!(thread_count(MIB, 0), 1);
}

#[test]
fn every_byte_is_in_one_chunk() {
    let sizes = [4096, 16 * MIB, 16 * MIB + 4096, 100 * MIB];
    let mappings: Vec<_> = sizes
        .iter()
        .map(|size| first(&ram(*size, &ASKED)))
        .collect();
    let work = Work::new(mappings.clone());
    let mut number = 0;
    for mapping in &mappings {
        let mut next = 0;
        while next < usize::try_from(mapping.size()).unwrap() {
            let (of, offset, count) = work.chunk(number).unwrap();
            assert_eq!((of.address(), offset), (mapping.address(), next));
            next += count;
            number += 1;
        }
        assert_eq!(next as u64, mapping.size());
    }
    assert!(work.chunk(number).is_none());
    assert!(work.chunk(usize::MAX).is_none());
}

#[test]
fn all_pages_of_all_regions_are_there_afterwards() {
    for shared in [false, true] {
        let options = RamOptions { shared, ..ASKED };
        let regions = [
            RegionSpec {
                start: 0,
                size: 130 * MIB,
            },
            RegionSpec {
                start: 1 << 32,
                size: 3 * MIB,
            },
        ];
        let ram = GuestRam::new(&regions, &options).unwrap();
        assert_eq!(resident_pages(&first(&ram)), 0);
        ram.prefault().unwrap().join().unwrap();
        for region in ram.regions() {
            assert_eq!(
                resident_pages(region.mapping()) as u64,
                region.size() / 4096
            );
        }
    }
}

#[test]
fn contents_stay_while_others_write() {
    let ram = ram(256 * MIB, &ASKED);
    ram.write(5, b"before").unwrap();
    let prefault = ram.prefault().unwrap();
    for at in (0..256).map(|number| number * MIB + 100) {
        ram.write(at, &at.to_le_bytes()).unwrap();
    }
    prefault.join().unwrap();
    let mut before = [0; 6];
    ram.read(5, &mut before).unwrap();
    assert_eq!(&before, b"before");
    for at in (0..256).map(|number| number * MIB + 100) {
        let mut found = [0; 8];
        ram.read(at, &mut found).unwrap();
        assert_eq!(u64::from_le_bytes(found), at);
    }
}

#[test]
fn nothing_is_started_unless_it_was_asked_for() {
    let ram = ram(128 * MIB, &RamOptions::default());
    let prefault = ram.prefault().unwrap();
    assert_eq!(prefault.threads(), 0);
    prefault.join().unwrap();
    assert_eq!(resident_pages(&first(&ram)), 0);
}

#[test]
fn shared_memory_is_reserved_by_allocating_it() {
    let ram = ram(
        4 * MIB,
        &RamOptions {
            shared: true,
            reserve: true,
            ..RamOptions::default()
        },
    );
    let prefault = ram.prefault().unwrap();
    assert_eq!(prefault.threads(), 1);
    prefault.join().unwrap();
    assert_eq!(resident_pages(&first(&ram)), 1024);
}

#[test]
fn threads_have_names_and_end_when_nobody_waits() {
    crate::testing::alone(
        "prefault::tests::threads_have_names_and_end_when_nobody_waits",
        || {
            let ram = ram(2048 * MIB, &ASKED);
            let prefault = ram.prefault().unwrap();
            let cpus = thread::available_parallelism().unwrap().get();
            assert_eq!(prefault.threads(), cpus.min(32));
            let ours = || {
                names_of_threads()
                    .iter()
                    .filter(|name| name.starts_with("prefault_"))
                    .count()
            };
            // A thread takes its name after it has started.
            while ours() < prefault.threads() {
                thread::yield_now();
            }
            drop(prefault);
            assert_eq!(ours(), 0);
            let resident = resident_pages(&first(&ram)) as u64;
            assert!(resident < ram.size() / 4096, "dropping did not stop it");
        },
    );
}

#[test]
fn stopped_work_allocates_nothing() {
    let mapping = first(&ram(32 * MIB, &ASKED));
    let work = Work::new(vec![Arc::clone(&mapping)]);
    work.stop.store(true, Ordering::Relaxed);
    work.run().unwrap();
    assert_eq!(resident_pages(&mapping), 0);
}
