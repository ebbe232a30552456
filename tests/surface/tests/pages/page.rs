//! The page of one kind, made of what its folder says.

use std::fmt::Write as _;

use device::{AnyKind, Device, Form, OptionNames, Presence};
use keyvalue::Entry;

/// What a page is made of.
pub(crate) struct Page<'a> {
    /// The kind.
    pub(crate) kind: &'a dyn AnyKind,
    /// Its option.
    pub(crate) option: OptionNames,
    /// Text of its crate's `lib.rs`.
    pub(crate) source: &'a str,
    /// One that was built.
    pub(crate) device: &'a dyn Device,
}

impl Page<'_> {
    /// The page's text.
    pub(crate) fn text(&self) -> String {
        let flag = self.option.flag;
        let mut text = format!(
            "<!-- Made of devices/{} by `cargo xtask docs`. Not to be edited. -->\n\n# --{flag}\n\n{}\n",
            self.kind.names().kind,
            introduction(self.source)
        );
        let _ = write!(text, "\n## Option\n\n{}\n", self.presence());
        let entries = keyvalue::entries(&self.kind.schema());
        if !entries.is_empty() {
            text.push_str("\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n");
            text.extend(entries.iter().map(row));
        }
        text.push_str("\n## Examples\n\n```sh\n");
        for example in self.examples() {
            let _ = writeln!(text, "{}", format!("--{flag} {example}").trim_end());
        }
        let _ = write!(text, "```\n\n## Counters\n\n{}\n", self.counters());
        let _ = write!(text, "\n## Saved state\n\nVersion {}.\n", self.version());
        text
    }

    /// What the option is for, on one line.
    pub(crate) fn about(&self) -> String {
        let schema = self.kind.schema();
        let about = schema.get("description").and_then(|text| text.as_str());
        one_line(
            about
                .unwrap_or_default()
                .split("\n\n")
                .next()
                .unwrap_or_default(),
        )
    }

    fn presence(&self) -> String {
        let OptionNames { flag, field, form } = self.option;
        let form = match form {
            Form::One => "an object",
            Form::Many => "a list; the flag can be repeated",
            Form::Switch => "a boolean; the flag has no value",
        };
        let default = self.kind.by_default();
        let default = match (self.kind.presence(), default) {
            (Presence::ByDefault, Some(config)) if self.kind.is_off(&config) => {
                "There is none unless asked for.".to_owned()
            }
            (Presence::ByDefault, Some(config)) => {
                format!("By default `--{flag} {}`.", self.kind.write_flag(&config))
            }
            _ => "There is none unless asked for.".to_owned(),
        };
        format!(
            "{}\n\nIn JSON the member `{field}`, {form}. {default}",
            self.about()
        )
    }

    fn examples(&self) -> Vec<String> {
        if self.option.form == Form::Switch {
            return vec![String::new()];
        }
        let examples = self.kind.examples();
        if examples.is_empty() {
            let config = self.kind.by_default();
            let default = config.map(|config| self.kind.write_flag(&config));
            return default.into_iter().collect();
        }
        examples.iter().map(|text| (*text).to_owned()).collect()
    }

    fn counters(&self) -> String {
        let names: Vec<String> = self
            .device
            .counters()
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        match names.is_empty() {
            true => "None.".into(),
            false => format!("{}.", names.join(", ")),
        }
    }

    /// The version of the device's own state; what is around it is the transport's.
    fn version(&self) -> u64 {
        let saved = self.device.save().expect("it is stopped");
        let inner = saved.body.pointer("/device/version");
        let inner = inner.and_then(serde_json::Value::as_u64);
        inner.unwrap_or_else(|| saved.version.into())
    }
}

/// The crate's documentation up to its first heading, with names instead of links to items.
fn introduction(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let lines = lines.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with("# ")).collect();
    unlink(lines.join("\n").trim_end())
}

/// ``[`Name`](path)``, ``[`Name`]`` and `[words](an::item)` become what is in the brackets.
fn unlink(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        let (inner, after) = link.split_once(']').unwrap_or((link, ""));
        let target = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'));
        let is_name = inner.starts_with('`') && inner.ends_with('`');
        match target {
            Some((path, after)) if is_name || path.contains("::") => {
                plain.push_str(inner);
                rest = after;
            }
            None if is_name => {
                plain.push_str(inner);
                rest = after;
            }
            _ => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain.push_str(rest);
    plain
}

fn row(entry: &Entry) -> String {
    let (key, value) = entry.usage.split_once('=').unwrap_or((&entry.usage, ""));
    let value = match entry.values.is_empty() {
        true => value.to_owned(),
        false => entry.values.join("\\|"),
    };
    let default = match (&entry.default, entry.required) {
        (Some(default), _) => code(default),
        (None, true) => "required".into(),
        (None, false) => String::new(),
    };
    let meaning = one_line(&entry.description).replace('|', "\\|");
    format!(
        "| `{key}` | {} | {default} | {meaning} |\n",
        code(&value.replace("\\|", "|"))
    )
}

/// As code in a table; nothing if there is nothing.
fn code(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("`{}`", text.replace('|', "\\|")),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
