//! Configurations of every kind.

use std::path::Path;

use catalog::CATALOG;
use device::AnyKind;
use serde_json::{Value, json};

/// Size of the files in examples.
const FILE_SIZE: u64 = 16 << 20;

/// A configuration that a device can be built from.
#[derive(Clone, Debug)]
pub struct Example {
    /// What it is of.
    pub kind: &'static dyn AnyKind,
    /// Name of the kind and the flag's value, for messages.
    pub label: String,
    /// The configuration.
    pub config: Value,
}

/// One or more configurations of every kind in the catalog: its default, and the examples of its documentation with
/// their files in `folder`. What takes the terminal is left out; it has a quiet variant.
#[must_use]
pub fn examples(folder: &Path) -> Vec<Example> {
    CATALOG
        .iter()
        .flat_map(|kind| of_kind(*kind, folder))
        .collect()
}

fn of_kind(kind: &'static dyn AnyKind, folder: &Path) -> Vec<Example> {
    let names = kind.names();
    let example = |label: &str, config| Example {
        kind,
        label: format!("{} {label}", names.kind),
        config,
    };
    if names.option.is_none() {
        return vec![example("always", json!({}))];
    }
    let mut examples = Vec::new();
    for text in kind.examples() {
        let text = text.replace("/vm/", &format!("{}/", folder.display()));
        make_files(&text);
        let config = kind.read_flag(&text);
        let config = config.unwrap_or_else(|problem| panic!("{text}: {problem}"));
        examples.push(example(&text, config));
    }
    if let Some(config) = kind.by_default().filter(|config| !kind.is_off(config)) {
        examples.push(example("by default", config));
    }
    if kind
        .check(&json!({ "mode": "Null" }), &crate::Rig::facts())
        .is_ok()
    {
        examples.push(example("mode=null", json!({ "mode": "Null" })));
    }
    examples.retain(|example| example.config.get("mode").and_then(Value::as_str) != Some("Tty"));
    examples
}

fn make_files(text: &str) {
    for word in text.split([',', '=', '[', ']']) {
        if word.ends_with(".raw") {
            let file = std::fs::File::create(word).expect("the folder can be written to");
            file.set_len(FILE_SIZE).expect("a sparse file");
        }
    }
}
