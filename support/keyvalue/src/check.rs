//! Finds members of a JSON body that its type does not have.

use std::fmt;

use schemars::Schema;
use serde_json::{Map, Value};

use crate::node::Node;
use crate::{Error, nearest};

/// Fails if `value` has, at any depth, a member that the type described by `schema` does not.
///
/// Serde ignores such members, and a misspelt option would do nothing in silence. It also takes a list of values for
/// an object, in the order in which the members happen to be declared; that fails here, too. Whether values are of the
/// right types otherwise is serde's to say.
///
/// # Errors
///
/// [`Error::UnknownMember`] for the first such member, with its path and the nearest known name;
/// [`Error::ListForObject`] for a list where an object should be.
pub fn check_json(schema: &Schema, value: &Value) -> Result<(), Error> {
    check(&Node::root(schema), value, &Path::Root).map_err(|unknown| unknown.error)
}

/// What is wrong, and how deep inside the value it is.
struct Unknown {
    depth: usize,
    error: Error,
}

/// Where a value is. It is turned into text only for an error.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Member(&'p Path<'p>, &'p str),
    Entry(&'p Path<'p>, usize),
}

impl Path<'_> {
    fn depth(&self) -> usize {
        match self {
            Self::Root => 0,
            Self::Member(parent, _) | Self::Entry(parent, _) => 1 + parent.depth(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match self {
            Self::Root => f.write_str("$"),
            Self::Member(parent, name) if plain(name) => write!(f, "{parent}.{name}"),
            Self::Member(parent, name) => write!(f, "{parent}[{name:?}]"),
            Self::Entry(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn check(node: &Node<'_>, value: &Value, path: &Path<'_>) -> Result<(), Unknown> {
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        _ => return Ok(()),
    };
    let mut alternatives = node.alternatives();
    if alternatives.is_empty() {
        return match value {
            Value::Array(_) if is_object(node) => Err(list_for_object(path)),
            _ => check_one(node, value, path),
        };
    }
    let objects = alternatives.iter().any(is_object);
    // A variant that is a mere name says nothing about what is in an object.
    alternatives.retain(|one| one.get("type").is_none() || one.is_type(kind));
    if alternatives.is_empty() && objects && value.is_array() {
        return Err(list_for_object(path));
    }
    // The alternative that was meant is the one that got farthest before it failed.
    let mut deepest: Option<Unknown> = None;
    for alternative in alternatives {
        match check_one(&alternative, value, path) {
            Ok(()) => return Ok(()),
            Err(e) if deepest.as_ref().is_none_or(|d| d.depth < e.depth) => deepest = Some(e),
            Err(_) => {}
        }
    }
    deepest.map_or(Ok(()), Err)
}

/// Whether values here are objects and cannot be lists.
fn is_object(node: &Node<'_>) -> bool {
    node.is_type("object") && !node.is_type("array")
}

fn list_for_object(path: &Path<'_>) -> Unknown {
    Unknown {
        depth: path.depth(),
        error: Error::ListForObject {
            path: path.to_string(),
        },
    }
}

fn check_one(node: &Node<'_>, value: &Value, path: &Path<'_>) -> Result<(), Unknown> {
    match value {
        Value::Object(object) => check_object(node, object, path),
        Value::Array(entries) => {
            let Some(items) = node.items() else {
                return Ok(());
            };
            for (index, entry) in entries.iter().enumerate() {
                check(&items, entry, &Path::Entry(path, index))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_object(
    node: &Node<'_>,
    object: &Map<String, Value>,
    path: &Path<'_>,
) -> Result<(), Unknown> {
    // `{"type": "object"}` alone is an object of anything, and so is a schema of anything.
    let others = node.get("additionalProperties");
    let free = match others {
        None => !node.has_properties(),
        Some(others) => *others == Value::Bool(true),
    };
    for (name, value) in object {
        let here = Path::Member(path, name);
        if let Some(member) = member(node, name) {
            check(&member, value, &here)?;
        } else if let Some(others) = others.filter(|others| others.is_object()) {
            check(&node.part(others), value, &here)?;
        } else if !free {
            return Err(unknown(node, name, &here));
        }
    }
    Ok(())
}

/// The member `name` of the objects at `node`, by its name or an old one.
fn member<'s>(node: &Node<'s>, name: &str) -> Option<Node<'s>> {
    node.property(name).or_else(|| {
        let known = |alias: &str| alias == name;
        let members = node.members();
        members
            .into_iter()
            .find(|m| m.json_aliases().any(known))
            .map(|member| member.node)
    })
}

fn unknown(node: &Node<'_>, name: &str, path: &Path<'_>) -> Unknown {
    let members = node.members();
    let known: Vec<_> = members.iter().map(|member| member.json).collect();
    // The name that a flag has for a member that is called something else here.
    let by_flag = members
        .iter()
        .find(|member| member.flag == name)
        .map(|member| member.json);
    let suggestion = by_flag.or_else(|| nearest(name, known.iter().copied()));
    let error = Error::UnknownMember {
        path: path.to_string(),
        suggestion: suggestion.map(str::to_owned),
        known: known.into_iter().map(str::to_owned).collect(),
    };
    Unknown {
        depth: path.depth(),
        error,
    }
}
