//! Names of places on the PCI buses.

use std::fmt;

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
}
