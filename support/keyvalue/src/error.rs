//! What can go wrong, said so that the user knows what to type next.

use std::fmt::Write as _;

/// Why a flag, or a JSON body, was refused.
///
/// A message names the key and the text at fault and what would have been accepted. It does not
/// name the option (`--disk`): the caller knows that, and puts it in front.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A quote or a bracket has no partner.
    #[error("unbalanced {what} at character {position} of {text:?}")]
    Unbalanced {
        /// What has no partner: `double quote`, `"["` or `"]"`.
        what: &'static str,
        /// Where it is, in characters, counted from 1.
        position: usize,
        /// The whole text.
        text: String,
    },
    /// There is nothing between two commas, or after the last one.
    #[error("empty parameter between commas (parameter {index}): remove the extra comma")]
    EmptyParameter {
        /// Which of the parameters is empty, counted from 1.
        index: usize,
    },
    /// A flag has a key that its type does not have.
    #[error("unknown key {key:?}{}", hint(suggestion.as_deref(), known, "keys"))]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<String>,
        /// All keys there are, hidden ones left out.
        known: Vec<String>,
    },
    /// A JSON object has a member that its type does not have.
    #[error("unknown member {path}{}", hint(suggestion.as_deref(), known, "members"))]
    UnknownMember {
        /// Where the member is, from the root: `$.cpus.bot_vcpus`.
        path: String,
        /// The member that was probably meant.
        suggestion: Option<String>,
        /// All members that the object can have.
        known: Vec<String>,
    },
    /// JSON has a list where its type has an object.
    #[error("{path}: it is a list, and should be an object with members")]
    ListForObject {
        /// Where it is, from the root: `$.cpus`.
        path: String,
    },
    /// A key stands alone, and its type is not one that can.
    #[error("key {key:?} needs a value: write {example}")]
    MissingValue {
        /// The key as it was written.
        key: String,
        /// What to write instead, such as `prefault=on`.
        example: String,
    },
    /// A key that the type cannot do without is not set.
    #[error("missing key {key:?}: write {example}")]
    MissingKey {
        /// The name of the key.
        key: String,
        /// How it is written, such as `cid=<u32>`.
        example: String,
    },
    /// The text of a key cannot be read as the key's type.
    #[error("{key} {text:?}: {problem}")]
    Value {
        /// The name of the key.
        key: String,
        /// The text at fault, which can be one entry of a list.
        text: String,
        /// What is wrong, and what is accepted.
        problem: String,
    },
    /// A type whose modes exclude one another was given none.
    #[error("no mode given: write one of {}", modes.join(", "))]
    NoMode {
        /// The modes there are, as they are written.
        modes: Vec<String>,
    },
    /// A type whose modes exclude one another was given two.
    #[error("both {first:?} and {second:?} were given: only one mode is possible")]
    TwoModes {
        /// The mode that was written first.
        first: String,
        /// The mode that was written after it.
        second: String,
    },
    /// A mode that needs a value has none, or one that takes no value has one.
    #[error("mode {mode:?} {problem}: write {example}")]
    ModeValue {
        /// The mode as it was written.
        mode: String,
        /// What is wrong with the value.
        problem: &'static str,
        /// How the mode is written.
        example: String,
    },
    /// A key has a type for which there is no flag text.
    #[error("key {key:?} cannot be set on the command line ({reason}): use the JSON interface")]
    JsonOnly {
        /// The name of the key.
        key: String,
        /// What about its type has no text.
        reason: &'static str,
    },
    /// A value was read, and then refused by the type it is for.
    #[error("{what} is not valid")]
    Refused {
        /// The key and its text if one key alone is at fault, otherwise the type's title.
        what: String,
        /// What the type says.
        source: serde_json::Error,
    },
    /// A value has no flag text that would be read back as the same value.
    #[error("{key} cannot be written as a flag: {reason}")]
    Unwritable {
        /// The name of the key, or of the JSON member that has no key.
        key: String,
        /// Why there is no text for it.
        reason: &'static str,
    },
    /// A value cannot be turned into JSON, so neither into a flag.
    #[error("the value cannot be serialised")]
    Serialise(#[source] serde_json::Error),
}

impl Error {
    /// The error of `text`, given for `key`, not being what `problem` asks for.
    pub(crate) fn value(key: &str, text: &str, problem: impl Into<String>) -> Self {
        Self::Value {
            key: key.to_owned(),
            text: text.to_owned(),
            problem: problem.into(),
        }
    }

    /// The error of `key` holding something that flags have no text for.
    pub(crate) fn unwritable(key: &str, reason: &'static str) -> Self {
        Self::Unwritable {
            key: key.to_owned(),
            reason,
        }
    }
}

/// The end of a message about an unknown name: the name that was meant, and those there are.
fn hint(suggestion: Option<&str>, known: &[String], noun: &str) -> String {
    let mut hint = match suggestion {
        Some(name) => format!(", did you mean {name:?}?"),
        None => ";".to_owned(),
    };
    // Writing to a string cannot fail.
    let _ = match known {
        [] => write!(hint, " there are no {noun} here"),
        _ => write!(hint, " known {noun}: {}", known.join(", ")),
    };
    hint
}
