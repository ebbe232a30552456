use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn bucket(size: u64, burst: u64, refill_time: u64) -> TokenBucketConfig {
    TokenBucketConfig {
        size,
        one_time_burst: Some(burst),
        refill_time,
    }
}

fn limiter(
    bandwidth: Option<TokenBucketConfig>,
    ops: Option<TokenBucketConfig>,
) -> (Limiter, Instant) {
    let now = Instant::now();
    let config = RateLimiterConfig { bandwidth, ops };
    (Limiter::new(&config, now), now)
}

#[test]
fn without_buckets_or_with_empty_ones_nothing_is_limited() {
    let nothing = [bucket(0, 5, 10), bucket(5, 5, 0)];
    for config in nothing.map(Some).into_iter().chain([None]) {
        let (limiter, now) = limiter(config, config);
        for _ in 0..1000 {
            assert_eq!(limiter.take(u64::MAX, u64::MAX, now), Ok(()));
        }
        let config = RateLimiterConfig {
            bandwidth: config,
            ops: config,
        };
        assert!(!config.is_limit());
    }
}

#[test]
fn the_burst_goes_first_and_is_there_once() {
    let (limiter, now) = limiter(Some(bucket(100, 50, 1000)), None);
    assert_eq!(limiter.take(50, 1, now), Ok(()));
    // The bucket is still full.
    assert_eq!(limiter.take(100, 1, now), Ok(()));
    assert_eq!(limiter.take(1, 1, now), Err(10 * MS));
    let later = now + 5000 * MS;
    assert_eq!(limiter.take(100, 1, later), Ok(()));
    assert_eq!(limiter.take(1, 1, later), Err(10 * MS));
}

#[test]
fn a_request_larger_than_the_bucket_passes_and_others_pay() {
    let (limiter, now) = limiter(Some(bucket(100, 0, 1000)), None);
    assert_eq!(limiter.take(1000, 1, now), Ok(()));
    // 900 to pay, and one token to be there.
    assert_eq!(limiter.take(1, 1, now), Err(9010 * MS));
    assert_eq!(limiter.take(1, 1, now + 9009 * MS), Err(MS));
    assert_eq!(limiter.take(1, 1, now + 9010 * MS), Ok(()));
}

#[test]
fn both_are_taken_or_neither() {
    let (limiter, now) = limiter(Some(bucket(10, 0, 1000)), Some(bucket(2, 0, 1000)));
    assert_eq!(limiter.take(1, 2, now), Ok(()));
    for _ in 0..100 {
        assert_eq!(limiter.take(9, 1, now), Err(500 * MS));
    }
    // The bytes are all there: what needs no operation passes.
    assert_eq!(limiter.take(9, 0, now), Ok(()));
    assert_eq!(limiter.take(1, 1, now), Err(500 * MS));
    // What needs nothing passes in any case.
    assert_eq!(limiter.take(0, 0, now), Ok(()));
}

#[test]
fn time_that_goes_back_gives_nothing() {
    let (limiter, now) = limiter(None, Some(bucket(1, 0, 100)));
    assert_eq!(limiter.take(0, 1, now + 1000 * MS), Ok(()));
    assert_eq!(limiter.take(0, 1, now), Err(100 * MS));
    assert_eq!(limiter.take(0, 1, now + 1099 * MS), Err(MS));
    assert_eq!(limiter.take(0, 1, now + 1100 * MS), Ok(()));
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let huge = bucket(u64::MAX, u64::MAX, u64::MAX);
    let (first, now) = limiter(Some(huge), Some(huge));
    for _ in 0..1000 {
        if first.take(u64::MAX, u64::MAX, now).is_err() {
            break;
        }
    }
    assert!(first.take(1, 1, now).is_err());
    let (slow, now) = limiter(Some(bucket(1, 0, u64::MAX)), None);
    assert_eq!(slow.take(u64::MAX, 1, now), Ok(()));
    assert!(slow.take(1, 1, now).is_err());
    assert!(slow.take(1, 1, now + Duration::from_secs(1 << 32)).is_err());
}

#[test]
fn clones_share_the_buckets() {
    let (limiter, now) = limiter(None, Some(bucket(1000, 0, 1_000_000)));
    let taken: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let limiter = limiter.clone();
                scope.spawn(move || {
                    let passes = (0..1000).filter(|_| limiter.take(0, 1, now).is_ok());
                    u64::try_from(passes.count()).unwrap()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(taken, 1000);
}

#[test]
fn groups_are_there_as_long_as_their_guards() {
    let groups = Groups::default();
    let (limiter, now) = limiter(None, Some(bucket(1, 0, 1000)));
    let guard = groups.add("a", limiter.clone()).unwrap();
    assert!(groups.add("a", limiter.clone()).is_none());
    let _other = groups.clone().add("b", limiter).unwrap();
    assert_eq!(groups.names(), ["a", "b"]);
    let shared = groups.get("a").unwrap();
    assert_eq!(shared.take(0, 1, now), Ok(()));
    assert!(groups.get("b").unwrap().take(0, 1, now).is_err());
    drop(guard);
    assert!(groups.get("a").is_none());
    assert_eq!(groups.names(), ["b"]);
    // Who has it keeps it.
    assert!(shared.take(0, 1, now).is_err());
}

#[test]
fn the_json_is_strict_and_shows_nothing_as_null() {
    let read = serde_json::from_str::<RateLimiterConfig>;
    let config = read(r#"{"bandwidth":{"size":1,"refill_time":2}}"#).unwrap();
    assert_eq!(
        serde_json::to_string(&config).unwrap(),
        r#"{"bandwidth":{"size":1,"one_time_burst":null,"refill_time":2},"ops":null}"#
    );
    assert!(read(r#"{"bandwith":null}"#).is_err());
    assert!(read(r#"{"ops":{"size":1}}"#).is_err());
    assert!(read(r#"{"ops":{"size":-1,"refill_time":2}}"#).is_err());
}

#[test]
fn flags_have_flat_keys() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    struct Device {
        #[serde(default)]
        rate_limiter_config: Option<RateLimiterConfig>,
    }
    let text = "bw_size=1,bw_one_time_burst=2,bw_refill_time=3,ops_size=4,ops_refill_time=5";
    let device: Device = keyvalue::from_str(text).unwrap();
    let config = RateLimiterConfig {
        bandwidth: Some(bucket(1, 2, 3)),
        ops: Some(bucket(4, 0, 5)),
    };
    assert_eq!(device.rate_limiter_config, Some(config));
    assert_eq!(keyvalue::to_string(&device).unwrap(), text);
    let half = keyvalue::from_str::<Device>("ops_one_time_burst=1,ops_size=5").unwrap_err();
    assert!(half.to_string().contains("ops_refill_time"), "{half}");
    let none: Device = keyvalue::from_str("").unwrap();
    assert_eq!(none.rate_limiter_config, None);
}

proptest! {
    /// Whatever is asked for and when: never more has passed than the bucket, its burst, the refill and one request
    /// allow; and who waits as long as told to passes.
    #[test]
    fn the_rate_is_kept(
        size in 1..10_000_u64,
        burst in 0..5000_u64,
        refill_ms in 1..2000_u64,
        requests in prop::collection::vec((1..20_000_u64, 0..50_000_u64), 1..200),
    ) {
        let (limiter, start) = limiter(Some(bucket(size, burst, refill_ms)), None);
        let (mut now, mut passed, mut last) = (start, 0_u128, 0_u64);
        for (bytes, pause_us) in requests {
            now += Duration::from_micros(pause_us);
            if let Err(wait) = limiter.take(bytes, 1, now) {
                prop_assert!(wait >= MS);
                now += wait;
                prop_assert_eq!(limiter.take(bytes, 1, now), Ok(()));
            }
            let refilled = u128::from(size) * (now - start).as_nanos() / (u128::from(refill_ms) * 1_000_000);
            // Before this one there was at least one token.
            prop_assert!(passed < u128::from(size + burst) + refilled);
            passed += u128::from(bytes);
            last = last.max(bytes);
            prop_assert!(passed <= u128::from(size + burst + last) + refilled);
        }
    }

    /// Who always asks gets all of the rate, to the token.
    #[test]
    fn nothing_is_lost(size in 1..200_u64, refill_ms in 1..100_u64, seconds in 1..4_u32) {
        let (limiter, start) = limiter(None, Some(bucket(size, 0, refill_ms)));
        let end = start + Duration::from_secs(seconds.into());
        let (mut now, mut passed) = (start, 0_u64);
        while now <= end {
            match limiter.take(0, 1, now) {
                Ok(()) => passed += 1,
                Err(wait) => now += wait,
            }
        }
        let expected = size + size * u64::from(seconds) * 1000 / refill_ms;
        // The last wait may have led past the end.
        let most_at_once = size.div_ceil(refill_ms) + 1;
        prop_assert!(passed <= expected && expected - passed <= most_at_once, "{passed} of {expected}");
    }
}
