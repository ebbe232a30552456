//! Keys for parts of a member (`x-flag-keys`).

use proptest::option::of;
use proptest::prelude::*;
use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{error, read};
use crate::{check_json, from_str, help, parse, syntax, to_string};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Tap {
    name: Option<String>,
    #[serde(default)]
    limits: Option<Limits>,
    #[serde(default)]
    always: Limits2,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-flag-keys" = {
    "bw_size": "/bandwidth/size", "bw_burst": "/bandwidth/burst", "bw_time": "/bandwidth/time",
    "ops_size": "/ops/size", "ops_burst": "/ops/burst", "ops_time": "/ops/time",
}))]
struct Limits {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

/// One level only, and a part that is a key of no flag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-flag-keys" = { "most": "/most" }))]
struct Limits2 {
    most: Option<u8>,
    hidden: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Bucket {
    /// How much. At once.
    size: u64,
    #[serde(default)]
    #[schemars(extend("x-flag-default" = 0))]
    burst: Option<u64>,
    time: u64,
}

fn bucket(size: u64, burst: u64, time: u64) -> Bucket {
    let burst = Some(burst);
    Bucket { size, burst, time }
}

#[test]
fn parts_make_what_they_are_a_part_of() {
    assert_eq!(read::<Tap>("name=a").limits, None);
    let tap: Tap = read("ops_time=5,name=a,ops_size=7,most=3");
    let ops = Some(bucket(7, 0, 5));
    let bandwidth = None;
    assert_eq!(tap.limits, Some(Limits { bandwidth, ops }));
    assert_eq!(tap.always.most, Some(3));
    let tap: Tap = read("bw_size=1,bw_burst=2,bw_time=3,ops_size=4,ops_burst=5,ops_time=6");
    let (bandwidth, ops) = (Some(bucket(1, 2, 3)), Some(bucket(4, 5, 6)));
    assert_eq!(tap.limits, Some(Limits { bandwidth, ops }));
    // Not set is not there.
    assert_eq!(read::<Tap>("bw_size=,bw_time=").limits, None);
    let value = parse(&schema_for!(Tap), "ops_size=1,ops_time=2").unwrap();
    assert_eq!(
        value,
        json!({"limits": {"ops": {"size": 1, "burst": 0, "time": 2}}})
    );
}

#[test]
fn what_is_required_is_so_where_there_is_something() {
    assert_eq!(
        error::<Tap>("bw_size=1"),
        "missing key \"bw_time\": write bw_time=<u64>"
    );
    assert!(error::<Tap>("ops_burst=1,bw_size=1,bw_time=1").contains("ops_size"));
    assert!(error::<Tap>("bw_size=-1,bw_time=1").contains("bw_size"));
    assert!(error::<Tap>("bw_sizes=1").contains("did you mean \"bw_size\""));
    assert!(error::<Tap>("limits=1").contains("did you mean \"bw_size\""));
}

#[test]
fn help_shows_parts_as_keys() {
    let schema = schema_for!(Tap);
    assert_eq!(
        syntax(&schema),
        "name=<string>,bw_size=<u64>,bw_burst=<u64>,bw_time=<u64>,ops_size=<u64>,ops_burst=<u64>,\
         ops_time=<u64>,most=<u8>"
    );
    let text = help(&schema);
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines[1], "bw_size=<u64>    How much");
    assert_eq!(lines[2], "bw_burst=<u64>   [default: 0]");
    assert_eq!(lines.len(), 8);
}

#[test]
fn what_no_part_says_cannot_be_written() {
    let write = |limits, always| {
        to_string(&Tap {
            name: None,
            limits,
            always,
        })
        .map_err(|error| error.to_string())
    };
    let empty = Limits::default();
    assert!(
        write(Some(empty), Limits2::default())
            .unwrap_err()
            .contains("JSON only")
    );
    let hidden = Limits2 {
        most: Some(1),
        hidden: Some(1),
    };
    assert!(write(None, hidden).unwrap_err().contains("JSON only"));
    assert_eq!(write(None, Limits2::default()).unwrap(), "");
    let most = Limits2 {
        most: Some(1),
        hidden: None,
    };
    assert_eq!(write(None, most).unwrap(), "most=1");
}

#[test]
fn the_json_is_as_without() {
    let schema = schema_for!(Tap);
    check_json(&schema, &json!({"limits": {"ops": {"size": 1, "time": 2}}})).unwrap();
    check_json(
        &schema,
        &json!({"limits": {"opps": {"size": 1, "time": 2}}}),
    )
    .unwrap_err();
    check_json(&schema, &json!({"ops_size": 1})).unwrap_err();
}

proptest! {
    #[test]
    fn what_was_written_reads_the_same(
        bandwidth in of(any::<[u64; 3]>()),
        ops in of(any::<[u64; 3]>()),
        most in of(any::<u8>()),
    ) {
        let make = |bucket_of: Option<[u64; 3]>| bucket_of.map(|[a, b, c]| bucket(a, b, c));
        let limits = Limits { bandwidth: make(bandwidth), ops: make(ops) };
        let limits = (limits != Limits::default()).then_some(limits);
        let always = Limits2 { most, hidden: None };
        let tap = Tap { name: Some("a".into()), limits, always };
        prop_assert_eq!(from_str::<Tap>(&to_string(&tap).unwrap()).unwrap(), tap);
    }
}
