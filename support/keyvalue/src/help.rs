//! What the user is told about a type.

use schemars::Schema;
use serde_json::Value;

use crate::keys::{Keys, Mode};
use crate::node::{Fallback, Member, Node, first_sentence};
use crate::shape::Shape;
use crate::write;

/// Where descriptions start, in characters, at most. A longer key has its description below it.
const WIDEST: usize = 32;

/// One line for each key of the type that `schema` describes, in order of declaration:
/// `key=<type>  First sentence of its doc comment [default: x] [values: a|b]`.
///
/// Modes come first, each on a line of its own. The descriptions are aligned. There is no line for
/// hidden keys, and none at all for a type that has no keys.
pub fn help(schema: &Schema) -> String {
    let root = Node::root(schema);
    let keys = Keys::of(&root);
    let modes = keys.modes.iter().flat_map(|modes| &modes.all);
    let mut lines: Vec<(String, String)> = modes
        .map(|mode| {
            let place = mode.place.as_ref().and_then(|place| place.node.summary());
            (
                mode.usage(),
                mode.doc.map(first_sentence).or(place).unwrap_or_default(),
            )
        })
        .collect();
    lines.extend(keys.shown().map(|member| line(&root, member)));
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

/// A key and what is said about it.
fn line(root: &Node<'_>, member: &Member<'_>) -> (String, String) {
    let shape = Shape::of(&member.node);
    let (usage, values) = match &shape {
        Shape::Choice(choice) => {
            let values = choice.shown().collect::<Vec<_>>().join("|");
            (
                format!("{}=<choice>", member.flag),
                Some(format!("[values: {values}]")),
            )
        }
        _ => (member.usage(), None),
    };
    let default = default(member, &shape).map(|default| format!("[default: {default}]"));
    let required = member.is_required(root) && default.is_none();
    let notes = [
        member.node.summary(),
        required.then(|| "[required]".to_owned()),
        default,
        values,
    ];
    (
        usage,
        notes.into_iter().flatten().collect::<Vec<_>>().join(" "),
    )
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
