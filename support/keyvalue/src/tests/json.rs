//! `check_json`: members that no type has.

use schemars::{JsonSchema, Schema, json_schema, schema_for};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fixture::{Console, Cpus, Memory, Platform};
use crate::check_json;

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Vm {
    cpus: Cpus,
    memory: Option<Memory>,
    console: Console,
    platform: Option<Platform>,
    labels: std::collections::BTreeMap<String, Label>,
    target: Target,
    anything: Value,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Label {
    text: String,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum Target {
    Nowhere,
    Local { path: String },
    Remote { host: String, port: u16 },
}

/// The message about `value` as a `Vm`.
fn fault(value: &Value) -> Option<String> {
    check_json(&schema_for!(Vm), value)
        .err()
        .map(|error| error.to_string())
}

#[test]
fn what_is_known_passes_and_types_are_not_looked_at() {
    let vm = json!({
        "cpus": {"boot_vcpus": 1, "topology": {"packages": 1}, "features": {"amx": true}},
        "memory": {"size": "not a number", "zones": [{"id": "a"}]},
        "console": {"mode": "Tty", "id": "flattened"},
        "target": {"Remote": {"host": "h", "port": 1}},
        "anything": {"at": {"all": 1}},
        "labels": {"any name": {"text": "x"}},
    });
    assert_eq!(fault(&vm), None);
    assert_eq!(
        fault(&json!({"memory": null, "platform": null, "target": "Nowhere"})),
        None
    );
}

#[test]
fn a_list_is_no_object() {
    let text = |path: &str| {
        Some(format!(
            "{path}: it is a list, and should be an object with members"
        ))
    };
    assert_eq!(fault(&json!([1, 2])), text("$"));
    assert_eq!(fault(&json!({"cpus": [1, 1]})), text("$.cpus"));
    assert_eq!(fault(&json!({"memory": [1]})), text("$.memory"));
    assert_eq!(
        fault(&json!({"memory": {"zones": [["a"]]}})),
        text("$.memory.zones[0]")
    );
    assert_eq!(
        fault(&json!({"anything": [1], "labels": {"a": {"text": [1]}}})),
        None
    );
}

#[test]
fn an_unknown_member_has_a_path_and_a_neighbour() {
    let message = fault(&json!({"cpus": {"boot_vcpus": 1, "bot_vcpus": 2}})).unwrap();
    let start = "unknown member $.cpus.bot_vcpus, did you mean \"boot_vcpus\"? known members: \
                 boot_vcpus, max_vcpus, topology, ";
    assert!(message.starts_with(start), "{message}");
    let message = fault(&json!({"disk": []})).unwrap();
    assert!(
        message.starts_with("unknown member $.disk; known members: cpus, memory, "),
        "{message}"
    );
}

#[test]
fn unknown_members_are_found_wherever_they_are() {
    for (value, path) in [
        (
            json!({"memory": {"zones": [{"id": "a"}, {"idd": "b"}]}}),
            "$.memory.zones[1].idd",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 0, "cpus": []}]}}),
            "$.cpus.affinity[0].cpus",
        ),
        (
            json!({"cpus": {"features": {"amy": true}}}),
            "$.cpus.features.amy",
        ),
        (
            json!({"console": {"pci_segmnt": 0}}),
            "$.console.pci_segmnt",
        ),
        (
            json!({"labels": {"a b": {"txt": ""}}}),
            "$.labels[\"a b\"].txt",
        ),
        (json!({"cpus": {"": 0}}), "$.cpus[\"\"]"),
    ] {
        let message = fault(&value).unwrap();
        assert!(
            message.starts_with(&format!("unknown member {path}")),
            "{message}"
        );
    }
}

#[test]
fn flag_names_are_no_members_but_understood() {
    let message = fault(&json!({"cpus": {"boot": 1}})).unwrap();
    assert!(
        message.starts_with("unknown member $.cpus.boot, did you mean \"boot_vcpus\"?"),
        "{message}"
    );
}

#[test]
fn old_names_pass_if_the_schema_tells_of_them() {
    assert_eq!(fault(&json!({"platform": {"uuid": "x"}})), None);
    // Known on the command line only.
    assert!(fault(&json!({"platform": {"guid": "x"}})).is_some());
}

#[test]
fn of_several_alternatives_the_nearest_is_complained_about() {
    let message = fault(&json!({"target": {"Remote": {"host": "h", "prot": 1}}})).unwrap();
    assert_eq!(
        message,
        "unknown member $.target.Remote.prot, did you mean \"port\"? known members: host, port"
    );
    assert!(
        fault(&json!({"target": {"Remot": {}}}))
            .unwrap()
            .starts_with("unknown member $.target.Remot")
    );
}

#[test]
fn objects_of_unknown_members_are_free_unless_closed() {
    let open = json_schema!({"type": "object"});
    let closed = json_schema!({"type": "object", "additionalProperties": false});
    let extended = json_schema!({"properties": {"a": {}}, "additionalProperties": true});
    let value = json!({"x": {"y": 1}});
    assert!(check_json(&open, &value).is_ok());
    assert!(check_json(&extended, &value).is_ok());
    assert!(check_json(&Schema::from(true), &value).is_ok());
    assert_eq!(
        check_json(&closed, &value).unwrap_err().to_string(),
        "unknown member $.x; there are no members here"
    );
}

#[test]
fn a_schema_that_is_nothing_but_itself_ends() {
    let value = json!({"x": [{"y": 1}]});
    let itself = json_schema!({"$ref": "#"});
    assert!(check_json(&itself, &value).is_ok());
    let branching = json_schema!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]});
    assert!(check_json(&branching, &value).is_ok());
    let broken = json_schema!({"$ref": "#/$defs/Missing"});
    assert!(check_json(&broken, &value).is_ok());
}
