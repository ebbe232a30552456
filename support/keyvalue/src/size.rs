//! Numbers of bytes, as the user writes them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::Error;

/// A number of bytes: `536870912` in JSON, `512M` in a flag.
///
/// A flag has a decimal number and at most one suffix: `K`, `M` or `G`, in upper case, for
/// multiples of 1024, 1024² and 1024³. There are no fractions, and no other suffixes. [`Display`]
/// writes the largest suffix that leaves a whole number.
///
/// ```
/// use keyvalue::ByteSize;
///
/// let size: ByteSize = "512M".parse()?;
/// assert_eq!(size, ByteSize(512 << 20));
/// assert_eq!(size.to_string(), "512M");
/// # Ok::<(), keyvalue::Error>(())
/// ```
///
/// [`Display`]: fmt::Display
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// The suffixes and how far each shifts a number to the left, the largest first.
const SUFFIXES: [(char, u32); 3] = [('G', 30), ('M', 20), ('K', 10)];

/// Reads a size, or says what is wrong with it.
pub(crate) fn read(text: &str) -> Result<u64, &'static str> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    if digits.is_empty() {
        return Err("must be a decimal number of bytes, with an optional suffix K, M or G");
    }
    let shift = match suffix {
        "" => 0,
        _ => SUFFIXES
            .iter()
            .find_map(|(letter, shift)| {
                (suffix.strip_prefix(*letter) == Some("")).then_some(*shift)
            })
            .ok_or("suffix must be K, M or G (one, in upper case, after a whole number)")?,
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or("is too large: sizes end at 18446744073709551615 bytes (2^64 - 1)")
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match SUFFIXES.iter().find(|(_, shift)| fits(*shift)) {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        read(text)
            .map(Self)
            .map_err(|problem| Error::value("size", text, problem))
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "format": "uint64",
            "minimum": 0,
            "x-flag-syntax": "size",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    fn read(text: &str) -> Result<u64, String> {
        text.parse()
            .map(|ByteSize(bytes)| bytes)
            .map_err(|e: crate::Error| e.to_string())
    }

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read("1000"), Ok(1000));
        assert_eq!(read("3K"), Ok(3 << 10));
        assert_eq!(read("512M"), Ok(512 << 20));
        assert_eq!(read("4G"), Ok(4 << 30));
        assert_eq!(read("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(read("17179869183G"), Ok(17_179_869_183 << 30));
    }

    #[test]
    fn other_suffixes_are_refused() {
        for text in [
            "512m", "10MM", "10KM", "1T", "1KiB", "1KB", "1.5G", "1 G", "1_000", "1G ",
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains("suffix must be K, M or G"), "{message}");
            assert!(
                message.starts_with(&format!("size {text:?}: ")),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "K", "-1", "+1", "0x10", "M5"] {
            // `0x10` starts with the number 0, so its message is about the suffix.
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn too_large_sizes_are_refused_whichever_way_they_overflow() {
        for text in [
            "18446744073709551616",
            "17179869184G",
            "99999999999999999999999999K",
        ] {
            assert!(read(text).unwrap_err().contains("is too large"), "{text}");
        }
    }

    #[test]
    fn display_is_exact() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1000, "1000"),
            (1024, "1K"),
            (1 << 20, "1M"),
            (1536 << 20, "1536M"),
            (3 << 30, "3G"),
            ((1 << 30) + 1, "1073741825"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(read(text), Ok(bytes));
        }
    }

    #[test]
    fn json_is_a_plain_integer() {
        assert_eq!(
            serde_json::to_string(&ByteSize(1 << 20)).unwrap(),
            "1048576"
        );
        assert_eq!(
            serde_json::from_str::<ByteSize>("1048576").unwrap(),
            ByteSize(1 << 20)
        );
        assert!(serde_json::from_str::<ByteSize>("\"1M\"").is_err());
    }
}
