//! Where the memory is, in this machine and in a copy of it.

use super::*;

fn start_of(device: &OverPci<Pmem>) -> u64 {
    let mut bytes = [0; 8];
    device.with_device(|pmem| pmem.read_config(0, &mut bytes));
    u64::from_le_bytes(bytes)
}

fn saved(start: u64, size: u64) -> Saved {
    Saved {
        kind: "pmem".into(),
        version: 1,
        body: json!({ "start": start, "size": size }),
    }
}

#[test]
fn no_bar_can_be_put_over_it() {
    let (bench, mapped, file) = (Bench::new(), Mapped::default(), file());
    let medium = Medium::open(&config(file.path())).unwrap();
    let device = on_pci(&bench, new_pmem(&bench, &mapped, medium));
    let mut driver = Driver::find(&bench, 1);
    let (before, start) = (driver.bar(0), start_of(&device));
    let command = driver.config_read(4, 2);
    driver.config_write(4, 2, command & !2);
    driver.config_write(0x10, 4, start & 0xffff_ffff);
    driver.config_write(0x14, 4, start >> 32);
    driver.config_write(4, 2, command);
    driver.locate();
    assert_eq!(driver.bar(0), before, "the move did not take place");
    let mut data = [0; 8];
    assert!(!bench.memory.read(start, &mut data));
    assert!(bench.memory.read(before, &mut data));
}

#[test]
fn a_copy_has_it_where_the_original_had() {
    let (bench, mapped, file) = (Bench::new(), Mapped::default(), file());
    let medium = Medium::open(&config(file.path())).unwrap();
    // In the original something else was made first.
    let other = bench
        .pci
        .segment(0)
        .unwrap()
        .memory64()
        .reserve(64 * MIB, ALIGN)
        .unwrap();
    let mut original = on_pci(&bench, new_pmem(&bench, &mapped, medium.clone()));
    let start = start_of(&original);
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut original);
    original.stop().unwrap();
    let state = original.save().unwrap();
    drop((original, other));
    queues[0].add(&[Part::Read(&[0; 4]), Part::Write(4)]);
    let mut copy = OverPci::new(
        "pmem",
        new_pmem(&bench, &mapped, medium),
        bench.environment("_pmem0"),
    )
    .unwrap();
    assert_ne!(start_of(&copy), start);
    copy.restore(state).unwrap();
    assert_eq!(start_of(&copy), start);
    assert_eq!(mapped.now(), [start]);
    copy.start().unwrap();
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 4)]);
}

#[test]
fn states_that_cannot_be_change_nothing() {
    let (bench, mapped, file) = (Bench::new(), Mapped::default(), file());
    let medium = Medium::open(&config(file.path())).unwrap();
    let _taken = bench
        .pci
        .segment(0)
        .unwrap()
        .memory64()
        .reserve(4 * MIB, ALIGN)
        .unwrap();
    let mut pmem = new_pmem(&bench, &mapped, medium);
    let here = TOP - 8 * MIB;
    assert_eq!(mapped.now(), [here]);
    for (state, why) in [
        (
            saved(here, 2 * MIB),
            "had 2097152 bytes, and has 4194304 now",
        ),
        (saved(here + 4096, 4 * MIB), "not a multiple of 2 MiB"),
        (saved(TOP - 2 * MIB, 4 * MIB), "outside"),
        (saved(TOP - 6 * MIB, 4 * MIB), "another device"),
        (saved(0, 4 * MIB), "outside"),
        (saved(u64::MAX - (2 * MIB - 1), 4 * MIB), "outside"),
    ] {
        let error = pmem.restore(state).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(mapped.now(), [here]);
    }
    pmem.restore(saved(here, 4 * MIB)).unwrap();
}

#[test]
fn a_place_where_it_cannot_be_mapped_leaves_it_where_it_was() {
    let bench = Bench::new();
    let mapped = Mapped::default();
    let window = bench.pci.segment(0).unwrap().memory64();
    let map = mapped.map();
    let forbidden = TOP - 8 * MIB;
    let map = Box::new(move |start| {
        if start == forbidden {
            return Err(Error::NotChangeable("this place"));
        }
        map(start)
    });
    let mut place = Place::new(window, 4 * MIB, map).unwrap();
    place.move_to(forbidden).unwrap_err();
    assert_eq!((place.start(), place.size()), (TOP - 4 * MIB, 4 * MIB));
    assert_eq!(mapped.now(), [place.start()]);
    place.move_to(TOP - 16 * MIB).unwrap();
    assert_eq!(mapped.now(), [TOP - 16 * MIB]);
}

#[test]
fn the_first_version_of_the_state_is_read() {
    let (bench, mapped, file) = (Bench::new(), Mapped::default(), file());
    let medium = Medium::open(&config(file.path())).unwrap();
    let text = include_str!("../../fixtures/state-v1.json");
    let saved: Saved = serde_json::from_str(text).unwrap();
    let mut pmem = new_pmem(&bench, &mapped, medium);
    pmem.restore(saved.clone()).unwrap();
    assert_eq!(mapped.now(), [TOP - 4 * MIB]);
    assert_eq!(pmem.save().unwrap(), saved);
}
