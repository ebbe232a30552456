use super::*;
use crate::bytes::{u16_at, u32_at};

const IO: IoApic = IoApic {
    id: 0,
    address: 0xfec0_0000,
    version: 0x11,
};
const AT: u64 = 0xf_0100;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
}

/// Walks the configuration table by the sizes of the specification; all entries by type.
fn walk(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    assert_eq!(&bytes[0..4], b"_MP_");
    assert_eq!(sum(&bytes[..POINTER]), 0);
    assert_eq!(u64::from(u32_at(bytes, 4).unwrap()), AT + POINTER as u64);
    let table = &bytes[POINTER..];
    assert_eq!(&table[0..4], b"PCMP");
    assert_eq!(usize::from(u16_at(table, 4).unwrap()), table.len());
    assert_eq!(sum(table), 0);
    assert_eq!(u32_at(table, 36), Some(0xfee0_0000));
    let (mut rest, mut entries) = (&table[HEADER..], Vec::new());
    while let Some(kind) = rest.first() {
        let size = if *kind == PROCESSOR { 20 } else { 8 };
        entries.push((*kind, rest[1..size].to_vec()));
        rest = &rest[size..];
    }
    assert_eq!(usize::from(u16_at(table, 34).unwrap()), entries.len());
    entries
}

#[test]
fn has_every_entry_in_order() {
    let entries = walk(&build(&[0, 2, 4], &IO, AT).unwrap());
    let kinds: Vec<u8> = entries.iter().map(|(kind, _)| *kind).collect();
    assert!(kinds.is_sorted());
    assert_eq!(kinds.iter().filter(|kind| **kind == PROCESSOR).count(), 3);
    assert_eq!(
        kinds.iter().filter(|kind| **kind == IO_INTERRUPT).count(),
        16
    );
    assert_eq!(entries[0].1[..3], [0, 0x14, 3], "enabled, and boots");
    assert_eq!(entries[2].1[..3], [4, 0x14, 1], "enabled");
    assert_eq!(entries[3].1, b"\0ISA   ");
    assert_eq!(entries[4].1, [0, 0x11, 1, 0, 0, 0xc0, 0xfe]);
    assert_eq!(
        entries[9].1,
        [0, 0, 0, 0, 4, 0, 4],
        "the serial port's interrupt"
    );
    assert_eq!(entries[21].1, [3, 0, 0, 0, 0, 0, 0], "LINT0 is ExtINT");
    assert_eq!(entries[22].1, [1, 0, 0, 0, 0, 255, 1], "LINT1 is NMI");
}

#[test]
fn is_left_out_where_eight_bits_are_too_few() {
    let ids = |count: u32| (0..count).collect::<Vec<u32>>();
    assert!(build(&ids(254), &IO, AT).is_some());
    assert!(build(&ids(255), &IO, AT).is_none());
    assert!(build(&[0, 254], &IO, AT).is_some());
    assert!(build(&[0, 255], &IO, AT).is_none(), "the id that means all");
    assert!(build(&[0, 256], &IO, AT).is_none());
    assert!(build(&[], &IO, AT).is_none());
}

#[test]
fn must_lie_in_the_bios_area() {
    assert!(build(&[0], &IO, AT + 8).is_none(), "alignment");
    assert!(build(&[0], &IO, 0xf_fff0).is_none(), "end");
    assert!(build(&[0], &IO, u64::MAX - 15).is_none());
}

#[test]
fn fits_behind_the_largest_smbios() {
    let address = address_after(crate::smbios::MAX_SIZE);
    assert!(build(&(0..254).collect::<Vec<u32>>(), &IO, address).is_some());
    assert_eq!(address_after(0x21), 0xf_0030);
    assert_eq!(address_after(0x20), 0xf_0020);
}
