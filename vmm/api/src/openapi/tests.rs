use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::ENDPOINTS;

/// The document as it is committed, beside the other documentation.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let golden = Path::new(GOLDEN);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(golden, text()).unwrap();
    }
    let committed = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(
        committed == text(),
        "docs/openapi.json is not what the types say: UPDATE_OPENAPI=1 cargo test -p api"
    );
}

/// All places that something in a value refers to.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(to) = members.get("$ref").and_then(Value::as_str) {
                found.insert(to.to_owned());
            }
            for member in members.values() {
                references(member, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|one| references(one, found)),
        _ => {}
    }
}

#[test]
fn what_is_referred_to_is_there_and_nothing_else_is() {
    let document = document();
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    let there: BTreeSet<String> = document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(used, there);
}

#[test]
fn no_word_of_the_other_dialect_is_left() {
    let text = text();
    for word in ["\"$defs\"", "\"const\"", "\"x-flag", "\"null\"", "uint16"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn each_endpoint_and_each_device_is_described() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), ENDPOINTS.len());
    let mut names = BTreeSet::new();
    for path in paths
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
    {
        assert!(names.insert(path["operationId"].as_str().unwrap()));
    }
    assert!(names.contains("vmAddDiskPut") && names.contains("createVM"));
    let machine = &document["components"]["schemas"]["VmConfig"]["properties"];
    for (option, _) in catalog::options() {
        assert!(machine.get(option.field).is_some(), "{}", option.field);
    }
    assert_eq!(
        machine["disks"]["items"]["$ref"],
        "#/components/schemas/DiskConfig"
    );
    let console = machine["console"]["description"].as_str().unwrap();
    assert!(console.contains(r#"Default: `{"mode":"Tty""#), "{console}");
}

#[test]
fn names_of_the_reference_are_of_types_that_exist() {
    let document = document();
    for (ours, theirs) in schemas::NAMES {
        let schemas = &document["components"]["schemas"];
        assert!(schemas.get(*ours).is_none(), "{ours}");
        assert!(schemas.get(*theirs).is_some(), "{theirs}");
    }
}

#[test]
fn what_must_be_there_is_what_the_reference_wants() {
    let document = document();
    for (schema, required) in [
        ("CpusConfig", &["boot_vcpus", "max_vcpus"][..]),
        ("VmInfo", &["config", "state", "memory_actual_size"]),
        ("DeviceNode", &["id", "resources", "children"]),
        ("VsockConfig", &["cid", "socket"]),
        ("VmResizeDisk", &["id", "desired_size"]),
    ] {
        let there: BTreeSet<&str> = document["components"]["schemas"][schema]["required"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(there, required.iter().copied().collect(), "{schema}");
    }
}
