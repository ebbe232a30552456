//! Stop and start, copies, resets, and interfaces that change.

use serde_json::json;

use super::*;
use crate::feature::{CTRL_VQ, GUEST_ANNOUNCE, MQ, MRG_RXBUF};
use ::device::Saved;
use std::sync::atomic::{AtomicBool, Ordering};

/// Registers of the common structure (VIRTIO 1.3, 4.1.4.3).
const QUEUE_SELECT: usize = 22;
const QUEUE_RESET: usize = 58;

#[test]
fn frames_keep_their_order_while_the_device_stops_and_starts() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(MRG_RXBUF);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let mut places = Vec::new();
    for number in 0..200u8 {
        places.push(queues[0].add(&[Part::Write(200)])[0]);
        driver.kick(RX);
        sends(&wire, &frame(number, 100));
        queues[1].add(&[Part::Read(&with_header(&frame(number, 100)))]);
        driver.kick(TX);
        if number % 10 == 0 {
            device.stop().unwrap();
        }
        if number % 10 == 3 {
            device.start().unwrap();
        }
        if number % 10 == 9 {
            eventually(|| queues[0].used_index() == u16::from(number) + 1);
        }
    }
    for (number, place) in (0..).zip(places) {
        assert!(queues[0].bytes(place + 12, 100) == frame(number, 100));
        assert!(wire.wait() == frame(number, 100));
    }
}

#[test]
fn it_stops_in_a_flood() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(MRG_RXBUF);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    let over = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            while !over.load(Ordering::Relaxed) {
                wire.send(&frame(1, 100));
            }
        }
    });
    for round in 0..100 {
        queues[0].add(&[Part::Write(200)]);
        driver.kick(RX);
        device.stop().unwrap();
        let used = queues[0].used_index();
        let saved = device.save().unwrap();
        assert_eq!(queues[0].used_index(), used, "{round}");
        device.restore(saved).unwrap();
        device.start().unwrap();
    }
    eventually(|| queues[0].used_index() == 100);
    over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn a_queue_is_reset_while_the_other_works() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(!MRG_RXBUF);
    bench.attend(&mut device);
    let wire = Wire::new(TAP);
    for index in [TX, RX] {
        driver.set_common(QUEUE_SELECT, 2, index.into());
        driver.set_common(QUEUE_RESET, 2, 1);
        if index == TX {
            queues[0].add(&[Part::Write(65562)]);
            driver.kick(RX);
            sends(&wire, &frame(1, 60));
            eventually(|| queues[0].used_index() == 1);
        } else {
            queues[1].add(&[Part::Read(&with_header(&frame(2, 60)))]);
            driver.kick(TX);
            assert!(wire.wait() == frame(2, 60));
        }
        queues[usize::from(index)] = driver.queue(index, 64);
        bench.attend(&mut device);
    }
    queues[0].add(&[Part::Write(65562)]);
    driver.kick(RX);
    sends(&wire, &frame(1, 60));
    eventually(|| queues[0].used_index() == 1);
}

#[test]
fn a_copy_continues_and_is_asked_to_announce_itself() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let config = config("num_queues=4");
    let mut original = device(&bench, &config);
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(MQ | CTRL_VQ | GUEST_ANNOUNCE);
    bench.attend(&mut original);
    let mut control = queues.pop().unwrap();
    control.add(&[Part::Read(&[4, 0, 2, 0]), Part::Write(1)]);
    driver.kick(control.index);
    queues[0].add(&[Part::Write(1526)]);
    driver.kick(RX);
    eventually(|| control.used_index() == 1);
    original.stop().unwrap();
    let saved = original.save().unwrap();
    assert_eq!(
        saved.body["device"]["body"],
        json!({ "pairs": 2, "offloads": null, "announce": false })
    );
    drop(original);
    let mut copy = device_on(&bench, &config, host(&config));
    copy.restore(saved).unwrap();
    let _ = bench.sent.take();
    copy.start().unwrap();
    bench.sent.wait(Driver::config_message());
    assert_eq!(driver.field(6, 2), 3, "link up, announce");
    let wire = Wire::new(TAP);
    queues[1].add(&[Part::Read(&with_header(&frame(2, 60)))]);
    driver.kick(TX);
    assert!(wire.wait() == frame(2, 60));
    let both = [queues[0].used_index(), queues[2].used_index()];
    assert_eq!(both, [0, 0]);
    control.add(&[Part::Read(&[3, 0]), Part::Write(1)]);
    driver.kick(control.index);
    eventually(|| driver.field(6, 2) == 1);
}

#[test]
fn states_that_cannot_be_are_refused() {
    if !own_network() {
        return;
    }
    let config = config("num_queues=4");
    let bench = Bench::new();
    let environment = bench.environment("_net0");
    let mut network = network(&config, host(&config), "_net0", &environment).unwrap();
    use virtio::VirtioDevice;
    let fixture: Saved =
        serde_json::from_str(include_str!("../../fixtures/state-v1.json")).unwrap();
    network.restore(fixture.clone()).unwrap();
    let again = network.save().unwrap();
    assert_eq!(again, fixture);
    for (member, value) in [
        ("pairs", json!(0)),
        ("pairs", json!(3)),
        ("offloads", json!(1)),
        ("colour", json!(1)),
    ] {
        let mut bad = fixture.clone();
        bad.body[member] = value;
        assert!(network.restore(bad).is_err(), "{member}");
        assert_eq!(network.save().unwrap(), fixture);
    }
}

#[test]
fn an_interface_that_is_down_loses_frames_until_it_is_up() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    ip("link set t0 down");
    queues[1].add(&[Part::Read(&with_header(&frame(1, 60)))]);
    driver.kick(TX);
    eventually(|| counter(&device, "tx_dropped") == 1);
    ip("link set t0 up");
    let wire = Wire::new(TAP);
    queues[1].add(&[Part::Read(&with_header(&frame(2, 60)))]);
    driver.kick(TX);
    assert!(wire.wait() == frame(2, 60));
    queues[0].add(&[Part::Write(1526)]);
    driver.kick(RX);
    sends(&wire, &frame(1, 60));
    eventually(|| queues[0].used_index() == 1);
}

#[test]
fn an_interface_that_is_removed_takes_the_link_down() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    queues[0].add(&[Part::Write(1526)]);
    driver.kick(RX);
    assert_eq!(driver.field(6, 2), 1);
    ip("link del t0");
    eventually(|| driver.field(6, 2) == 0);
    bench.sent.wait(Driver::config_message());
    queues[1].add(&[Part::Read(&with_header(&frame(1, 60)))]);
    driver.kick(TX);
    eventually(|| queues[1].used_index() == 1);
    // The machine can still be reset and stopped.
    let _queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    assert!(!driver.needs_reset());
    device.stop().unwrap();
}

#[test]
fn a_reset_of_the_machine_keeps_interface_and_address() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let config = config("num_queues=4");
    let mut first = device(&bench, &config);
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(MQ | CTRL_VQ);
    bench.attend(&mut first);
    queues[4].add(&[Part::Read(&[4, 0, 2, 0]), Part::Write(1)]);
    driver.kick(4);
    eventually(|| queues[4].used_index() == 1);
    let index = ip("link show t0");
    assert_eq!(first.decided().unwrap(), json!({ "mac": MAC }));
    first.stop().unwrap();
    let left = Box::new(first).leave().unwrap();
    let end: Arc<HostEnd> = *left.downcast().unwrap();
    assert_eq!(ip("link show t0"), index);
    let bench = Bench::new();
    let mut second = device_on(&bench, &config, end);
    second.start().unwrap();
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut second);
    let wire = Wire::new(TAP);
    for number in 0..20 {
        queues[0].add(&[Part::Write(1526)]);
        driver.kick(RX);
        sends(&wire, &frame(number, 60));
        eventually(|| queues[0].used_index() == u16::from(number) + 1);
    }
}

#[test]
fn threads_are_named_after_the_device_and_need_no_more_than_they_say() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let config = config("num_queues=4");
    let mut environment = bench.environment("_net0");
    let sets = [sandbox::COMMON, Net::SYSCALLS.worker];
    environment.rules = Filter::compile(sandbox::Mode::Trap, &sets).unwrap();
    let network = network(&config, host(&config), "_net0", &environment).unwrap();
    let mut device = OverPci::new("net", network, environment).unwrap();
    device.start().unwrap();
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    let threads = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        tasks.filter_map(name).collect()
    };
    for name in ["_net0_qp0\n", "_net0_qp1\n", "_net0_ctrl\n"] {
        eventually(|| threads().iter().any(|thread| thread == name));
    }
    queues[4].add(&[Part::Read(&[4, 0, 2, 0]), Part::Write(1)]);
    queues[4].add(&[Part::Read(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Part::Write(1)]);
    driver.kick(4);
    eventually(|| queues[4].used_index() == 2);
    let wire = Wire::new(TAP);
    queues[3].add(&[Part::Read(&with_header(&frame(2, 60)))]);
    driver.kick(3);
    assert!(wire.wait() == frame(2, 60));
}
