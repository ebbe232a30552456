//! Hardware addresses.

use std::fmt;
use std::io;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An Ethernet address, in text six groups of two hexadecimal digits: `2e:12:34:56:78:9a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "mac"))]
pub struct MacAddress(pub [u8; 6]);

/// First byte of generated addresses: locally administered, of one station.
const GENERATED: u8 = 0x2e;

impl MacAddress {
    /// A random one.
    ///
    /// # Errors
    /// If the kernel has no random numbers.
    pub(crate) fn generate() -> io::Result<Self> {
        let mut bytes = [0; 6];
        let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if count != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes[0] = GENERATED;
        Ok(Self(bytes))
    }

    /// Whether a station can have it: no group's, and not all zeros.
    pub(crate) fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let group = |group: &str| match group.as_bytes() {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                u8::from_str_radix(group, 16).ok()
            }
            _ => None,
        };
        let groups: Option<Vec<u8>> = text.split(':').map(group).collect();
        groups
            .and_then(|groups| groups.try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                "a hardware address is six groups of two hexadecimal digits: 2e:12:34:56:78:9a"
                    .into()
            })
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
