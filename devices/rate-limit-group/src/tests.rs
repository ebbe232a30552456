use device::AnyKind;
use serde_json::json;

use super::*;

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| RateLimitGroup.read_flag(text).unwrap();
    let config = json!({
        "id": "g",
        "rate_limiter_config": {
            "bandwidth": { "size": 1000, "one_time_burst": 50, "refill_time": 100 },
            "ops": { "size": 10, "one_time_burst": 0, "refill_time": 200 }
        }
    });
    let text =
        "id=g,bw_size=1000,bw_one_time_burst=50,bw_refill_time=100,ops_size=10,ops_refill_time=200";
    assert_eq!(read(text), config);
    assert_eq!(RateLimitGroup.write_flag(&config), text);
    let empty = json!({ "id": "", "rate_limiter_config": { "bandwidth": null, "ops": null } });
    assert_eq!(read(""), empty);
}

#[test]
fn a_group_needs_a_name_and_a_limit() {
    let check = |config| AnyKind::check(&RateLimitGroup, &config, &Facts::default());
    let full = json!({ "ops": { "size": 1, "refill_time": 1 } });
    let zero = json!({ "ops": { "size": 0, "refill_time": 1 } });
    check(json!({ "id": "g", "rate_limiter_config": full })).unwrap();
    for (config, reason) in [
        (json!({ "rate_limiter_config": full }), "id is missing"),
        (
            json!({ "id": "__g", "rate_limiter_config": full }),
            "monitor's own",
        ),
        (json!({ "id": "g" }), "limits nothing"),
        (
            json!({ "id": "g", "rate_limiter_config": zero }),
            "limits nothing",
        ),
        (json!({ "id": "g", "rate_limiter": full }), "rate_limiter"),
    ] {
        let problem = check(config).unwrap_err();
        assert!(problem.text.contains(reason), "{problem}");
        assert_eq!(problem.option, "--rate-limit-group");
    }
}

#[test]
fn a_group_is_there_until_its_device_is_dropped() {
    let groups = Groups::default();
    let config: RateLimitGroupConfig = serde_json::from_value(json!({
        "id": "g",
        "rate_limiter_config": { "ops": { "size": 1, "refill_time": 1_000_000 } }
    }))
    .unwrap();
    let mut group = Group::new(&config, &groups).unwrap();
    let problem = Group::new(&config, &groups).unwrap_err();
    assert!(problem.text.contains("two groups called g"));
    let (first, second) = (groups.get("g").unwrap(), groups.get("g").unwrap());
    assert_eq!(first.take(0, 1, Instant::now()), Ok(()));
    assert!(second.take(0, 1, Instant::now()).is_err(), "they share it");
    let saved = group.save().unwrap();
    group.restore(saved).unwrap();
    drop(group);
    assert!(groups.names().is_empty());
}
