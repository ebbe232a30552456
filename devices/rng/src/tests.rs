use device::AnyKind;
use serde_json::json;
use virtio::testing::{Bench, Driver, Part, eventually};

use super::*;

fn device(bench: &Bench, source: File) -> OverPci<Entropy> {
    use device::Device;
    let entropy = Entropy::new(source, "__rng", Filter::none());
    let mut device = OverPci::new("rng", entropy, bench.environment("__rng")).unwrap();
    device.start().unwrap();
    device
}

fn file_with(bytes: &[u8]) -> (tempfile::TempDir, HostFile<ReadOnly>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    std::fs::write(&path, bytes).unwrap();
    (folder, HostFile::new(path))
}

#[test]
fn buffers_are_filled_from_the_source_in_order() {
    let bytes: Vec<u8> = (0..20_000u32)
        .map(|number| (number % 251).to_le_bytes()[0])
        .collect();
    let (_folder, source) = file_with(&bytes);
    let bench = Bench::new();
    let mut device = device(&bench, open(&source).unwrap());
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.config_read(2, 2), 0x1044);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    let first = queues[0].add(&[Part::Write(64)]);
    let second = queues[0].add(&[Part::Write(5000), Part::Write(1), Part::Write(4095)]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 2);
    assert_eq!(queues[0].used(), [(0, 64), (1, 9096)]);
    assert!(queues[0].bytes(first[0], 64) == bytes[..64]);
    assert!(queues[0].bytes(second[0], 5000) == bytes[64..5064]);
    assert!(queues[0].bytes(second[2], 4095) == bytes[5065..9160]);
    bench.sent.wait(Driver::queue_message(0));
}

#[test]
fn a_source_that_ends_gives_what_there_is() {
    let (_folder, source) = file_with(b"abc");
    let bench = Bench::new();
    let mut device = device(&bench, open(&source).unwrap());
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    queues[0].add(&[Part::Write(64)]);
    queues[0].add(&[Part::Write(64)]);
    // Nothing to write to is nothing to do.
    queues[0].add(&[Part::Read(b"why")]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 3);
    assert_eq!(queues[0].used(), [(0, 3), (1, 0), (2, 0)]);
    assert!(!driver.needs_reset());
}

#[test]
fn one_request_takes_no_more_than_its_share_of_time() {
    let bench = Bench::new();
    let mut device = device(&bench, open(&DEFAULT_SOURCE.into()).unwrap());
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    queues[0].add(&[Part::Write(4 << 20)]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 64 << 10)]);
}

#[test]
fn sources_on_which_reading_would_wait_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (path, reason) in [
        (folder.path().to_owned(), "neither a character device"),
        (folder.path().join("nothing"), "cannot open"),
    ] {
        let error = open(&HostFile::new(path)).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(reason), "{source}");
        assert_eq!(error.to_string(), "--rng src");
    }
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| Rng.read_flag(text).unwrap();
    let full = json!({
        "src": "/dev/hwrng", "id": "dice", "iommu": true, "pci_segment": 2, "pci_device_id": 5
    });
    assert_eq!(
        read("src=/dev/hwrng,id=dice,iommu=on,pci_segment=2,pci_device_id=5"),
        full
    );
    assert_eq!(read("pci_segment=0"), AnyKind::by_default(&Rng).unwrap());
    assert_eq!(
        AnyKind::by_default(&Rng).unwrap(),
        json!({ "src": "/dev/urandom", "pci_segment": 0 })
    );
    assert!(
        Rng.read_flag("source=/dev/urandom")
            .unwrap_err()
            .text
            .contains("src")
    );
    let unknown = json!({ "src": "/dev/urandom", "colour": 1 });
    let facts = Facts::default();
    assert!(
        AnyKind::check(&Rng, &unknown, &facts)
            .unwrap_err()
            .text
            .contains("colour")
    );
    assert!(
        AnyKind::check(&Rng, &json!({}), &facts).is_err(),
        "src is required in JSON"
    );
    let bad = json!({ "src": "/dev/urandom", "pci_device_id": 40 });
    assert!(
        AnyKind::check(&Rng, &bad, &facts)
            .unwrap_err()
            .text
            .contains("1 to 31")
    );
}

#[test]
fn a_copy_continues_the_queue() {
    use device::Device;
    let bench = Bench::new();
    let source = || open(&DEFAULT_SOURCE.into()).unwrap();
    let mut original = device(&bench, source());
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut original);
    queues[0].add(&[Part::Write(8)]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    original.stop().unwrap();
    let saved = original.save().unwrap();
    drop(original);
    queues[0].add(&[Part::Write(8)]);
    let entropy = Entropy::new(source(), "__rng", Filter::none());
    let mut copy = OverPci::new("rng", entropy, bench.environment("__rng")).unwrap();
    copy.restore(saved).unwrap();
    copy.start().unwrap();
    eventually(|| queues[0].used_index() == 2);
}
