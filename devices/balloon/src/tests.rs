use std::fs::File;
use std::os::unix::fs::FileExt;

use device::{AnyKind, Device, Saved};
use sandbox::Filter;
use serde_json::{Value, json};
use virtio::VirtioDevice;
use virtio::testing::{Bench, Driver, DriverQueue, Part, RAM_SIZE, eventually};

use super::*;

mod hostile;
mod life;

const MIB: u64 = 1 << 20;
/// RAM that neither queues nor their buffers are in.
const FREE: u64 = 12 * MIB;

const ALL: Features = Features {
    deflate_on_oom: true,
    free_page_reporting: true,
};

/// A balloon that is to have `target` pages, not started.
fn balloon(bench: &Bench, target: u32, features: Features) -> OverPci<Balloon> {
    let ram = bench.ram.clone();
    let balloon = Balloon::new(ram, target, features, "__balloon", Filter::none());
    OverPci::new("balloon", balloon, bench.environment("__balloon")).unwrap()
}

/// As [`balloon`], at work.
fn started<'a>(bench: &'a Bench, target: u32) -> (OverPci<Balloon>, Driver<'a>, Vec<DriverQueue>) {
    let mut device = balloon(bench, target, ALL);
    device.start().unwrap();
    let driver = Driver::find(bench, 1);
    let queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    (device, driver, queues)
}

/// Page numbers as the driver writes them.
fn numbers(pages: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let number = |page: u64| u32::try_from(page).unwrap().to_le_bytes();
    pages.into_iter().flat_map(number).collect()
}

/// How many pages of `length` bytes of RAM at `address` are in the host's memory (Documentation/admin-guide/mm/pagemap.rst).
fn present(bench: &Bench, address: u64, length: u64) -> usize {
    let region = bench.ram.regions().next().unwrap();
    let start = region.mapping().address().addr() as u64 + address;
    let mut entries = vec![0; usize::try_from(length / 4096 * 8).unwrap()];
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap
        .read_exact_at(&mut entries, start / 4096 * 8)
        .unwrap();
    entries
        .chunks_exact(8)
        .filter(|entry| entry[7] & 0x80 != 0)
        .count()
}

fn fill(bench: &Bench, address: u64, length: u64) {
    let bytes = vec![0xa5; usize::try_from(length).unwrap()];
    bench.ram.write(address, &bytes).unwrap();
}

/// Makes one descriptor available that lets the device write to this range.
fn report(queue: &mut DriverQueue, descriptor: u16, address: u64, length: u32) {
    queue.describe(descriptor, address, length, 2, 0);
    queue.offer(descriptor);
}

#[test]
fn what_is_offered_is_what_was_asked_for() {
    for (deflate_on_oom, free_page_reporting, bits, queues) in [
        (false, false, 0, 2),
        (true, false, 1 << 2, 2),
        (false, true, 1 << 5, 3),
        (true, true, 1 << 2 | 1 << 5, 3),
    ] {
        let bench = Bench::new();
        let features = Features {
            deflate_on_oom,
            free_page_reporting,
        };
        let mut device = balloon(&bench, 7, features);
        device.start().unwrap();
        let driver = Driver::find(&bench, 1);
        assert_eq!(driver.config_read(2, 2), 0x1045);
        assert_eq!(driver.offered() & 0xffff_ffff, bits);
        let queues_there = driver.start(u64::MAX);
        let sizes: Vec<u16> = queues_there.iter().map(|queue| queue.size).collect();
        assert_eq!(sizes, [128, 128, 32][..queues]);
        assert_eq!(driver.field(0, 4), 7);
        assert_eq!(driver.field(4, 4), 0);
    }
}

#[test]
fn pages_in_the_balloon_take_no_memory() {
    let bench = Bench::new();
    let (_device, driver, mut queues) = started(&bench, 512);
    fill(&bench, FREE, 4 * MIB);
    assert_eq!(present(&bench, FREE, 4 * MIB), 1024);
    // As Linux does: 256 numbers in each chain, here from high to low, and in two buffers.
    let first = FREE / 4096;
    let descending = numbers((first..first + 256).rev());
    queues[0].add(&[
        Part::Read(&descending[..510]),
        Part::Read(&descending[510..]),
    ]);
    queues[0].add(&[Part::Read(&numbers((first + 512..first + 1024).step_by(2)))]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 2);
    assert_eq!(queues[0].used(), [(0, 0), (2, 0)]);
    bench.sent.wait(Driver::queue_message(0));
    assert_eq!(present(&bench, FREE, MIB), 0);
    assert_eq!(present(&bench, FREE + MIB, MIB), 256);
    assert_eq!(present(&bench, FREE + 2 * MIB, 2 * MIB), 256);
    assert_eq!(queues[0].bytes(FREE, 4096), [0; 4096]);
    assert_eq!(queues[0].bytes(FREE + MIB, 4096), [0xa5; 4096]);
}

#[test]
fn pages_that_leave_it_can_be_used_again() {
    let bench = Bench::new();
    let (_device, driver, mut queues) = started(&bench, 1);
    let page = numbers([FREE / 4096]);
    for queue in [0, 1] {
        fill(&bench, FREE, 4096);
        queues[queue].add(&[Part::Read(&page)]);
        driver.kick(u16::try_from(queue).unwrap());
        eventually(|| queues[queue].used_index() == 1);
    }
    bench.sent.wait(Driver::queue_message(1));
    // It was written after it went in, and deflating is no reason to lose that.
    assert_eq!(queues[1].bytes(FREE, 4096), [0xa5; 4096]);
    assert!(!driver.needs_reset());
}

#[test]
fn reported_pages_take_no_memory_until_they_are_used() {
    let bench = Bench::new();
    let (device, driver, mut queues) = started(&bench, 0);
    fill(&bench, FREE, 4 * MIB);
    report(&mut queues[2], 0, FREE + MIB, 1 << 20);
    report(&mut queues[2], 1, FREE, 1 << 19);
    driver.kick(2);
    eventually(|| queues[2].used_index() == 2);
    assert_eq!(queues[2].used(), [(0, 0), (1, 0)]);
    assert_eq!(present(&bench, FREE, 4 * MIB), 1024 - 256 - 128);
    bench.ram.write(FREE, &[3]).unwrap();
    assert_eq!(queues[2].bytes(FREE, 2), [3, 0]);
    assert_eq!(device.withheld(), 0, "they are the guest's");
}

#[test]
fn the_guest_says_how_large_the_balloon_is() {
    let bench = Bench::new();
    let (device, driver, _queues) = started(&bench, 512);
    assert_eq!(device.withheld(), 0);
    driver.set_field(4, &300u32.to_le_bytes());
    assert_eq!(driver.field(4, 4), 300);
    assert_eq!(device.withheld(), 300 * 4096);
    assert!(device.counters().is_empty());
    // Byte by byte, and over the border of the fields: its wish is the user's, not the driver's.
    driver.set_field(5, &[2]);
    assert_eq!(driver.field(4, 4), 0x22c);
    driver.set_field(0, &[0xff; 8]);
    assert_eq!(driver.field(0, 8), 0xffff_ffff_0000_0200);
    assert_eq!(device.withheld(), RAM_SIZE, "no more than there is");
}

#[test]
fn a_new_size_reaches_the_driver() {
    let bench = Bench::new();
    let (mut device, driver, _queues) = started(&bench, 0);
    let _ = bench.sent.take();
    device.update(json!({ "size": 8 * MIB + 5 })).unwrap();
    bench.sent.wait(Driver::config_message());
    assert_eq!(driver.field(0, 4), 2048);
    assert_eq!(device.decided(), Some(json!({ "size": 8 * MIB })));
    // Nothing new is no news.
    device.update(json!({ "size": 8 * MIB })).unwrap();
    assert!(bench.sent.take().is_empty());
    for (change, why) in [
        (
            json!({ "size": RAM_SIZE }),
            "must be smaller than the guest's RAM (16M)",
        ),
        (json!({ "size": u64::MAX }), "must be smaller"),
        (json!({ "size": -1 }), "invalid value"),
        (json!({ "size": 0, "id": "x" }), "unknown field `id`"),
        (json!({}), "missing field `size`"),
    ] {
        let error = device.update(change).unwrap_err().to_string();
        assert!(
            error.starts_with("--balloon: ") && error.contains(why),
            "{error}"
        );
    }
    assert_eq!(driver.field(0, 4), 2048);
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| MemoryBalloon.read_flag(text).unwrap();
    assert_eq!(
        read("deflate_on_oom=on"),
        json!({
            "size": 0, "deflate_on_oom": true, "free_page_reporting": false, "pci_segment": 0
        })
    );
    assert_eq!(
        read("size=1G,free_page_reporting=on,id=air,pci_device_id=9"),
        json!({
            "size": 1 << 30, "deflate_on_oom": false, "free_page_reporting": true, "id": "air",
            "pci_segment": 0, "pci_device_id": 9
        })
    );
}

#[test]
fn sizes_that_leave_nothing_to_the_guest_are_refused() {
    let facts = Facts {
        ram_below_4g: 3 << 30,
        ram_above_4g: 1 << 30,
        ..Facts::default()
    };
    let check = |config: Value| AnyKind::check(&MemoryBalloon, &config, &facts);
    assert_eq!(check(json!({ "size": 0 })), Ok(()));
    assert_eq!(check(json!({ "size": (4u64 << 30) - 4096 })), Ok(()));
    assert_eq!(
        check(json!({ "size": 4u64 << 30 }))
            .unwrap_err()
            .to_string(),
        "--balloon: size=4G: the balloon must be smaller than the guest's RAM (4G): lower it, or raise --memory size"
    );
    let unknown = Facts::default();
    let config = json!({ "size": 4u64 << 30 });
    assert_eq!(AnyKind::check(&MemoryBalloon, &config, &unknown), Ok(()));
    assert!(check(json!({})).unwrap_err().text.contains("size"));
    assert!(
        check(json!({ "size": 0, "colour": 1 }))
            .unwrap_err()
            .text
            .contains("colour")
    );
    assert!(check(json!({ "size": 0, "pci_device_id": 0 })).is_err());
    assert!(
        pages_of(ByteSize(1 << 44), u64::MAX)
            .unwrap_err()
            .text
            .contains("16 TiB")
    );
}
