//! Stop, start, save, restore, reset.

use super::*;

#[test]
fn a_copy_continues_where_the_original_was() {
    let bench = Bench::new();
    let (mut original, driver, mut queues) = started(&bench, 300);
    driver.set_field(4, &200u32.to_le_bytes());
    original.update(json!({ "size": MIB })).unwrap();
    queues[0].add(&[Part::Read(&numbers([FREE / 4096]))]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    original.stop().unwrap();
    let saved = original.save().unwrap();
    drop(original);
    fill(&bench, FREE, MIB);
    queues[0].add(&[Part::Read(&numbers([FREE / 4096]))]);
    let mut copy = balloon(&bench, 300, ALL);
    copy.restore(saved).unwrap();
    copy.start().unwrap();
    eventually(|| queues[0].used_index() == 2);
    assert_eq!(present(&bench, FREE, MIB), 255);
    assert_eq!(driver.field(0, 8), 200 << 32 | 256);
    assert_eq!(copy.withheld(), 200 * 4096);
}

#[test]
fn the_first_version_of_the_state_is_read() {
    let bench = Bench::new();
    let text = include_str!("../../fixtures/state-v1.json");
    let saved: Saved = serde_json::from_str(text).unwrap();
    let mut balloon = Balloon::new(bench.ram.clone(), 0, ALL, "__balloon", Filter::none());
    balloon.restore(saved.clone()).unwrap();
    assert_eq!(balloon.withheld(), 100 * 4096);
    assert_eq!(balloon.decided(), Some(json!({ "size": 2 * MIB })));
    assert_eq!(balloon.save().unwrap(), saved);
}

#[test]
fn states_that_cannot_be_change_nothing() {
    let bench = Bench::new();
    let mut balloon = Balloon::new(bench.ram.clone(), 5, ALL, "__balloon", Filter::none());
    let state = |kind: &str, body: Value| Saved {
        kind: kind.into(),
        version: 1,
        body,
    };
    for (saved, why) in [
        (state("rng", json!({ "target": 1, "actual": 1 })), "of rng"),
        (
            state("balloon", json!({ "target": 4096, "actual": 1 })),
            "smaller than the guest's RAM",
        ),
        (state("balloon", json!({ "target": 1 })), "actual"),
        (
            state("balloon", json!({ "target": 1, "actual": 1, "more": 1 })),
            "more",
        ),
        (
            state("balloon", json!({ "target": 1, "actual": 1u64 << 32 })),
            "invalid value",
        ),
    ] {
        let error = balloon.restore(saved).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(balloon.decided(), Some(json!({ "size": 5 * 4096 })));
    }
}

#[test]
fn a_reset_forgets_what_the_driver_said_and_not_what_the_user_did() {
    let bench = Bench::new();
    let (mut device, driver, _queues) = started(&bench, 5);
    driver.set_field(4, &3u32.to_le_bytes());
    device.update(json!({ "size": 9 * 4096 })).unwrap();
    let mut queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    assert_eq!(device.withheld(), 0);
    assert_eq!(driver.field(0, 8), 9);
    fill(&bench, FREE, MIB);
    queues[0].add(&[Part::Read(&numbers([FREE / 4096]))]);
    driver.kick(0);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(present(&bench, FREE, MIB), 255);
}

#[test]
fn the_size_outlives_the_machine() {
    let bench = Bench::new();
    let (mut device, ..) = started(&bench, 5);
    device.update(json!({ "size": 9 * 4096 })).unwrap();
    device.stop().unwrap();
    let kept = Box::new(device).leave().unwrap();
    assert_eq!(kept.downcast::<Kept>().unwrap().target, 9);
}

#[test]
fn nothing_is_lost_when_it_is_stopped_at_any_time() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = started(&bench, 5);
    for round in 0..60u16 {
        for queue in [0, 1] {
            queues[queue].add(&[Part::Read(&numbers(3072..3200))]);
            driver.kick(u16::try_from(queue).unwrap());
        }
        report(&mut queues[2], round % 32, FREE, 1 << 20);
        driver.kick(2);
        device.stop().unwrap();
        let done: Vec<u16> = queues.iter().map(DriverQueue::used_index).collect();
        fill(&bench, FREE, MIB);
        assert_eq!(
            present(&bench, FREE, MIB),
            256,
            "nothing is dropped while it is stopped"
        );
        assert_eq!(
            done,
            queues
                .iter()
                .map(DriverQueue::used_index)
                .collect::<Vec<_>>()
        );
        device.start().unwrap();
        eventually(|| queues.iter().all(|queue| queue.used_index() == round + 1));
    }
    assert!(!driver.needs_reset());
}
