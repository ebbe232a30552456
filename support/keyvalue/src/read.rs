//! Flag text to JSON.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use schemars::Schema;
use serde_json::{Map, Number, Value};

use crate::keys::{Found, Keys, Modes};
use crate::node::{Fallback, Member, Node};
use crate::shape::{Choice, Fields, Range, Shape, integer};
use crate::{Error, nearest, scan, size};

/// The most numbers that a list with ranges may have. `[0-18446744073709551615]` would fill all
/// memory; no list in any configuration has more entries than there are `u16` numbers.
pub(crate) const LONGEST_LIST: usize = 1 << 16;

/// The most numbers that all lists of a list of pairs may have together: those of 8192 vCPUs on 512
/// host CPUs each. Every pair can have a range of its own, so the limit on one list is not enough.
pub(crate) const MOST_IN_PAIRS: usize = 1 << 22;

/// What errors call a value whose flag has no keys.
pub(crate) const NO_KEY: &str = "value";

/// Reads `text` as a value of the type that `schema` describes.
///
/// An object has the members that the text sets, and those with an `x-flag-default`; serde knows
/// the defaults of the others. This is [`from_str`](crate::from_str) for those who have no type,
/// only its schema.
///
/// # Errors
///
/// If the text is not of this syntax, or a value is not of the type the schema asks for.
pub fn parse(schema: &Schema, text: &str) -> Result<Value, Error> {
    scan::check(text)?;
    let root = Node::root(schema);
    match Shape::of(&root) {
        Shape::JsonOnly(_) if root.has_keys() => read_object(&root, text),
        shape => read(&shape, NO_KEY, text.trim()),
    }
}

/// What the text gives for one member. A current name wins over an old one, whatever the order.
#[derive(Clone, Copy, Default)]
struct Given<'t> {
    by_name: Option<&'t str>,
    by_alias: Option<&'t str>,
}

/// Reads `a=1,b=2`.
fn read_object(node: &Node<'_>, text: &str) -> Result<Value, Error> {
    let keys = Keys::of(node);
    let mut given = vec![Given::default(); keys.members.len()];
    let mut mode = None;
    for (index, piece) in scan::split(text).enumerate() {
        if piece.is_empty() {
            return Err(Error::EmptyParameter { index: index + 1 });
        }
        let (name, value) = match piece.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (piece, None),
        };
        match keys.find(name).ok_or_else(|| keys.unknown(name))? {
            Found::Member(at) => given[at].by_name = set(&keys.members[at], name, value)?,
            Found::Alias(at) => given[at].by_alias = set(&keys.members[at], name, value)?,
            Found::Mode(at) => {
                let before = mode.replace((at, name, value));
                if let Some((_, first, _)) = before.filter(|(before, ..)| *before != at) {
                    return Err(Error::TwoModes {
                        first: first.into(),
                        second: name.into(),
                    });
                }
            }
        }
    }
    let mut object = Map::new();
    if let Some(modes) = &keys.modes {
        let (at, _, value) = mode.ok_or_else(|| modes.missing())?;
        read_mode(modes, at, value, &mut object)?;
    }
    for (member, given) in keys.members.iter().zip(given) {
        if let Some(text) = given.by_name.or(given.by_alias) {
            let value = read(&Shape::of(&member.node), member.flag, text)?;
            member.put(&mut object, value);
        }
    }
    fill(node, &keys, &mut object)?;
    Ok(Value::Object(object))
}

/// The text that `name=value` gives for a member: none if it is empty, which means not set.
fn set<'t>(
    member: &Member<'_>,
    name: &str,
    value: Option<&'t str>,
) -> Result<Option<&'t str>, Error> {
    if let Some(text) = value {
        return Ok((!text.is_empty()).then_some(text));
    }
    let value = match Shape::of(&member.node) {
        Shape::JsonOnly(reason) => {
            return Err(Error::JsonOnly {
                key: name.to_owned(),
                reason,
            });
        }
        Shape::Toggle => "on".to_owned(),
        shape => shape.label(),
    };
    Err(Error::MissingValue {
        key: name.to_owned(),
        example: format!("{name}={value}"),
    })
}

/// Stores a mode, and its value in the place for it.
fn read_mode(
    modes: &Modes<'_>,
    at: usize,
    value: Option<&str>,
    object: &mut Map<String, Value>,
) -> Result<(), Error> {
    let mode = &modes.all[at];
    let wrong = |problem| Error::ModeValue {
        mode: mode.flag.clone(),
        problem,
        example: mode.usage(),
    };
    object.insert(modes.json.to_owned(), mode.json.into());
    match (&mode.place, value) {
        (None, None) => {}
        (None, Some(_)) => return Err(wrong("takes no value")),
        (Some(_), None) => return Err(wrong("needs a value")),
        (Some(_), Some(text)) if scan::unquote(text).is_empty() => {
            return Err(wrong("has an empty value"));
        }
        (Some(place), Some(text)) => {
            let value = read(&Shape::of(&place.node), &mode.flag, text)?;
            object.insert(place.json.to_owned(), value);
        }
    }
    Ok(())
}

/// Adds the defaults that only flags have, and fails if a member is missing then.
fn fill(node: &Node<'_>, keys: &Keys<'_>, object: &mut Map<String, Value>) -> Result<(), Error> {
    for member in &keys.members {
        if member.get(object).is_some() {
            continue;
        }
        let value = match member.default().filter(|_| member.has_holder(object)) {
            Some(Fallback::Flag(value)) => Some(value.clone()),
            Some(Fallback::Same(flag)) => {
                let other = keys.members.iter().find(|other| other.flag == flag);
                other.and_then(|other| other.get(object)).cloned()
            }
            Some(Fallback::Type(_)) | None => None,
        };
        match value {
            Some(value) => {
                member.put(object, value);
            }
            None if member.is_due(node, object) => {
                return Err(Error::MissingKey {
                    key: member.flag.to_owned(),
                    example: member.usage(),
                });
            }
            None => {}
        }
    }
    Ok(())
}

/// Reads the text of one value. `text` is trimmed and not empty, except if there are no keys.
fn read(shape: &Shape<'_>, key: &str, text: &str) -> Result<Value, Error> {
    let plain = || scan::unquote(text);
    let checked = |value: Result<Value, String>| value.map_err(|e| Error::value(key, &plain(), e));
    match shape {
        Shape::Toggle => {
            checked(read_toggle(&plain()).ok_or_else(|| "must be on or off".to_owned()))
        }
        Shape::Integer(range) => checked(read_integer(range, &plain())),
        Shape::Size(range) => {
            let size = size::read(&plain()).map_err(str::to_owned);
            checked(size.and_then(|size| range.number(Some(size.into()))))
        }
        Shape::Hex(range) => checked(read_hex(range, &plain())),
        Shape::Real => checked(read_real(&plain())),
        Shape::Text(format) => checked(read_text(*format, &plain())),
        Shape::Choice(choice) => checked(read_choice(choice, &plain())),
        Shape::Colon(fields) => read_colon(fields, key, &plain()),
        Shape::Pairs(pair) => read_pairs(pair, key, text),
        Shape::Ranges(range) => read_ranges(range, key, text),
        Shape::Texts => {
            let texts = entries(key, text).map(|entry| entry.map(Value::from));
            texts.collect::<Result<_, _>>().map(Value::Array)
        }
        Shape::TrueSet(fields) => read_true_set(fields, key, text),
        Shape::JsonOnly(reason) => Err(Error::JsonOnly {
            key: key.to_owned(),
            reason,
        }),
    }
}

fn read_toggle(text: &str) -> Option<Value> {
    let is = |words: [&str; 2]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["on", "true"]) {
        Some(Value::Bool(true))
    } else if is(["off", "false"]) {
        Some(Value::Bool(false))
    } else {
        None
    }
}

fn read_integer(range: &Range<'_>, text: &str) -> Result<Value, String> {
    let digits = text
        .strip_prefix('-')
        .filter(|_| range.min < 0)
        .unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "must be a plain decimal number from {} to {}",
            range.min, range.max
        ));
    }
    range.number(text.parse().ok())
}

fn read_hex(range: &Range<'_>, text: &str) -> Result<Value, String> {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("must be a hexadecimal number that starts with 0x".to_owned());
    }
    let number = i128::from_str_radix(digits, 16)
        .ok()
        .filter(|n| (range.min..=range.max).contains(n));
    match number {
        Some(_) => range.number(number),
        None => Err(format!(
            "is out of range: must be from {:#x} to {:#x}",
            range.min.max(0),
            range.max
        )),
    }
}

fn read_real(text: &str) -> Result<Value, String> {
    // JSON has no infinity and no NaN: `from_f64` refuses what `parse` makes of such words.
    let number = text.parse().ok().and_then(Number::from_f64);
    number
        .map(Value::Number)
        .ok_or_else(|| "must be a number".to_owned())
}

fn read_text(format: Option<&str>, text: &str) -> Result<Value, String> {
    // Checked here as well as by serde, because here the key is known.
    let problem = match format {
        Some("ip") if text.parse::<IpAddr>().is_err() => "must be an IPv4 or IPv6 address",
        Some("ipv4") if text.parse::<Ipv4Addr>().is_err() => "must be an IPv4 address",
        Some("ipv6") if text.parse::<Ipv6Addr>().is_err() => "must be an IPv6 address",
        _ => return Ok(text.into()),
    };
    Err(problem.to_owned())
}

fn read_choice(choice: &Choice<'_>, text: &str) -> Result<Value, String> {
    let shown = || choice.shown().collect::<Vec<_>>();
    choice
        .variant(text)
        .map(Value::from)
        .ok_or_else(|| match nearest(text, shown()) {
            Some(word) => format!(
                "must be one of {}; did you mean {word:?}?",
                shown().join(", ")
            ),
            None => format!("must be one of {}", shown().join(", ")),
        })
}

fn read_colon(fields: &Fields<'_>, key: &str, text: &str) -> Result<Value, Error> {
    let parts: Vec<_> = text.split(':').map(str::trim).collect();
    let (needed, given) = (fields.members.len(), parts.len());
    if needed != given {
        let names = fields.names().join(":");
        let problem = format!("must be {needed} numbers, {names}; these are {given}");
        return Err(Error::value(key, text, problem));
    }
    let mut object = Map::new();
    for (member, part) in fields.members.iter().zip(parts) {
        // `topology.packages` says which of the parts is at fault.
        let key = format!("{key}.{}", member.flag);
        object.insert(
            member.json.to_owned(),
            read(&Shape::of(&member.node), &key, part)?,
        );
    }
    Ok(Value::Object(object))
}

fn read_pairs(pair: &Fields<'_>, key: &str, text: &str) -> Result<Value, Error> {
    let inner = scan::brackets(text).ok_or_else(|| {
        let problem = format!("must be a list in brackets: [{},...]", pair.pair_label());
        Error::value(key, text, problem)
    })?;
    let shapes: Vec<_> = pair
        .members
        .iter()
        .map(|member| Shape::of(&member.node))
        .collect();
    let mut numbers = 0;
    let read_pair = |entry: &str| {
        let two = scan::split_pair(entry).filter(|(first, _)| !scan::unquote(first).is_empty());
        let Some((first, second)) = two.filter(|(_, second)| !second.is_empty()) else {
            return Err(Error::value(
                key,
                entry,
                format!("must be {}", pair.pair_label()),
            ));
        };
        let mut object = Map::new();
        for ((member, shape), text) in pair.members.iter().zip(&shapes).zip([first, second]) {
            object.insert(member.json.to_owned(), read(shape, key, text)?);
        }
        numbers += list_lengths(&object);
        if numbers > MOST_IN_PAIRS {
            let problem = format!("makes all lists together longer than {MOST_IN_PAIRS} numbers");
            return Err(Error::value(key, entry, problem));
        }
        Ok(Value::Object(object))
    };
    scan::split(inner)
        .map(read_pair)
        .collect::<Result<_, _>>()
        .map(Value::Array)
}

/// How many entries the lists in an object have.
pub(crate) fn list_lengths(object: &Map<String, Value>) -> usize {
    object
        .values()
        .filter_map(Value::as_array)
        .map(Vec::len)
        .sum()
}

fn read_ranges(range: &Range<'_>, key: &str, text: &str) -> Result<Value, Error> {
    let mut numbers = Vec::new();
    for entry in entries(key, text) {
        let entry = entry?;
        let wrong = |problem: String| Error::value(key, entry, problem);
        // From the second byte on: the first can be a sign.
        let dash = entry
            .bytes()
            .skip(1)
            .position(|byte| byte == b'-')
            .map(|at| at + 1);
        let Some(dash) = dash else {
            numbers.push(read_integer(range, entry).map_err(wrong)?);
            continue;
        };
        let end = |text: &str| read_integer(range, text.trim()).map_err(wrong);
        let (first, last) = (end(&entry[..dash])?, end(&entry[dash + 1..])?);
        add_range(&mut numbers, &first, &last).map_err(wrong)?;
    }
    match numbers.len() {
        0..=LONGEST_LIST => Ok(Value::Array(numbers)),
        _ => Err(Error::value(key, text, too_long())),
    }
}

/// Adds the numbers from `first` to `last`, both included.
fn add_range(numbers: &mut Vec<Value>, first: &Value, last: &Value) -> Result<(), String> {
    let (Some(first), Some(last)) = (integer(first), integer(last)) else {
        return Err("must be whole numbers".to_owned());
    };
    if first >= last {
        return Err("is not a range: its first number must be less than its last".to_owned());
    }
    // Before anything is stored: a range of a few letters can stand for any amount of memory.
    let length = usize::try_from(last - first).unwrap_or(usize::MAX);
    if length >= LONGEST_LIST.saturating_sub(numbers.len()) {
        return Err(too_long());
    }
    let number = |n| {
        u64::try_from(n)
            .map(Value::from)
            .or_else(|_| i64::try_from(n).map(Value::from))
    };
    numbers.extend((first..=last).filter_map(|n| number(n).ok()));
    Ok(())
}

fn too_long() -> String {
    format!("makes the list longer than {LONGEST_LIST} numbers")
}

fn read_true_set(fields: &Fields<'_>, key: &str, text: &str) -> Result<Value, Error> {
    let mut object = Map::new();
    for entry in entries(key, text) {
        let entry = entry?;
        let Some(member) = fields.members.iter().find(|member| member.flag == entry) else {
            let guess = nearest(entry, fields.names());
            let guess = guess.map_or(String::new(), |name| format!(", did you mean {name:?}?"));
            let known = fields.names().join(", ");
            let problem = format!("is not known{guess}; known entries: {known}");
            return Err(Error::value(key, entry, problem));
        };
        object.insert(member.json.to_owned(), Value::Bool(true));
    }
    Ok(Value::Object(object))
}

/// The entries of a list, which needs its brackets only if there is a comma in it. The quotes of
/// an entry stay: the reference keeps them too.
fn entries<'t>(key: &str, text: &'t str) -> impl Iterator<Item = Result<&'t str, Error>> {
    scan::split(scan::brackets(text).unwrap_or(text)).map(move |entry| match entry {
        "" => Err(Error::value(
            key,
            text,
            "has an empty entry: remove the extra comma",
        )),
        _ => Ok(entry),
    })
}
