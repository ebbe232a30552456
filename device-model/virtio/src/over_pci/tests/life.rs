//! Start, stop, reset, save and restore.

use super::*;

#[test]
fn the_driver_waits_for_nothing_but_the_owner() {
    let bench = Bench::new();
    let mut device = device(&bench);
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    // Rung before the queue works: served when it does.
    queues[0].add(&[Part::Read(b"early"), Part::Write(5)]);
    driver.kick(0);
    assert!(bench.bells.addresses().is_empty());
    assert_eq!(queues[0].used_index(), 0);
    bench.attend(&mut device);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(
        bench.bells.addresses(),
        [driver.doorbell(0), driver.doorbell(1)]
    );
}

#[test]
fn a_reset_stops_everything_and_the_driver_can_begin_again() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = at_work(&bench);
    let resets = device.with_device(|echo| Arc::clone(&echo.resets));
    for _ in 0..3 {
        echo(&bench, &driver, &mut queues[1], b"before");
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
        assert!(bench.bells.addresses().is_empty());
        assert_eq!(driver.common(field::CONFIG_VECTOR, 2), 0xffff);
        // The old queue is nobody's.
        let before = queues[1].used_index();
        queues[1].add(&[Part::Read(b"lost"), Part::Write(4)]);
        driver.kick(1);
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(queues[1].used_index(), before);
        queues = driver.start(u64::MAX);
        bench.attend(&mut device);
    }
    echo(&bench, &driver, &mut queues[1], b"after");
    // Every start begins with a reset.
    assert_eq!(resets.load(Ordering::Acquire), 7);
}

#[test]
fn a_reset_with_work_in_flight_ends_it() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = at_work(&bench);
    for _ in 0..20 {
        for _ in 0..30 {
            queues[0].add(&[Part::Read(&[7; 512]), Part::Write(512)]);
        }
        driver.kick(0);
        driver.set_status(0);
        let used = queues[0].used_index();
        queues = driver.start(u64::MAX);
        bench.attend(&mut device);
        assert!(used <= 30);
    }
    echo(&bench, &driver, &mut queues[0], b"still here");
}

#[test]
fn what_is_rung_while_stopped_is_served_after_the_start() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = at_work(&bench);
    echo(&bench, &driver, &mut queues[0], b"one");
    device.stop().unwrap();
    queues[0].add(&[Part::Read(b"two"), Part::Write(3)]);
    driver.kick(0);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(
        queues[0].used_index(),
        1,
        "nothing is written while it is stopped"
    );
    device.start().unwrap();
    eventually(|| queues[0].used_index() == 2);
}

#[test]
fn attention_that_comes_late_changes_nothing() {
    let bench = Bench::new();
    let mut device = device(&bench);
    let driver = Driver::find(&bench, 1);
    let queues = driver.start(0);
    driver.set_status(0);
    bench.attend(&mut device);
    assert!(bench.bells.addresses().is_empty());
    drop(queues);
    let mut queues = driver.start(0);
    device.stop().unwrap();
    bench.attend(&mut device);
    assert!(bench.bells.addresses().is_empty());
    device.start().unwrap();
    echo(&bench, &driver, &mut queues[1], b"works");
}

#[test]
fn a_copy_goes_on_where_the_original_stopped() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = at_work(&bench);
    for _ in 0..70 {
        echo(&bench, &driver, &mut queues[0], b"before");
    }
    let new_home = driver.bar(0) - 0x100_0000;
    driver.config_write(0x10, 4, new_home & 0xffff_ffff);
    device.stop().unwrap();
    let text = serde_json::to_string(&device.save().unwrap()).unwrap();
    drop(device);
    assert_eq!(driver.config_read(0, 4), 0xffff_ffff, "the slot is empty");

    let mut copy = OverPci::new(
        "echo",
        Echo::new(u64::from(u32::MAX)),
        bench.environment("echo0"),
    )
    .unwrap();
    copy.restore(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(serde_json::to_string(&copy.save().unwrap()).unwrap(), text);
    copy.start().unwrap();
    let mut driver = driver;
    driver.locate();
    assert_eq!(driver.bar(0), new_home);
    echo(&bench, &driver, &mut queues[0], b"after");
    assert_eq!(driver.status(), 0xf);
}

#[test]
fn states_that_make_no_sense_are_refused_and_change_nothing() {
    let bench = Bench::new();
    let (mut device, ..) = at_work(&bench);
    device.stop().unwrap();
    let good = device.save().unwrap();
    for (pointer, value) in [
        (
            "/transport/queues/0/descriptors",
            serde_json::json!(u64::MAX - 15),
        ),
        ("/transport/queues/0/used", serde_json::json!(2)),
        ("/transport/queues/1/size", serde_json::json!(0)),
        ("/transport/queues/1/size", serde_json::json!(256)),
        ("/transport/queues", serde_json::json!([])),
        ("/transport/driver_features", serde_json::json!(u64::MAX)),
        ("/function/config", serde_json::json!([1, 2, 3])),
        ("/function/bars", serde_json::json!([])),
        ("/function/msix", serde_json::json!(null)),
        ("/function/msix/vectors", serde_json::json!([])),
        ("/device/version", serde_json::json!(2)),
    ] {
        let mut bad = good.clone();
        *bad.body.pointer_mut(pointer).unwrap() = value;
        assert!(device.restore(bad).is_err(), "{pointer}");
        assert_eq!(device.save().unwrap(), good, "{pointer}");
    }
    device.restore(good).unwrap();
    device.start().unwrap();
}

#[test]
fn a_queue_can_be_reset_alone() {
    let bench = Bench::new();
    let mut device = device_with(&bench, Echo::new(feature::RING_RESET));
    let driver = Driver::find(&bench, 1);
    let common = driver.capability(9, Some(1)).unwrap();
    assert!(
        driver.config_read(common + 12, 4) >= 60,
        "the field is inside"
    );
    let mut queues = driver.start(feature::RING_RESET);
    bench.attend(&mut device);
    echo(&bench, &driver, &mut queues[0], b"one");
    driver.set_common(field::QUEUE_SELECT, 2, 0);
    driver.set_common(field::QUEUE_RESET, 2, 1);
    assert_eq!(driver.common(field::QUEUE_RESET, 2), 0, "done");
    assert_eq!(driver.common(field::QUEUE_ENABLE, 2), 0);
    assert_eq!(driver.common(field::QUEUE_SIZE, 2), 64);
    echo(&bench, &driver, &mut queues[1], b"the other one works");
    let mut queue = driver.queue(0, 16);
    bench.attend(&mut device);
    echo(&bench, &driver, &mut queue, b"two");
}

#[test]
fn two_devices_do_not_share_anything() {
    let bench = Bench::new();
    let (_first, first_driver, mut first_queues) = at_work(&bench);
    let second = OverPci::new("echo", Echo::new(0), bench.environment("echo1")).unwrap();
    assert_eq!(second.address().device, 2);
    drop(second);
    echo(&bench, &first_driver, &mut first_queues[0], b"fine");
    let third = OverPci::new("echo", Echo::new(0), bench.environment("echo2")).unwrap();
    assert_eq!(third.address().device, 2, "the slot is free again");
}

/// Never runs out of work: makes available again what it was given.
struct Flood(DriverQueue);

impl Service for Flood {
    fn serve(&mut self, _: &mut Chain) -> u32 {
        self.0.offer(0);
        1
    }
}

#[test]
fn a_driver_that_never_stops_does_not_keep_the_worker_from_stopping() {
    let bench = Bench::new();
    let mut queue = DriverQueue::new(bench.ram.clone(), 0, 8);
    queue.add(&[Part::Write(4)]);
    let [descriptors, available, used] = queue.addresses();
    let setup = crate::QueueSetup {
        size: 8,
        descriptors,
        available,
        used,
        enabled: true,
    };
    let msix = Arc::new(Msix::new(2, &bench.sent).unwrap());
    let ring = Ring::new(crate::RingParts {
        index: 0,
        addresses: setup.check(8, &bench.ram).unwrap(),
        features: 0,
        ram: bench.ram.clone(),
        kick: Kick::new().unwrap(),
        line: Arc::new(PciLine::new(msix, 1)),
        next_available: 0,
        next_used: 0,
    });
    ring.kick().signal();
    let mut task = QueueTask::new("flood".into(), Filter::none(), Flood(queue));
    task.start(ring).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let begin = std::time::Instant::now();
    let ring = task.stop().unwrap();
    assert!(begin.elapsed() < std::time::Duration::from_millis(500));
    assert_eq!(ring.in_flight(), 0);
    assert!(!ring.is_broken());
    assert!(task.stop().is_none(), "it was stopped");
    task.start(ring).unwrap();
    assert!(
        task.stop().unwrap().next_used() > 8,
        "and worked all the time"
    );
}
