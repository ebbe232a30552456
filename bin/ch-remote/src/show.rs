//! Answers for people.

use std::fmt::Write as _;

use keyvalue::ByteSize;
use serde_json::{Map, Value};

use crate::http::Answer;

/// The answer as it came, on a line of its own; nothing if there is none.
pub(crate) fn raw(answer: &Answer) -> Vec<u8> {
    if answer.status == 204 {
        return Vec::new();
    }
    let mut text = answer.body.clone();
    text.push(b'\n');
    text
}

/// The answer to a subcommand as a person reads it; none if there is no better form than the answer itself.
pub(crate) fn readable(subcommand: &str, answer: &Answer) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(&answer.body).ok()?;
    let text = match subcommand {
        "info" => info(&value),
        "counters" => counters(&value),
        "ping" => rows(&ping(&value)),
        _ => return None,
    };
    Some(text.into_bytes())
}

/// Text without what would control a terminal: it may come from a guest or from whoever configured it.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A value on one line.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        other => plain(&other.to_string()),
    }
}

/// Columns, each as wide as its widest cell. The last one is not filled up.
pub(crate) fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(row, "{cell:<width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn rows(rows: &[(&str, String)]) -> String {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, value)| vec![(*name).to_owned(), value.clone()])
        .collect();
    table(&lines)
}

fn ping(value: &Value) -> Vec<(&'static str, String)> {
    let features = value["features"].as_array().into_iter().flatten();
    let features: Vec<String> = features.map(word).collect();
    vec![
        ("Version", word(&value["build_version"])),
        ("Process", word(&value["pid"])),
        ("Features", features.join(", ")),
    ]
}

/// Bytes with a suffix where that is exact.
pub(crate) fn bytes(value: &Value) -> String {
    match value.as_u64() {
        Some(bytes) => ByteSize(bytes).to_string(),
        None => word(value),
    }
}

fn info(info: &Value) -> String {
    let config = &info["config"];
    let cpus = &config["cpus"];
    let mut lines = vec![
        ("State", word(&info["state"])),
        (
            "Processors",
            format!(
                "{} of at most {}",
                word(&cpus["boot_vcpus"]),
                word(&cpus["max_vcpus"])
            ),
        ),
        (
            "Memory",
            format!(
                "{} of {}",
                bytes(&info["memory_actual_size"]),
                bytes(&config["memory"]["size"])
            ),
        ),
    ];
    for (name, member) in [
        ("Kernel", "kernel"),
        ("Firmware", "firmware"),
        ("Initramfs", "initramfs"),
        ("Command line", "cmdline"),
    ] {
        let value = &config["payload"][member];
        if !value.is_null() {
            lines.push((name, word(value)));
        }
    }
    let mut text = rows(&lines);
    let devices = devices(info);
    if devices.len() > 1 {
        text.push('\n');
        text.push_str(&table(&devices));
    }
    text
}

/// Members of the configuration that are not lists of devices or one device.
const NO_DEVICES: &[&str] = &["cpus", "memory", "payload", "platform", "landlock_rules"];

/// A line for each device, after one of headings.
fn devices(info: &Value) -> Vec<Vec<String>> {
    let heading = ["DEVICE", "KIND", "PCI ADDRESS", "CONFIGURATION"];
    let mut lines = vec![heading.map(str::to_owned).to_vec()];
    let members = info["config"].as_object().into_iter().flatten();
    for (member, value) in members.filter(|(member, _)| !NO_DEVICES.contains(&member.as_str())) {
        let all: Vec<&Map<String, Value>> = match value {
            Value::Array(list) => list.iter().filter_map(Value::as_object).collect(),
            one => one.as_object().into_iter().collect(),
        };
        lines.extend(all.into_iter().map(|device| line(info, member, device)));
    }
    lines
}

fn line(info: &Value, member: &str, device: &Map<String, Value>) -> Vec<String> {
    // Devices of which there is one at most are called by their kind.
    let id = match device.get("id").and_then(Value::as_str) {
        Some(id) => id.to_owned(),
        None => format!("__{member}"),
    };
    let tree = &info["device_tree"];
    let parent = tree[&id]["parent"].as_str().unwrap_or_default();
    let address = match &tree[parent]["pci_bdf"] {
        Value::Null => "-".to_owned(),
        address => word(address),
    };
    let said: Vec<String> = device
        .iter()
        .filter(|(key, value)| *key != "id" && !says_nothing(value))
        .map(|(key, value)| format!("{}={}", plain(key), word(value)))
        .collect();
    vec![plain(&id), plain(member), address, said.join(",")]
}

fn says_nothing(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false))
}

fn counters(value: &Value) -> String {
    let mut lines = vec![["DEVICE", "COUNTER", "VALUE"].map(str::to_owned).to_vec()];
    for (device, counted) in value.as_object().into_iter().flatten() {
        for (name, count) in counted.as_object().into_iter().flatten() {
            lines.push(vec![plain(device), plain(name), word(count)]);
        }
    }
    table(&lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(value: &Value) -> Answer {
        Answer {
            status: 200,
            body: value.to_string().into_bytes(),
        }
    }

    fn read(subcommand: &str, value: &Value) -> String {
        String::from_utf8(readable(subcommand, &answer(value)).unwrap()).unwrap()
    }

    #[test]
    fn programs_get_what_came_and_a_line_end() {
        assert_eq!(raw(&answer(&json!({"a": 1}))), b"{\"a\":1}\n");
        let done = |status| Answer {
            status,
            body: Vec::new(),
        };
        assert_eq!(raw(&done(204)), b"");
        assert_eq!(raw(&done(200)), b"\n");
        assert!(readable("add-disk", &answer(&json!({"id": "a"}))).is_none());
        assert!(readable("info", &done(200)).is_none());
    }

    #[test]
    fn info_is_a_summary_and_a_table_of_devices() {
        let info = json!({
            "state": "Running",
            "memory_actual_size": 1 << 29,
            "config": {
                "cpus": {"boot_vcpus": 2, "max_vcpus": 4},
                "memory": {"size": 1 << 30},
                "payload": {"kernel": "/vm/linux", "cmdline": "a\u{1b}[1mb"},
                "disks": [{"id": "_disk0", "path": "/vm/d", "readonly": true, "direct": false, "serial": null}],
                "rng": {"src": "/dev/urandom"},
                "watchdog": true,
            },
            "device_tree": {
                "_disk0": {"parent": "_virtio-pci-_disk0"},
                "_virtio-pci-_disk0": {"pci_bdf": "0000:00:01.0"},
            },
        });
        assert_eq!(
            read("info", &info),
            "State         Running\n\
             Processors    2 of at most 4\n\
             Memory        512M of 1G\n\
             Kernel        /vm/linux\n\
             Command line  a?[1mb\n\
             \n\
             DEVICE  KIND   PCI ADDRESS   CONFIGURATION\n\
             _disk0  disks  0000:00:01.0  path=/vm/d,readonly=on\n\
             __rng   rng    -             src=/dev/urandom\n"
        );
    }

    #[test]
    fn an_answer_of_another_form_does_no_harm() {
        for value in [json!(null), json!([1]), json!({"config": 7, "state": {}})] {
            for subcommand in ["info", "counters", "ping"] {
                read(subcommand, &value);
            }
        }
    }

    #[test]
    fn counters_are_a_table() {
        assert_eq!(
            read(
                "counters",
                &json!({"_disk0": {"read_ops": 3, "write_ops": 44}})
            ),
            "DEVICE  COUNTER    VALUE\n_disk0  read_ops   3\n_disk0  write_ops  44\n"
        );
    }

    #[test]
    fn ping_is_three_lines() {
        let pong =
            json!({"build_version": "v53.0.0", "version": "53.0.0", "pid": 7, "features": ["kvm"]});
        assert_eq!(
            read("ping", &pong),
            "Version   v53.0.0\nProcess   7\nFeatures  kvm\n"
        );
    }
}
