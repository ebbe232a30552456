//! Reads `a=1,b=[x,y]` into any serde type, and prints its help.
//!
//! One type is all there is to an option: what the command line accepts, what the JSON body is and
//! what `--help` says. The type derives `Serialize`, `Deserialize` and `JsonSchema`; this crate
//! looks at its schema to know that `size=512M` is a number of bytes and `affinity=[0@[2-3]]` a
//! list of pairs, makes JSON of it, and lets serde do the rest.
//!
//! ```
//! use keyvalue::ByteSize;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
//! struct Memory {
//!     /// Size of the guest's memory.
//!     #[schemars(extend("x-flag-default" = 536870912))]
//!     size: ByteSize,
//!     /// Share the memory with other processes.
//!     #[serde(default)]
//!     shared: bool,
//! }
//!
//! let memory: Memory = keyvalue::from_str("size=1G,shared=on")?;
//! assert_eq!(memory, Memory { size: ByteSize(1 << 30), shared: true });
//! assert_eq!(keyvalue::to_string(&memory)?, "size=1G,shared=on");
//!
//! let schema = schemars::schema_for!(Memory);
//! assert_eq!(keyvalue::syntax(&schema), "size=<size>,shared=on|off");
//! assert_eq!(
//!     keyvalue::help(&schema),
//!     "size=<size>    Size of the guest's memory [default: 512M]\n\
//!      shared=on|off  Share the memory with other processes [default: off]\n"
//! );
//!
//! let error = keyvalue::from_str::<Memory>("siez=1G").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     r#"unknown key "siez", did you mean "size"? known keys: size, shared"#
//! );
//! # Ok::<(), keyvalue::Error>(())
//! ```
//!
//! # Syntax
//!
//! Parameters are separated by commas. The first `=` of a parameter ends its key; the rest is its
//! value. White space around either is dropped. Double quotes protect `,`, `@`, `[` and `]`, and
//! are removed from the value; a doubled quote inside quotes is a quote. Brackets enclose lists and
//! protect what is in them. `key=` means that the key is not set, `key=""` is an empty text. If a
//! key is there twice, the last one counts.
//!
//! | Rust type | text |
//! |---|---|
//! | `bool` | `on`, `true`, `off`, `false`, in upper or lower case |
//! | integers | plain decimal, in the range of the type |
//! | [`ByteSize`] | decimal with an optional `K`, `M` or `G` |
//! | `String`, `PathBuf`, `IpAddr`, own types that serialise as a string | any text |
//! | an enum without data | the variant's name, in upper or lower case |
//! | `Vec` of integers | `[0,2-4]`; one entry needs no brackets; at most 65536 numbers |
//! | `Vec` of texts | `[a,b]`; one entry needs no brackets; entries keep their quotes |
//! | `Option<T>` | as `T` |
//!
//! # Attributes
//!
//! Where the flag differs from the JSON, a field (or its type) says so:
//! `#[schemars(extend("x-flag" = "boot"))]`.
//!
//! | attribute | value | meaning |
//! |---|---|---|
//! | `x-flag` | name | the key, if it is not the JSON member's name |
//! | `x-flag-alias` | list of names | further keys for old command lines; the key itself wins |
//! | `x-flag-default` | JSON, or `"=key"` | default of flags only; `=key` takes another key's value |
//! | `x-flag-hidden` | `true` | accepted, but not shown |
//! | `x-flag-skip` | `true` | a member of the JSON only |
//! | `x-flag-values` | `{"word": "Variant"}` | words for variants that are not the lower-cased name; `{"word": null}` takes one away |
//! | `x-flag-case` | `true` | words for variants have to match in case |
//! | `x-json-alias` | list of names | further JSON members for [`check_json`]: schemars does not tell about `serde(alias)` |
//! | `x-flag-keys` | `{"key": "/json/pointer"}` | instead of one key for an object, keys for parts of it, at any depth |
//! | `x-flag-syntax` | see below | how the value is written |
//!
//! | `x-flag-syntax` | for | text |
//! |---|---|---|
//! | `size` | an integer | as [`ByteSize`], which has this by itself |
//! | `hex` | an integer | `0xe9` |
//! | `colon` | an object of integers | `1:2:3:4`, in order of declaration |
//! | `pairs` | a list of objects with two members | `[0@[1,2],3@[4]]`; the first side in quotes if it has `@` |
//! | `ranges` | a list of integers | `[0,2-4]`, as without the attribute |
//! | `true-set` | an object of booleans that default to false | `[amx]`: the names of those that are true |
//! | `modes` | an enum member | see below |
//!
//! With `x-flag-keys` an object inside the member is there if one of its keys is, and then all that it requires must be.
//!
//! With `modes` the variants become keys: `off`, `tty`. A variant with the name of another member
//! takes that member's value: `file=/tmp/log` sets the mode to `File` and `file` to the path.
//! `File` and `Socket` do not exist where there is no such member. Exactly one mode must be given.

#![forbid(unsafe_code)]

mod check;
mod error;
mod help;
mod keys;
mod nearest;
mod node;
mod read;
mod scan;
mod shape;
mod size;
#[cfg(test)]
mod tests;
mod write;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use check::check_json;
pub use error::Error;
pub use help::{Entry, entries, help, syntax};
pub use nearest::nearest;
pub use read::parse;
pub use size::ByteSize;

/// Reads `text` into a `T`.
///
/// # Errors
///
/// If the text is not of the syntax above, a key is unknown or missing, a value is not of its
/// key's type, or `T` itself refuses what was read ([`Error::Refused`]).
pub fn from_str<T: DeserializeOwned + JsonSchema>(text: &str) -> Result<T, Error> {
    let schema = schema_of::<T>();
    let value = parse(&schema, text)?;
    T::deserialize(&value).map_err(|source| {
        let culprit = value
            .as_object()
            .and_then(|object| culprit::<T>(object, &source));
        let title = || {
            schema
                .get("title")
                .and_then(Value::as_str)
                .unwrap_or(read::NO_KEY)
        };
        let what = culprit.map_or_else(|| title().to_owned(), |json| blame(&schema, &value, json));
        Error::Refused { what, source }
    })
}

/// Writes a value such that [`from_str`] reads the same value again.
///
/// Keys are in order of declaration; those that have their default are left out.
///
/// # Errors
///
/// [`Error::Unwritable`] if there is no such text, because a member exists in JSON only or because
/// a list of texts has an entry that would need quotes.
pub fn to_string<T: Serialize + JsonSchema>(value: &T) -> Result<String, Error> {
    let value = serde_json::to_value(value).map_err(Error::Serialise)?;
    write::to_text(&schema_of::<T>(), &value)
}

fn schema_of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

/// The only member without which there would be a different error, or none: the one at fault.
///
/// Serde does not tell which member it refused. To try again is cheap enough, this once.
fn culprit<'v, T: DeserializeOwned>(
    object: &'v Map<String, Value>,
    error: &serde_json::Error,
) -> Option<&'v str> {
    let error = error.to_string();
    let mut suspects = object.keys().filter(|name| {
        let mut rest = object.clone();
        rest.remove(*name);
        T::deserialize(Value::Object(rest))
            .err()
            .is_none_or(|other| other.to_string() != error)
    });
    let only = suspects.next()?;
    suspects.next().is_none().then_some(only)
}

/// The key and the text that a member was set with.
fn blame(schema: &Schema, value: &Value, json: &str) -> String {
    let members = node::Node::root(schema).members();
    let Some(member) = members.iter().find(|member| member.json == json) else {
        return json.to_owned();
    };
    match write::write(&shape::Shape::of(&member.node), member.flag, &value[json]) {
        Ok(text) => format!("{} {text:?}", member.flag),
        Err(_) => member.flag.to_owned(),
    }
}
