//! JSON to flag text, such that reading the text gives the same JSON again.

use schemars::Schema;
use serde_json::{Map, Value};

use crate::keys::{Keys, Modes};
use crate::node::{Fallback, Member, Node};
use crate::read::{LONGEST_LIST, MOST_IN_PAIRS, NO_KEY, list_lengths};
use crate::shape::{Choice, Fields, Range, Shape, integer};
use crate::{ByteSize, Error, scan};

/// Writes `value`, of the type that `schema` describes.
pub(crate) fn to_text(schema: &Schema, value: &Value) -> Result<String, Error> {
    let root = Node::root(schema);
    match (Shape::of(&root), value) {
        (Shape::JsonOnly(_), Value::Object(object)) if root.has_keys() => {
            write_object(&root, object)
        }
        (shape, value) => write(&shape, NO_KEY, value),
    }
}

fn write_object(node: &Node<'_>, object: &Map<String, Value>) -> Result<String, Error> {
    let keys = Keys::of(node);
    // What is still here in the end has no key.
    let mut rest: Map<_, _> = object.clone();
    let mut parts = Vec::new();
    if let Some(modes) = &keys.modes {
        parts.push(write_mode(modes, &mut rest)?);
    }
    for member in &keys.members {
        let default = match member.default() {
            Some(Fallback::Type(value) | Fallback::Flag(value)) => Some(value),
            Some(Fallback::Same(flag)) => {
                let other = keys.members.iter().find(|other| other.flag == flag);
                other.and_then(|other| other.get(object))
            }
            None => None,
        };
        let value = match (taken(member, object, &mut rest), member.default()) {
            (Some(value), _) => value,
            (None, _) if !member.below.is_empty() => continue,
            // Serde fills in what it left out itself, but only where a flag has no other default.
            (None, Some(Fallback::Flag(_) | Fallback::Same(_))) => Value::Null,
            (None, _) => continue,
        };
        if value == *default.unwrap_or(&Value::Null) {
            continue;
        }
        if value.is_null() {
            let reason = "it is null, and an empty value means the default instead";
            return Err(Error::unwritable(member.flag, reason));
        }
        let text = write(&Shape::of(&member.node), member.flag, &value)?;
        parts.push(format!("{}={text}", member.flag));
    }
    remove_parts(&keys.members, object, &mut rest);
    match rest
        .iter()
        .find(|(name, value)| !node.is_unset(name, value))
    {
        Some((name, _)) => Err(Error::unwritable(name, "it is a member of the JSON only")),
        None => Ok(parts.join(",")),
    }
}

/// The value of a member, taken out of `rest` unless it is a part.
fn taken(
    member: &Member<'_>,
    object: &Map<String, Value>,
    rest: &mut Map<String, Value>,
) -> Option<Value> {
    match member.below {
        "" => rest.remove(member.json),
        _ => member.get(object).cloned(),
    }
}

/// Takes those members out of `rest` of which nothing is left but their parts.
fn remove_parts(
    members: &[Member<'_>],
    object: &Map<String, Value>,
    rest: &mut Map<String, Value>,
) {
    let parts = || members.iter().filter(|member| !member.below.is_empty());
    let mut written = Map::new();
    for part in parts() {
        if let Some(value) = part.get(object).filter(|value| !value.is_null()) {
            part.put(&mut written, value.clone());
        }
    }
    for part in parts() {
        let whole = rest.get(part.json).map(without_nulls);
        if whole.is_some() && whole.as_ref() == written.get(part.json) {
            rest.remove(part.json);
        }
    }
}

/// The same without members that are null, at any depth.
fn without_nulls(value: &Value) -> Value {
    let Value::Object(object) = value else {
        return value.clone();
    };
    let there = object.iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        there
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
    )
}

/// Takes the mode and its value out of `object` and writes them.
fn write_mode(modes: &Modes<'_>, object: &mut Map<String, Value>) -> Result<String, Error> {
    let variant = object.remove(modes.json);
    let mode = modes
        .all
        .iter()
        .find(|mode| variant.as_ref().is_some_and(|v| v == mode.json));
    let mode = mode.ok_or_else(|| Error::unwritable(modes.json, "there is no word for it"))?;
    let Some(place) = &mode.place else {
        return Ok(mode.flag.clone());
    };
    match object.remove(place.json) {
        Some(value) if value != "" && !value.is_null() => Ok(format!(
            "{}={}",
            mode.flag,
            write(&Shape::of(&place.node), &mode.flag, &value)?
        )),
        _ => Err(Error::unwritable(
            place.json,
            "it is empty, and its mode needs it",
        )),
    }
}

/// Writes one value.
pub(crate) fn write(shape: &Shape<'_>, key: &str, value: &Value) -> Result<String, Error> {
    let text = match shape {
        Shape::Toggle => value
            .as_bool()
            .map(|on| if on { "on" } else { "off" }.to_owned()),
        Shape::Integer(_) => integer(value).map(|number| number.to_string()),
        Shape::Size(_) => value.as_u64().map(|bytes| ByteSize(bytes).to_string()),
        Shape::Hex(_) => value.as_u64().map(|number| format!("{number:#x}")),
        Shape::Real => value.as_number().map(ToString::to_string),
        Shape::Text(_) => value.as_str().map(|text| scan::quote(text).into_owned()),
        Shape::Choice(choice) => return write_choice(choice, key, value),
        Shape::Colon(fields) => return write_colon(fields, key, value),
        Shape::Pairs(pair) => return write_pairs(pair, key, value),
        Shape::Ranges(range) => return write_ranges(range, key, value),
        Shape::Texts => return write_texts(key, value),
        Shape::TrueSet(fields) => return write_true_set(fields, key, value),
        Shape::JsonOnly(reason) => return Err(Error::unwritable(key, reason)),
    };
    text.ok_or_else(|| mismatch(key))
}

/// The error of a value that its own schema does not describe.
fn mismatch(key: &str) -> Error {
    Error::unwritable(key, "it is not what its schema says it is")
}

fn write_choice(choice: &Choice<'_>, key: &str, value: &Value) -> Result<String, Error> {
    let word = value.as_str().and_then(|variant| choice.word(variant));
    word.map(str::to_owned)
        .ok_or_else(|| Error::unwritable(key, "there is no word for it"))
}

/// The members of `value`, if the text of `fields` can say all of them.
fn covered<'v>(
    fields: &Fields<'_>,
    key: &str,
    value: &'v Value,
) -> Result<&'v Map<String, Value>, Error> {
    let object = value.as_object().ok_or_else(|| mismatch(key))?;
    match fields.cover(object) {
        true => Ok(object),
        false => Err(Error::unwritable(
            key,
            "it has a member that exists in the JSON only",
        )),
    }
}

fn write_colon(fields: &Fields<'_>, key: &str, value: &Value) -> Result<String, Error> {
    let object = covered(fields, key, value)?;
    let part = |member: &Member<'_>| Some(integer(object.get(member.json)?)?.to_string());
    let parts = fields.members.iter().map(part).collect::<Option<Vec<_>>>();
    Ok(parts.ok_or_else(|| mismatch(key))?.join(":"))
}

fn write_pairs(pair: &Fields<'_>, key: &str, value: &Value) -> Result<String, Error> {
    let shapes: Vec<_> = pair
        .members
        .iter()
        .map(|member| Shape::of(&member.node))
        .collect();
    let mut numbers = 0;
    let write_pair = |entry: &Value| {
        let object = covered(pair, key, entry)?;
        numbers += list_lengths(object);
        if numbers > MOST_IN_PAIRS {
            return Err(Error::unwritable(
                key,
                "its lists have more than 4194304 numbers",
            ));
        }
        let mut sides = Vec::new();
        for (member, shape) in pair.members.iter().zip(&shapes) {
            let value = object.get(member.json).filter(|value| !value.is_null());
            let missing = || Error::unwritable(key, "one side of a pair is missing");
            sides.push(write(shape, key, value.ok_or_else(missing)?)?);
        }
        if sides
            .first()
            .is_none_or(|first| scan::unquote(first).is_empty())
        {
            return Err(Error::unwritable(key, "the first side of a pair is empty"));
        }
        Ok(sides.join("@"))
    };
    let entries = value.as_array().ok_or_else(|| mismatch(key))?;
    let entries = entries
        .iter()
        .map(write_pair)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[{}]", entries.join(",")))
}

fn write_ranges(range: &Range<'_>, key: &str, value: &Value) -> Result<String, Error> {
    let numbers = value.as_array().ok_or_else(|| mismatch(key))?;
    if numbers.len() > LONGEST_LIST {
        return Err(Error::unwritable(key, "it has more than 65536 numbers"));
    }
    let mut runs = Vec::<(i128, i128)>::new();
    for number in numbers {
        let number = integer(number).filter(|number| (range.min..=range.max).contains(number));
        let number = number.ok_or_else(|| mismatch(key))?;
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let entries: Vec<_> = runs
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            _ => format!("{first}-{last}"),
        })
        .collect();
    Ok(format!("[{}]", entries.join(",")))
}

fn write_texts(key: &str, value: &Value) -> Result<String, Error> {
    let mut entries = Vec::new();
    for entry in value.as_array().ok_or_else(|| mismatch(key))? {
        let text = entry.as_str().ok_or_else(|| mismatch(key))?;
        // Quotes would become part of the entry, so what needs them cannot be written.
        if scan::check(text).is_err() || !scan::split(text).eq([text]) || text.is_empty() {
            return Err(Error::unwritable(
                key,
                "an entry is empty, or has a comma, bracket or space",
            ));
        }
        entries.push(text);
    }
    Ok(format!("[{}]", entries.join(",")))
}

fn write_true_set(fields: &Fields<'_>, key: &str, value: &Value) -> Result<String, Error> {
    let object = covered(fields, key, value)?;
    let is_true = |member: &&Member<'_>| object.get(member.json) == Some(&Value::Bool(true));
    let names: Vec<_> = fields
        .members
        .iter()
        .filter(is_true)
        .map(|member| member.flag)
        .collect();
    Ok(format!("[{}]", names.join(",")))
}
