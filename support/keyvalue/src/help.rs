//! What the user is told about a type.

use schemars::Schema;
use serde_json::Value;

use crate::keys::{Keys, Mode};
use crate::node::{Fallback, Member, Node, first_sentence};
use crate::shape::Shape;
use crate::write;

/// Where descriptions start, in characters, at most. A longer key has its description below it.
const WIDEST: usize = 32;

/// What there is to say of one key, or of one mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// How it is written: `size=<size>`, `mode=<choice>`, `tty`.
    pub usage: String,
    /// First sentence of its doc comment, without the full stop.
    pub summary: String,
    /// All of its doc comment.
    pub description: String,
    /// It must be given.
    pub required: bool,
    /// What it is if it is not given, as it would be written.
    pub default: Option<String>,
    /// The values it can have, if they can be listed.
    pub values: Vec<String>,
}

impl Entry {
    fn new(usage: String, doc: Option<&str>) -> Self {
        Self {
            usage,
            summary: doc.map(first_sentence).unwrap_or_default(),
            description: doc.unwrap_or_default().to_owned(),
            ..Self::default()
        }
    }

    /// The two sides of its line in the help.
    fn line(&self) -> (String, String) {
        let notes = [
            (!self.summary.is_empty()).then(|| self.summary.clone()),
            self.required.then(|| "[required]".to_owned()),
            self.default
                .as_ref()
                .map(|default| format!("[default: {default}]")),
            (!self.values.is_empty()).then(|| format!("[values: {}]", self.values.join("|"))),
        ];
        let notes: Vec<_> = notes.into_iter().flatten().collect();
        (self.usage.clone(), notes.join(" "))
    }
}

/// What there is to say of each key of the type that `schema` describes, in order of declaration, modes first. Nothing
/// for hidden keys, and for a type that has no keys.
pub fn entries(schema: &Schema) -> Vec<Entry> {
    let root = Node::root(schema);
    let keys = Keys::of(&root);
    let modes = keys.modes.iter().flat_map(|modes| &modes.all);
    let mut entries: Vec<_> = modes
        .map(|mode| {
            let place = mode.place.as_ref();
            let place = place.and_then(|place| place.node.text("description"));
            Entry::new(mode.usage(), mode.doc.or(place))
        })
        .collect();
    entries.extend(keys.shown().map(|member| entry(&root, member)));
    entries
}

/// One line for each key of the type that `schema` describes, in order of declaration:
/// `key=<type>  First sentence of its doc comment [default: x] [values: a|b]`.
///
/// Modes come first, each on a line of its own. The descriptions are aligned. There is no line for
/// hidden keys, and none at all for a type that has no keys.
pub fn help(schema: &Schema) -> String {
    let lines: Vec<_> = entries(schema).iter().map(Entry::line).collect();
    align(&lines)
}

/// The type that `schema` describes on one line: `boot=<u32>,max=<u32>,nested=on|off`.
///
/// Modes come first: `off|tty|file=<path>,id=<string>`. Hidden keys are left out. A type that has
/// no keys is shown as its value is written.
pub fn syntax(schema: &Schema) -> String {
    let root = Node::root(schema);
    let keys = Keys::of(&root);
    let modes = keys.modes.iter().map(|modes| {
        modes
            .all
            .iter()
            .map(Mode::usage)
            .collect::<Vec<_>>()
            .join("|")
    });
    let parts: Vec<_> = modes.chain(keys.shown().map(Member::usage)).collect();
    match root.has_keys() {
        true => parts.join(","),
        false => Shape::of(&root).label(),
    }
}

fn entry(root: &Node<'_>, member: &Member<'_>) -> Entry {
    let shape = Shape::of(&member.node);
    let (usage, values) = match &shape {
        Shape::Choice(choice) => {
            let values = choice.shown().map(ToString::to_string).collect();
            (format!("{}=<choice>", member.flag), values)
        }
        _ => (member.usage(), Vec::new()),
    };
    let default = default(member, &shape);
    Entry {
        required: member.is_required(root) && default.is_none(),
        default,
        values,
        ..Entry::new(usage, member.node.text("description"))
    }
}

/// The default of a member as it would be written; none if it is to have nothing.
fn default(member: &Member<'_>, shape: &Shape<'_>) -> Option<String> {
    match member.default()? {
        Fallback::Same(flag) => Some(format!("={flag}")),
        Fallback::Type(Value::Null) | Fallback::Flag(Value::Null) => None,
        Fallback::Type(value) | Fallback::Flag(value) => {
            let text = write::write(shape, member.flag, value).ok()?;
            (text != "[]" && text != "\"\"").then_some(text)
        }
    }
}

/// Puts the right sides below one another.
fn align(lines: &[(String, String)]) -> String {
    let width = |(left, _): &(String, String)| left.chars().count();
    let column = lines
        .iter()
        .map(width)
        .filter(|width| *width <= WIDEST)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for line @ (left, right) in lines {
        text.push_str(left);
        if !right.is_empty() {
            let gap = match column.checked_sub(width(line)) {
                Some(padding) => padding,
                None => {
                    text.push('\n');
                    column
                }
            };
            text.extend(std::iter::repeat_n(' ', gap + 2));
            text.push_str(right);
        }
        text.push('\n');
    }
    text
}
