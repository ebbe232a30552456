//! Drivers that break the rules.

use super::*;

/// Offers what `offer` does to a new balloon; it must ask for a reset and drop nothing, and work again after that.
fn breaks(why: &str, queue: u16, offer: impl FnOnce(&mut DriverQueue)) {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = started(&bench, 1);
    fill(&bench, FREE, MIB);
    offer(&mut queues[usize::from(queue)]);
    driver.kick(queue);
    eventually(|| driver.needs_reset());
    assert_eq!(queues[usize::from(queue)].used_index(), 0, "{why}");
    assert_eq!(present(&bench, FREE, MIB), 256, "{why}");
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    queues[0].add(&[Part::Read(&numbers([FREE / 4096]))]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(present(&bench, FREE, MIB), 255, "{why}");
}

#[test]
fn pages_that_are_not_ram() {
    for page in [RAM_SIZE / 4096, u64::from(u32::MAX), 0xf_ee00] {
        let list = numbers([FREE / 4096, page]);
        breaks("not RAM", 0, |queue| {
            queue.add(&[Part::Read(&list)]);
        });
    }
}

#[test]
fn lists_that_are_no_lists() {
    let list = numbers([FREE / 4096, 1]);
    for length in [1, 3, 5, 7] {
        breaks("not whole numbers", 0, |queue| {
            queue.add(&[Part::Read(&list[..length])]);
        });
    }
    let long = numbers(std::iter::repeat_n(FREE / 4096, (16 << 10) + 1));
    breaks("too long", 0, |queue| {
        queue.add(&[Part::Read(&long)]);
    });
}

#[test]
fn reports_of_what_is_not_ram() {
    breaks("beyond RAM", 2, |queue| {
        report(queue, 0, RAM_SIZE - 4096, 8192);
    });
    breaks("beyond all", 2, |queue| report(queue, 0, u64::MAX - 5, 4));
}

#[test]
fn what_means_nothing_does_nothing() {
    let bench = Bench::new();
    let (_device, driver, mut queues) = started(&bench, 1);
    fill(&bench, FREE, MIB);
    // No numbers, only room for the device to write; an empty chain; a report of what is to be read.
    queues[0].add(&[Part::Write(64)]);
    queues[0].add(&[Part::Read(&[])]);
    queues[1].add(&[Part::Write(64)]);
    queues[1].add(&[Part::Read(&[1, 2, 3])]);
    queues[2].describe(0, FREE, 1 << 20, 0, 0);
    queues[2].offer(0);
    // Less than a page.
    report(&mut queues[2], 1, FREE + 1, 4096);
    for queue in 0..3 {
        driver.kick(queue);
    }
    eventually(|| queues.iter().all(|queue| queue.used_index() == 2));
    assert!(
        queues
            .iter_mut()
            .all(|queue| queue.used().iter().all(|(_, written)| *written == 0))
    );
    assert_eq!(present(&bench, FREE, MIB), 256);
    assert!(!driver.needs_reset());
}

#[test]
fn the_largest_list_with_each_page_many_times() {
    let bench = Bench::new();
    let (_device, driver, mut queues) = started(&bench, 1);
    fill(&bench, FREE, 4 * MIB);
    let pages = FREE / 4096..FREE / 4096 + 1024;
    queues[0].add(&[Part::Read(&numbers(
        pages.cycle().step_by(3).take(16 << 10),
    ))]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(present(&bench, FREE, 4 * MIB), 0);
}

#[test]
fn pages_that_the_device_itself_works_with() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = started(&bench, 1);
    let [table, _, used] = queues[0].addresses();
    let range = numbers(table / 4096..used / 4096 + 4);
    queues[0].add(&[Part::Read(&range)]);
    driver.kick(0);
    // The used element is written to the page of zeros; what was in the queue before is gone.
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].bytes(table, 16), [0; 16]);
    device.stop().unwrap();
    device.start().unwrap();
    assert_eq!(driver.field(0, 4), 1);
}
