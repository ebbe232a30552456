//! The paths, from the table of endpoints.

use serde_json::{Map, Value, json};

use super::schemas::{self, reference};
use crate::endpoint::{self, Endpoint, Takes};
use crate::response::Content;
use crate::{ENDPOINTS, Method, body};

/// What clients that were made from the reference's document call some operations. The others are called as the
/// tools call what has no name: by path and method.
const OPERATIONS: &[(&str, &str)] = &[
    ("vmm.shutdown", "shutdownVMM"),
    ("vm.create", "createVM"),
    ("vm.delete", "deleteVM"),
    ("vm.boot", "bootVM"),
    ("vm.pause", "pauseVM"),
    ("vm.resume", "resumeVM"),
    ("vm.shutdown", "shutdownVM"),
    ("vm.reboot", "rebootVM"),
    ("vm.power-button", "powerButtonVM"),
];

pub(super) fn all() -> Value {
    let path = |endpoint: &Endpoint| {
        let method = match endpoint.method {
            Method::Get => "get",
            Method::Put => "put",
        };
        (
            format!("/{}", endpoint.name),
            json!({method: operation(endpoint)}),
        )
    };
    ENDPOINTS.iter().map(path).collect()
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = Map::new();
    operation.insert("summary".into(), endpoint.about.into());
    operation.insert("operationId".into(), name(endpoint).into());
    if let Some(body) = body_of(endpoint) {
        let content = json!({"application/json": {"schema": body}});
        operation.insert(
            "requestBody".into(),
            json!({"required": true, "content": content}),
        );
    }
    operation.insert("responses".into(), responses(endpoint));
    operation.into()
}

/// `vm.add-disk` is `vmAddDiskPut`.
fn name(endpoint: &Endpoint) -> String {
    if let Some((_, name)) = OPERATIONS.iter().find(|(path, _)| *path == endpoint.name) {
        return (*name).to_owned();
    }
    let mut text = String::new();
    for (index, word) in endpoint.name.split(['.', '-']).enumerate() {
        let (first, rest) = word.split_at(word.len().min(1));
        text.push_str(&match index {
            0 => first.to_owned(),
            _ => first.to_uppercase(),
        });
        text.push_str(rest);
    }
    text.push_str(match endpoint.method {
        Method::Get => "Get",
        Method::Put => "Put",
    });
    text
}

fn body_of(endpoint: &Endpoint) -> Option<Value> {
    match endpoint.takes {
        Takes::Machine => Some(reference("VmConfig")),
        Takes::Json(_, schema) => Some(schemas::place(&schema())),
        Takes::Fork => Some(schemas::place(&endpoint::receive_fork())),
        Takes::Device(member) => Some(body::kind(member).map_or_else(
            || json!({"type": "object"}),
            |kind| schemas::place(&kind.schema()),
        )),
        _ => None,
    }
}

/// What it answers if it goes well: status, description, and schema.
fn success(endpoint: &Endpoint) -> Vec<(u16, &'static str, Option<Value>)> {
    let done = "It is done.";
    match endpoint.takes {
        Takes::Ping => vec![(200, "The monitor.", Some(reference("VmmPingResponse")))],
        Takes::Document => vec![(
            200,
            "An OpenAPI 3.0 document.",
            Some(json!({"type": "object"})),
        )],
        Takes::Anything(_) => vec![(200, done, None)],
        Takes::Device(_) => vec![
            (
                200,
                "The VM is booted: the device has come to it.",
                Some(reference("PciDeviceInfo")),
            ),
            (204, "The VM is not booted: it will have the device.", None),
        ],
        Takes::Nothing(_) if endpoint.method == Method::Get => {
            let schema = match endpoint.name {
                "vm.info" => "VmInfo",
                _ => "VmCounters",
            };
            vec![(200, "Here it is.", Some(reference(schema)))]
        }
        Takes::Events => vec![(
            200,
            "Events from now on, each a line. An empty line says that nothing has happened for a while. A client \
             that reads too slowly misses some, and is told how many by an event of source `api` and name \
             `events-lost`, with the property `count`.",
            Some(reference("Event")),
        )],
        Takes::Metrics => vec![(
            200,
            "Text in the exposition format of Prometheus.",
            Some(json!({"type": "string"})),
        )],
        Takes::Json(..) if endpoint.name == "vm.fork" => {
            vec![(200, "All children are there.", Some(reference("Forked")))]
        }
        Takes::Nothing(_) | Takes::Machine | Takes::Json(..) | Takes::Fork | Takes::Later => {
            vec![(204, done, None)]
        }
    }
}

fn responses(endpoint: &Endpoint) -> Value {
    let mut responses = Map::new();
    let content = match endpoint.takes {
        Takes::Events => Content::Lines,
        Takes::Metrics => Content::Metrics,
        _ => Content::Json,
    };
    for (status, about, schema) in success(endpoint) {
        responses.insert(status.to_string(), response(about, content, schema));
    }
    for (status, about) in failures(endpoint) {
        let schema = match status {
            400 => json!({"oneOf": [reference("ErrorBody"), reference("HttpError")]}),
            _ => reference("ErrorBody"),
        };
        responses.insert(
            status.to_string(),
            response(about, Content::Json, Some(schema)),
        );
    }
    responses.into()
}

fn response(about: &str, content: Content, schema: Option<Value>) -> Value {
    match schema {
        Some(schema) => {
            json!({"description": about, "content": {content.media_type(): {"schema": schema}}})
        }
        None => json!({"description": about}),
    }
}

fn failures(endpoint: &Endpoint) -> Vec<(u16, &'static str)> {
    let mut all = vec![(400, "The request is wrong: its body, or that it has one.")];
    match endpoint.takes {
        Takes::Ping | Takes::Document => return all,
        Takes::Events => {
            all.push((503, "As many clients as can be listen already."));
            return all;
        }
        Takes::Metrics | Takes::Anything(_) => {}
        Takes::Later => {
            all.push((501, LATER));
            return all;
        }
        Takes::Nothing(_) | Takes::Machine | Takes::Json(..) | Takes::Fork | Takes::Device(_) => {
            all.push((404, "There is no VM."));
        }
    }
    all.push((
        500,
        "It cannot be done: as the VM is, with what was asked for, or because something failed.",
    ));
    if endpoint.method == Method::Put && !matches!(endpoint.takes, Takes::Anything(_)) {
        all.push((501, LATER));
    }
    all
}

const LATER: &str = "What it asks for is not in this version.";
