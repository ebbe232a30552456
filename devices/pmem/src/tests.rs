use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use device::{AnyKind, Device, Saved};
use sandbox::Filter;
use serde_json::{Value, json};
use virtio::VirtioDevice;
use virtio::testing::{Bench, Driver, Part, eventually};

use super::*;

mod flush;
mod medium;
mod place;

const MIB: u64 = 1 << 20;
/// Where the bench's 64-bit window ends.
const TOP: u64 = 0x20_0000_0000;

/// What has been mapped for a guest that there is not: where it is now, and how often it was.
#[derive(Clone, Default)]
struct Mapped(Arc<Mutex<Vec<u64>>>);

impl Mapped {
    fn now(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    fn map(&self) -> Map {
        let list = self.clone();
        Box::new(move |start| {
            list.0.lock().unwrap().push(start);
            Ok(Box::new(Unmap(list.clone(), start)))
        })
    }
}

struct Unmap(Mapped, u64);

impl Drop for Unmap {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().retain(|start| *start != self.1);
    }
}

fn config(file: &Path) -> PmemConfig {
    PmemConfig {
        file: file.to_owned(),
        size: None,
        discard_writes: false,
        pci: PciOptions::default(),
    }
}

/// A file of 4 MiB.
fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4 * MIB).unwrap();
    file
}

fn new_pmem(bench: &Bench, mapped: &Mapped, medium: Medium) -> Pmem {
    let window = bench.pci.segment(0).unwrap().memory64();
    let place = Place::new(window, medium.size(), mapped.map()).unwrap();
    Pmem::new(place, medium, "_pmem0", Filter::none())
}

fn on_pci(bench: &Bench, pmem: Pmem) -> OverPci<Pmem> {
    let mut device = OverPci::new("pmem", pmem, bench.environment("_pmem0")).unwrap();
    device.start().unwrap();
    device
}

#[test]
fn the_driver_finds_the_memory() {
    let (bench, mapped, file) = (Bench::new(), Mapped::default(), file());
    let medium = Medium::open(&config(file.path())).unwrap();
    let device = on_pci(&bench, new_pmem(&bench, &mapped, medium));
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.config_read(2, 2), 0x105b);
    assert_eq!(driver.offered(), virtio::feature::VERSION_1);
    let queues = driver.start(u64::MAX);
    assert_eq!((queues.len(), queues[0].size), (1, 256));
    let start = driver.field(0, 8);
    assert_eq!(start, TOP - 4 * MIB);
    assert_eq!(driver.field(8, 8), 4 * MIB);
    assert_eq!(
        driver.field(6, 4),
        0,
        "the top of one field and the bottom of the other"
    );
    assert_eq!(mapped.now(), [start]);
    drop(device);
    assert!(mapped.now().is_empty());
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| PersistentMemory.read_flag(text).unwrap();
    assert_eq!(
        read("file=/a"),
        json!({ "file": "/a", "discard_writes": false, "pci_segment": 0 })
    );
    assert_eq!(
        read("file=/a,size=1G,discard_writes=on,id=root,pci_segment=1,pci_device_id=4"),
        json!({
            "file": "/a", "size": 1 << 30, "discard_writes": true, "id": "root", "pci_segment": 1,
            "pci_device_id": 4
        })
    );
    assert!(
        PersistentMemory
            .read_flag("size=2M")
            .unwrap_err()
            .text
            .contains("file")
    );
    assert!(
        PersistentMemory.read_flag("file=/a,mergeable=on").is_err(),
        "it was removed in v25"
    );
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_opened() {
    let check = |config: Value| AnyKind::check(&PersistentMemory, &config, &Facts::default());
    assert_eq!(
        check(json!({ "file": "/no/such/file", "size": 2 * MIB })),
        Ok(())
    );
    assert_eq!(
        check(json!({ "file": "/a", "size": 3 * MIB }))
            .unwrap_err()
            .to_string(),
        "--pmem: size=3M: persistent memory has whole multiples of 2M, and at least one"
    );
    assert!(check(json!({ "file": "/a", "size": 0 })).is_err());
    assert!(
        check(json!({ "size": 2 * MIB }))
            .unwrap_err()
            .text
            .contains("file")
    );
    assert!(check(json!({ "file": "/a", "pci_device_id": 32 })).is_err());
    assert!(check(json!({ "file": "/a", "iommu": true })).is_err());
}

#[test]
fn landlock_permits_no_more_than_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let access = |path: &Path, discard_writes| {
        let paths = <PersistentMemory as Kind>::paths(&PmemConfig {
            discard_writes,
            ..config(path)
        });
        assert_eq!(paths.len(), 1);
        assert_eq!(paths[0].0, path);
        paths[0].1
    };
    let file = folder.path().join("file");
    assert_eq!(access(&file, false), Access::ReadWrite);
    assert_eq!(access(&file, true), Access::Read);
    assert_eq!(access(folder.path(), false), Access::ReadWrite);
    assert_eq!(access(folder.path(), true), Access::ReadWrite);
}
