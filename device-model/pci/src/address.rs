//! Names of places on the PCI buses.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Where a function is. Bus and function number are always 0 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// Segment group, from 0.
    pub segment: u16,
    /// Slot, 0 to 31: the device number.
    pub device: u8,
}

impl fmt::Display for PciAddress {
    /// As Linux and the API write it: `0000:00:02.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:00:{:02x}.0", self.segment, self.device)
    }
}

impl FromStr for PciAddress {
    type Err = Error;

    /// The opposite of its text.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (segment, rest) = text.split_once(":00:")?;
            Some(Self {
                segment: u16::from_str_radix(segment, 16).ok()?,
                device: u8::from_str_radix(rest.strip_suffix(".0")?, 16).ok()?,
            })
        };
        let found = parse().filter(|address| address.to_string() == text);
        found.ok_or_else(|| Error::Address(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_everybody_writes_it() {
        assert_eq!(
            PciAddress {
                segment: 0,
                device: 31
            }
            .to_string(),
            "0000:00:1f.0"
        );
        assert_eq!(
            PciAddress {
                segment: 0x5f,
                device: 2
            }
            .to_string(),
            "005f:00:02.0"
        );
    }
    #[test]
    fn is_read_as_it_is_written_and_not_otherwise() {
        for (segment, device) in [(0, 0), (0, 31), (0x5f, 2), (u16::MAX, 9)] {
            let address = PciAddress { segment, device };
            assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
        }
        for text in [
            "",
            "0000:00:02",
            "0:00:02.0",
            "0000:01:02.0",
            "0000:00:02.1",
            "0000:00:+2.0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
