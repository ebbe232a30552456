//! Stop, start, reset, save and restore, with requests under way; several queues; changes.

use ::device::Saved;
use serde_json::json;
use virtio::VirtioDevice;

use super::*;

const QUEUE_RESET: usize = 58;
const QUEUE_SELECT: usize = 22;
const QUEUE_ENABLE: usize = 28;

/// Does `act` while `disk` holds back what is under way, and lets go as soon as that waits for it.
fn held<R: Send>(disk: &Double, act: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        eventually(|| disk.is_draining());
        disk.release();
        acting.join().unwrap()
    })
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_nothing_is_lost() {
    at_work!(bench, disk, device, guest);
    for round in 0..5_u16 {
        disk.hold();
        let addresses: Vec<_> = (0..5)
            .map(|number| guest.add(0, OUT, number * 2, &[Part::Read(&[7; 512])]))
            .collect();
        guest.kick(0);
        eventually(|| disk.deepest() >= 5);
        assert_eq!(guest.queues[0].used_index(), round * 10);
        held(&disk, || device.stop().unwrap());
        assert_eq!(guest.queues[0].used_index(), round * 10 + 5);
        for addresses in addresses {
            assert_eq!(guest.status(&addresses), OK);
        }
        for number in 0..5 {
            guest.add(0, IN, number * 2, &[Part::Write(512)]);
        }
        guest.kick(0);
        device.start().unwrap();
        guest.wait(0, round * 10 + 10);
    }
    guest.assert_alive();
}

#[test]
fn what_takes_several_steps_takes_all_of_them_before_it_stops() {
    at_work!(bench, disk, device, guest);
    guest.driver.set_field(32, &[0]);
    disk.hold();
    let ranges = [range(1, 1, 0), range(2, 1, 0), range(3, 1, 0)].concat();
    let at = guest.add(0, WRITE_ZEROES, 0, &[Part::Read(&ranges)]);
    guest.kick(0);
    eventually(|| disk.deepest() >= 1);
    held(&disk, || device.stop().unwrap());
    assert_eq!(guest.status(&at), OK);
    assert_eq!(disk.log().len(), 4);
    assert_eq!(guest.queues[0].used_index(), 1);
}

#[test]
fn a_copy_goes_on_where_the_original_stopped() {
    at_work!(bench, disk, device, guest);
    guest.driver.set_field(32, &[0]);
    disk.hold();
    guest.add(0, OUT, 3, &[Part::Read(&[9; 512])]);
    guest.kick(0);
    eventually(|| disk.deepest() >= 1);
    held(&disk, || device.stop().unwrap());
    let text = serde_json::to_string(&device.save().unwrap()).unwrap();
    drop(device);
    let device = BlockDevice::new(parts(disk.clone()));
    let mut copy = OverPci::new(Block::KIND, device, bench.environment("_disk0")).unwrap();
    copy.restore(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(serde_json::to_string(&copy.save().unwrap()).unwrap(), text);
    copy.start().unwrap();
    assert_eq!(guest.queues[0].used_index(), 1);
    disk.log();
    assert_eq!(guest.request(OUT, 4, &[Part::Read(&[9; 512])]).0, OK);
    assert_eq!(
        disk.log(),
        ["write 2048+512", "flush"],
        "the cache is still off"
    );
}

#[test]
fn the_first_version_of_the_state_is_read() {
    let text = include_str!("../../fixtures/state-v1.json");
    let saved: Saved = serde_json::from_str(text).unwrap();
    let mut device = BlockDevice::new(parts(Double::new(1 << 20)));
    device.restore(saved).unwrap();
    assert_eq!(
        serde_json::to_value(device.save().unwrap()).unwrap(),
        serde_json::from_str::<serde_json::Value>(text).unwrap()
    );
    let mut byte = [9];
    device.read_config(32, &mut byte);
    assert_eq!(byte, [0]);
    let other = Saved {
        version: 2,
        ..device.save().unwrap()
    };
    assert!(device.restore(other).is_err());
    let other = Saved {
        kind: "net".into(),
        ..device.save().unwrap()
    };
    assert!(device.restore(other).is_err());
    assert_eq!(device.save().unwrap().body["writeback"], false, "as it was");
}

#[test]
fn another_size_than_before_the_restore_is_told() {
    at_work!(bench, disk, device, guest);
    device.stop().unwrap();
    let saved = device.save().unwrap();
    drop(device);
    disk.resize(2 << 20).unwrap();
    let _ = bench.sent.take();
    let device = BlockDevice::new(parts(disk.clone()));
    let mut copy = OverPci::new(Block::KIND, device, bench.environment("_disk0")).unwrap();
    copy.restore(saved).unwrap();
    copy.start().unwrap();
    bench.sent.wait(Driver::config_message());
    assert_eq!(guest.driver.field(0, 8), 4096);
    guest.assert_alive();
}

#[test]
fn a_reset_waits_for_what_is_under_way() {
    at_work!(bench, disk, device, guest);
    disk.hold();
    for number in 0..4 {
        guest.add(0, IN, number * 2, &[Part::Write(512)]);
    }
    guest.kick(0);
    eventually(|| disk.deepest() >= 4);
    held(&disk, || guest.driver.set_status(0));
    // After the reset nothing is written to the guest's memory.
    let used = guest.queues[0].used_index();
    assert_eq!(used, 4);
    drop(guest);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    guest.assert_alive();
}

#[test]
fn one_queue_is_reset_and_the_others_go_on() {
    let bench = Bench::new();
    let disk = Double::new(1 << 20);
    let mut two = parts(disk.clone());
    two.queues = vec![vec![], vec![]];
    let mut device = plug(&bench, two);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    guest.assert_alive();
    guest.add(1, IN, 1, &[Part::Write(512)]);
    guest.kick(1);
    guest.wait(1, 1);
    guest.driver.set_common(QUEUE_SELECT, 2, 1);
    guest.driver.set_common(QUEUE_RESET, 2, 1);
    assert_eq!(guest.driver.common(QUEUE_RESET, 2), 0, "it is done");
    assert_eq!(guest.driver.common(QUEUE_ENABLE, 2), 0);
    guest.assert_alive();
    guest.queues[1] = guest.driver.queue(1, 8);
    bench.attend(&mut device);
    let at = guest.add(1, IN, 1, &[Part::Write(512)]);
    guest.kick(1);
    guest.wait(1, 1);
    assert_eq!(guest.status(&at), OK);
    guest.assert_alive();
}

#[test]
fn four_queues_work_at_the_same_time() {
    let bench = Bench::new();
    let disk = Double::new(1 << 20);
    let mut four = parts(disk.clone());
    four.queues = vec![vec![]; 4];
    let mut device = plug(&bench, four);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    assert_ne!(guest.driver.offered() & fields::feature::MQ, 0);
    assert_eq!(guest.driver.field(34, 2), 4);
    let mut statuses = Vec::new();
    for round in 1..=40_u16 {
        disk.hold();
        for queue in 0..4_u16 {
            for part in 0..4 {
                let sector = u64::from(queue * 512 + round * 4 + part);
                let bytes = [queue.to_le_bytes()[0] + 1; 512];
                statuses.push(guest.add(queue, OUT, sector, &[Part::Read(&bytes)]));
            }
            guest.kick(queue);
        }
        disk.release();
        for queue in 0..4 {
            guest.wait(queue, round * 4);
        }
    }
    for addresses in &statuses {
        assert_eq!(guest.status(addresses), OK);
    }
    for queue in 0..4_u8 {
        let at = usize::from(queue) * 512 * 512 + 4 * 512;
        assert_eq!(disk.bytes(at, 160 * 512), vec![queue + 1; 160 * 512]);
    }
    let counters: std::collections::HashMap<_, _> = device.counters().into_iter().collect();
    assert_eq!(counters["write_ops"], 640);
    assert_eq!(counters["write_bytes"], 640 * 512);
    assert_eq!(counters["read_ops"], 0);
    assert_eq!(counters["read_latency_min"], u64::MAX);
    assert!(counters["write_latency_min"] <= counters["write_latency_avg"]);
    assert!(counters["write_latency_avg"] <= counters["write_latency_max"]);
}

#[test]
fn only_what_worked_is_counted() {
    at_work!(bench, disk, device, guest);
    disk.fail("read", 5);
    assert_eq!(guest.request(IN, 0, &[Part::Write(512)]).0, IOERR);
    disk.heal();
    assert_eq!(guest.request(IN, 0, &[Part::Write(1024)]).0, OK);
    assert_eq!(guest.request(FLUSH, 0, &[]).0, OK);
    assert_eq!(
        guest.request(DISCARD, 0, &[Part::Read(&range(0, 1, 0))]).0,
        OK
    );
    let counters: std::collections::HashMap<_, _> = device.counters().into_iter().collect();
    assert_eq!((counters["read_ops"], counters["read_bytes"]), (1, 1024));
    assert_eq!((counters["write_ops"], counters["write_bytes"]), (0, 0));
}

#[test]
fn many_requests_are_one_batch_with_one_interrupt() {
    at_work!(bench, disk, device, guest);
    device.stop().unwrap();
    for number in 0..5 {
        guest.add(0, IN, number * 2, &[Part::Write(512)]);
    }
    let _ = bench.sent.take();
    device.start().unwrap();
    guest.wait(0, 5);
    assert_eq!(disk.deepest(), 5, "pushed together");
    let queue = Driver::queue_message(0);
    eventually(|| !guest.driver.needs_reset());
    device.stop().unwrap();
    let sent = bench.sent.take();
    assert_eq!(
        sent.iter().filter(|message| message.data == queue).count(),
        1
    );
}

#[test]
fn a_disk_grows_while_it_works() {
    at_work!(bench, disk, device, guest);
    assert_eq!(guest.request(IN, 4095, &[Part::Write(512)]).0, IOERR);
    let _ = bench.sent.take();
    device.update(json!({ "size": 2 << 20 })).unwrap();
    bench.sent.wait(Driver::config_message());
    assert_eq!(guest.driver.field(0, 8), 4096);
    assert_eq!(guest.request(IN, 4095, &[Part::Write(512)]).0, OK);
    for change in [
        json!({ "size": 1000 }),
        json!({ "size": 0 }),
        json!({ "size": 1u64 << 40 }),
        json!({ "size": -512 }),
        json!({ "sise": 512 }),
        json!({ "size": 512, "more": 1 }),
        json!(512),
    ] {
        let error = device.update(change).unwrap_err();
        assert_eq!(error.to_string(), "the size of _disk0 cannot be changed");
    }
    assert_eq!(disk.capacity(), 2 << 20);
    assert!(
        bench
            .sent
            .take()
            .iter()
            .all(|message| message.data != Driver::config_message())
    );
    guest.assert_alive();
}

#[test]
fn a_read_only_disk_keeps_its_size() {
    let bench = Bench::new();
    let disk = Double::read_only();
    let mut device = plug(&bench, parts(disk.clone()));
    let error = device.update(json!({ "size": 2 << 20 })).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("readonly"), "{source}");
    assert_eq!(disk.capacity(), 1 << 20);
}

#[test]
fn a_lane_that_breaks_ends_the_queue_and_nothing_else() {
    at_work!(bench, disk, device, guest);
    disk.break_lanes();
    guest.add(0, IN, 0, &[Part::Write(512)]);
    guest.kick(0);
    eventually(|| guest.driver.needs_reset());
    device.stop().unwrap();
    device.start().unwrap();
    assert!(guest.driver.needs_reset());
}

#[test]
fn the_open_image_is_left_to_the_next_machine() {
    at_work!(bench, disk, device, guest);
    guest.assert_alive();
    drop(guest);
    device.stop().unwrap();
    assert_eq!(device.decided().unwrap(), json!({ "engine": "sync" }));
    disk.damage("a table");
    let decided = json!({ "engine": "sync", "damage": "a table" });
    assert_eq!(device.decided().unwrap(), decided);
    let left = Box::new(device).leave().unwrap();
    let kept = left.downcast::<Kept>().unwrap();
    assert_eq!(kept.options, OpenOptions::new("/vm/disk.raw"));
    assert!(std::ptr::eq(
        Arc::as_ptr(&kept.disk).cast::<Double>(),
        Arc::as_ptr(&disk)
    ));
}

#[test]
fn threads_run_where_they_are_told_to() {
    check_affinity(&[vec![], vec![0]]).unwrap();
    let error = check_affinity(&[vec![0], vec![100_000]]).unwrap_err();
    assert_eq!(error.to_string(), "--disk queue_affinity");
    let bench = Bench::new();
    let mut pinned = parts(Double::new(1 << 20));
    pinned.id = "pinned".into();
    pinned.queues = vec![vec![1]];
    let mut device = plug(&bench, pinned);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    guest.assert_alive();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of =
        |task: &std::path::Path, file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    let cpus: Vec<_> = tasks
        .map(|task| task.unwrap().path())
        .filter(|task| of(task, "comm") == "pinned_q0\n")
        .map(|task| of(&task, "status"))
        .collect();
    assert_eq!(cpus.len(), 1);
    assert!(cpus[0].contains("Cpus_allowed_list:\t1\n"), "{}", cpus[0]);
}
