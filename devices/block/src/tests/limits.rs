//! Limits.

use std::time::{Duration, Instant};

use limiter::TokenBucketConfig;

use super::*;

fn bucket(size: u64, refill_time: u64) -> Option<TokenBucketConfig> {
    Some(TokenBucketConfig {
        size,
        one_time_burst: None,
        refill_time,
    })
}

fn limited(bandwidth: Option<TokenBucketConfig>, ops: Option<TokenBucketConfig>) -> Limiter {
    Limiter::new(&RateLimiterConfig { bandwidth, ops }, Instant::now())
}

#[test]
fn what_is_over_the_limit_waits_and_goes_on() {
    let bench = Bench::new();
    let disk = Double::new(1 << 20);
    let mut parts = parts(disk.clone());
    parts.limiter = Some(limited(None, bucket(4, 100)));
    let mut device = plug(&bench, parts);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    let start = Instant::now();
    let statuses: Vec<_> = (0..5)
        .map(|number| guest.add(0, IN, number * 2, &[Part::Write(512)]))
        .collect();
    guest.kick(0);
    guest.wait(0, 5);
    assert!(
        start.elapsed() >= Duration::from_millis(24),
        "one had to wait for 25 ms"
    );
    for addresses in statuses {
        assert_eq!(guest.status(&addresses), OK);
    }
    assert_eq!(disk.log().len(), 5);
}

#[test]
fn bytes_are_limited_and_a_large_request_passes() {
    let bench = Bench::new();
    let mut parts = parts(Double::new(1 << 20));
    parts.limiter = Some(limited(bucket(1024, 20), None));
    let mut device = plug(&bench, parts);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    let start = Instant::now();
    assert_eq!(guest.request(IN, 0, &[Part::Write(4096)]).0, OK);
    assert_eq!(guest.request(IN, 0, &[Part::Write(512)]).0, OK);
    assert!(
        start.elapsed() >= Duration::from_millis(59),
        "3 KiB were owed"
    );
    // What has no bytes is not limited by them.
    assert_eq!(guest.request(FLUSH, 0, &[]).0, OK);
}

#[test]
fn what_waits_can_be_stopped_and_saved() {
    let bench = Bench::new();
    let disk = Double::new(1 << 20);
    let mut limits = parts(disk.clone());
    limits.limiter = Some(limited(None, bucket(1, 3_600_000)));
    let mut device = plug(&bench, limits);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    for number in 0..3 {
        guest.add(0, IN, number * 2, &[Part::Write(512)]);
    }
    guest.kick(0);
    guest.wait(0, 1);
    device.stop().unwrap();
    assert_eq!(guest.queues[0].used_index(), 1);
    let saved = device.save().unwrap();
    drop(device);
    // Another limit, another day.
    let device = BlockDevice::new(parts(disk.clone()));
    let mut device = OverPci::new(Block::KIND, device, bench.environment("_disk0")).unwrap();
    device.restore(saved).unwrap();
    device.start().unwrap();
    guest.wait(0, 3);
    assert_eq!(disk.log(), ["read 0+512", "read 1024+512", "read 2048+512"]);
    let _ = device;
}

#[test]
fn what_waits_can_be_reset() {
    let bench = Bench::new();
    let mut limits = parts(Double::new(1 << 20));
    limits.limiter = Some(limited(None, bucket(1, 3_600_000)));
    let mut device = plug(&bench, limits);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    for sector in 0..2 {
        guest.add(0, IN, sector, &[Part::Write(512)]);
    }
    guest.kick(0);
    guest.wait(0, 1);
    guest.driver.set_status(0);
    assert_eq!(guest.driver.status(), 0);
    assert_eq!(guest.queues[0].used_index(), 1);
}

#[test]
fn a_group_is_found_by_name() {
    let groups = Groups::default();
    let problem = of_group("g", &groups).unwrap_err();
    assert!(problem.text.contains("--rate-limit-group"), "{problem}");
    let limiter = limited(None, bucket(1, 3_600_000));
    let _guards = ["b", "a"].map(|name| groups.add(name, limiter.clone()).unwrap());
    let problem = of_group("g", &groups).unwrap_err();
    assert!(problem.text.ends_with("there are a, b"), "{problem}");
    let found = of_group("a", &groups).unwrap();
    found.take(0, 1, Instant::now()).unwrap();
    limiter.take(0, 1, Instant::now()).unwrap_err();
}
