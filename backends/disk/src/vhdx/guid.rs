//! GUIDs as structures have them: the first three fields little-endian ([MS-DTYP] 2.3.4.2).

use std::fmt;
use std::io;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Guid(pub(crate) [u8; 16]);

impl Guid {
    pub(crate) const ZERO: Self = Self([0; 16]);

    /// From the five fields of the text, the last two as one.
    pub(crate) const fn new(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Self {
        let (a, b, c) = (
            first.to_le_bytes(),
            second.to_le_bytes(),
            third.to_le_bytes(),
        );
        let [d, e, f, g, h, i, j, k] = rest;
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d, e, f, g, h, i, j, k,
        ])
    }

    /// One that nobody has.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = crate::mapped::random()?;
        // Version 4, variant 1 (RFC 9562, 5.4).
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// The one at `at`; zero behind the end.
    pub(crate) fn at(bytes: &[u8], at: usize) -> Self {
        let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
        Self(field.copied().unwrap_or_default())
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        let (first, second, third) = (
            u32::from_le_bytes([a, b, c, d]),
            u16::from_le_bytes([e, g]),
            u16::from_le_bytes([h, i]),
        );
        write!(f, "{first:08X}-{second:04X}-{third:04X}-")?;
        for (at, byte) in rest.iter().enumerate() {
            let dash = if at == 2 { "-" } else { "" };
            write!(f, "{dash}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[test]
fn guids_are_read_and_written_as_text_has_them() {
    let guid = Guid::new(
        0x2dc2_7766,
        0xf623,
        0x4200,
        [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08],
    );
    assert_eq!(guid.to_string(), "2DC27766-F623-4200-9D64-115E9BFD4A08");
    assert_eq!(Guid::at(&guid.0, 0), guid);
    assert_ne!(Guid::random().unwrap(), Guid::random().unwrap());
}
