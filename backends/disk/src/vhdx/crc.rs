//! CRC-32C: polynomial 0x1edc6f41, reflected (Castagnoli; RFC 3720, appendix B.4), which [MS-VHDX] has everywhere.

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 256")]
        let mut rest = index as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = match rest & 1 {
                0 => rest >> 1,
                _ => (rest >> 1) ^ 0x82f6_3b78,
            };
            bit += 1;
        }
        table[index] = rest;
        index += 1;
    }
    table
}

static TABLE: [u32; 256] = table();

/// Goes on with a checksum, which begins with `!0`; the checksum is the complement at the end.
fn go_on(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| {
        let index = sum.to_le_bytes()[0] ^ byte;
        TABLE[usize::from(index)] ^ (sum >> 8)
    })
}

/// The checksum of a structure whose own checksum, of 4 bytes at `at`, counts as zero.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let (before, rest) = bytes.split_at(at.min(bytes.len()));
    let behind = rest.get(4..).unwrap_or_default();
    !go_on(go_on(go_on(!0, before), &[0; 4]), behind)
}

#[test]
fn checksums_are_those_of_the_standard() {
    // RFC 3720, B.4, of 32 bytes; the place of the own checksum is behind all of them, and counts as four zeros.
    let all: Vec<u8> = (0..32).collect();
    for (bytes, expected) in [
        (vec![0; 32], 0x8a91_36aa),
        (vec![0xff; 32], 0x62a8_ab43),
        (all, 0x46dd_794e),
    ] {
        assert_eq!(!go_on(!0, &bytes), expected);
    }
    let mut bytes = *b"12345678";
    let sum = checksum(&bytes, 4);
    bytes[4..].fill(9);
    assert_eq!(checksum(&bytes, 4), sum);
    assert_eq!(sum, !go_on(!0, b"1234\0\0\0\0"));
}
