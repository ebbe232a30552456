//! The schemas of bodies, by the names that the reference's document gives them.

use std::collections::BTreeMap;

use config::VmConfig;
use device::{Form, OptionNames};
use machine::{Forked, Info, PciDevice};
use schemars::{Schema, schema_for};
use serde_json::{Value, json};

use super::dialect::{convert, say_default};
use crate::ENDPOINTS;
use crate::create;
use crate::endpoint::{self, Takes};
use crate::response::Ping;

/// Types of ours that the reference's document calls otherwise.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("CoreScheduling", "CoreSchedulingMode"),
    ("CpuProfileName", "CpuProfile"),
    ("Info", "VmInfo"),
    ("Node", "DeviceNode"),
    ("PciDevice", "PciDeviceInfo"),
    ("Ping", "VmmPingResponse"),
    ("RemoveDevice", "VmRemoveDevice"),
    ("Resize", "VmResize"),
    ("ResizeDisk", "VmResizeDisk"),
    ("TokenBucketConfig", "TokenBucket"),
];

/// Members that can be left out here and not in the reference. A client made from the document gives them, so that it
/// works with both; answers always have them.
const REQUIRED: &[(&str, &[&str])] = &[
    ("CpusConfig", &["boot_vcpus", "max_vcpus"]),
    ("MemoryConfig", &["size"]),
];

/// Where in the document the schema of a type is.
pub(super) fn reference(name: &str) -> Value {
    let other = NAMES.iter().find(|(ours, _)| *ours == name);
    let name = other.map_or(name, |(_, theirs)| theirs);
    json!({"$ref": format!("{PLACE}{name}")})
}

const PLACE: &str = "#/components/schemas/";

/// All schemas that anything refers to.
pub(super) fn all() -> Value {
    let mut all = Schemas::default();
    all.add(schema_for!(Ping));
    all.add(schema_for!(PciDevice));
    all.add(schema_for!(Forked));
    all.add(schema_for!(Info));
    for (_, kind) in catalog::options() {
        all.add(kind.schema());
    }
    for endpoint in ENDPOINTS {
        match endpoint.takes {
            Takes::Json(_, schema) => all.add(schema()),
            Takes::Fork => all.add(endpoint::receive_fork()),
            _ => {}
        }
    }
    all.machine();
    all.answers();
    for (name, required) in REQUIRED {
        if let Some(schema) = all.0.get_mut(*name) {
            schema["required"] = json!(required);
        }
    }
    // In alphabetical order.
    all.0.into_iter().collect()
}

/// The place of a schema that stands for itself.
pub(super) fn place(schema: &Schema) -> Value {
    reference(&title(schema))
}

fn title(schema: &Schema) -> String {
    let title = schema.get("title").and_then(Value::as_str);
    title.unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Adds a schema by its title, and those that it brings.
    fn add(&mut self, schema: Schema) {
        let name = title(&schema);
        let mut schema = schema.to_value();
        if let Some(Value::Object(others)) = schema.get_mut("$defs").map(Value::take) {
            for (name, schema) in others {
                self.insert(&name, schema);
            }
        }
        if schema["type"] != "boolean" {
            self.insert(&name, schema);
        }
    }

    fn insert(&mut self, name: &str, schema: Value) {
        let place = reference(name);
        let name = place["$ref"].as_str().unwrap_or_default();
        let name = name.strip_prefix(PLACE).unwrap_or_default();
        self.0.insert(name.to_owned(), convert(schema));
    }

    /// The whole machine: what is fixed, and the devices of the catalog.
    fn machine(&mut self) {
        // As it is when the user says nothing: with what follows from the rest.
        let mut settled = VmConfig::default();
        settled.settle();
        let mut schema = schema_for!(VmConfig).to_value();
        schema["properties"]["cpus"]["default"] = json!(settled.cpus);
        let mut machine = convert(schema);
        if let Some(members) = machine["properties"].as_object_mut() {
            for (names, kind) in catalog::options() {
                let schema = kind.schema();
                members.insert(
                    names.field.to_owned(),
                    member(&schema, names, kind.by_default()),
                );
            }
        }
        machine["additionalProperties"] = false.into();
        self.0.insert("VmConfig".into(), machine);
    }

    /// What answers consist of and no type says.
    fn answers(&mut self) {
        self.insert(
            "VmState",
            json!({
                "type": "string", "enum": ["Created", "Running", "Shutdown", "Paused", "BreakPoint"],
                "description": "What a VM is doing. `Shutdown` and `BreakPoint` are names of the reference's that \
                                no answer has: a VM that was shut down is `Created`.",
            }),
        );
        if let Some(info) = self.0.get_mut("VmInfo") {
            info["properties"]["state"] = reference("VmState");
        }
        self.insert("VmCounters", counters());
        self.insert(
            "ErrorBody",
            json!({
                "type": "array", "items": {"type": "string"}, "minItems": 1,
                "description": "What went wrong, and why, and why that: the outermost cause first.",
            }),
        );
        self.insert(
            "HttpError",
            json!({
                "type": "object", "required": ["error"], "properties": {"error": {"type": "string"}},
                "description": "What is wrong with a request as HTTP.",
            }),
        );
        self.insert("Event", event());
    }
}

/// A member of the machine's configuration.
fn member(schema: &Schema, names: OptionNames, default: Option<Value>) -> Value {
    let about = schema.get("description").cloned();
    let mut member = match names.form {
        Form::One => json!({"description": about, "allOf": [place(schema)]}),
        Form::Many => json!({"type": "array", "items": place(schema)}),
        Form::Switch => json!({"description": about, "type": "boolean", "default": false}),
    };
    let Some(members) = member.as_object_mut() else {
        return member;
    };
    if !create::has_default(names.field) {
        members.insert("nullable".into(), true.into());
    }
    if let (Form::One, Some(default)) = (names.form, default) {
        say_default(members, &default);
    }
    member
}

fn counters() -> Value {
    json!({
        "type": "object",
        "description": "What devices have counted since they were built, by the id of the device and the name of \
                        the counter. Latencies are in microseconds; before the first operation they are as large \
                        as a number of 64 bits without sign can be.",
        "additionalProperties": {
            "type": "object",
            "additionalProperties": {"type": "integer", "format": "uint64", "minimum": 0},
        },
    })
}

fn event() -> Value {
    let number = |bits: &str| json!({"type": "integer", "format": bits, "minimum": 0});
    json!({
        "type": "object",
        "description": "Something that happened (ours over HTTP; the same as --event-monitor writes).",
        "required": ["timestamp", "source", "event", "properties"],
        "properties": {
            "timestamp": {
                "type": "object", "required": ["secs", "nanos"],
                "properties": {"secs": number("int64"), "nanos": number("int64")},
                "description": "Time since the monitor started.",
            },
            "source": {"type": "string", "description": "Who says so: `vm`, `vmm`, `virtio-device`."},
            "event": {"type": "string", "description": "What it is: `booted`."},
            "properties": {
                "type": "object", "nullable": true, "additionalProperties": {"type": "string"},
                "description": "Details, such as the id of the device.",
            },
        },
    })
}
