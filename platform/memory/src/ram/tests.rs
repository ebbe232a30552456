use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestMemoryRegion};

use super::*;
use crate::testing::{GIB, MIB, first, ram, resident_pages};

const PAGE: u64 = 4096;

/// Two adjoining regions, a hole and one more: RAM is 0x1000..0x4000 and 0x6000..0x7000.
fn split() -> GuestRam {
    let regions = [
        RegionSpec {
            start: 0x6000,
            size: PAGE,
        },
        RegionSpec {
            start: 0x1000,
            size: PAGE,
        },
        RegionSpec {
            start: 0x2000,
            size: 2 * PAGE,
        },
    ];
    GuestRam::new(&regions, &RamOptions::default()).unwrap()
}

fn is_ram(address: u64, length: u64) -> bool {
    let Some(end) = address.checked_add(length) else {
        return false;
    };
    length == 0 || (address >= 0x1000 && end <= 0x4000) || (address >= 0x6000 && end <= 0x7000)
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn assert_out_of_range(result: Result<(), Error>, at: u64, of: u64) {
    match result {
        Err(Error::OutOfRange { address, length }) => assert_eq!((address, length), (at, of)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn regions_come_in_order_with_their_sizes() {
    let ram = split();
    let regions: Vec<_> = ram
        .regions()
        .map(|region| (region.start(), region.size()))
        .collect();
    assert_eq!(
        regions,
        [(0x1000, PAGE), (0x2000, 2 * PAGE), (0x6000, PAGE)]
    );
    assert_eq!(ram.size(), 4 * PAGE);
}

#[test]
fn ram_is_zero_at_first() {
    for shared in [false, true] {
        let ram = ram(
            MIB,
            &RamOptions {
                shared,
                ..RamOptions::default()
            },
        );
        let mut bytes = vec![1; 1 << 20];
        ram.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_range_may_cross_into_an_adjoining_region() {
    let ram = split();
    ram.write(0x1ffd, b"abcdef").unwrap();
    let mut bytes = [0; 6];
    ram.read(0x1ffd, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdef");
}

#[test]
fn a_range_that_is_ram_only_in_part_is_left_alone() {
    let ram = split();
    assert_out_of_range(ram.write(0x3ffe, b"abcd"), 0x3ffe, 4);
    assert_out_of_range(ram.write_zeros(0x3ffe, 0x3000), 0x3ffe, 0x3000);
    assert_out_of_range(
        ram.read_from_file(&file_of(b"abcd"), 0, 0x3ffe, 4),
        0x3ffe,
        4,
    );
    let mut bytes = [9; 4];
    assert_out_of_range(ram.read(0x3ffe, &mut bytes), 0x3ffe, 4);
    assert_eq!(bytes, [9; 4]);
    ram.read(0x3ffe, &mut bytes[..2]).unwrap();
    assert_eq!(bytes, [0, 0, 9, 9]);
}

#[test]
fn the_refusal_names_address_and_length() {
    assert_eq!(
        split().write(0x5000, &[0; 16]).unwrap_err().to_string(),
        "16 bytes at guest address 0x5000 are not all RAM"
    );
}

#[test]
fn the_end_of_the_address_space_is_no_way_around() {
    let ram = split();
    for (address, length) in [
        (u64::MAX, 1),
        (u64::MAX, 2),
        (0x1000, u64::MAX),
        (0, u64::MAX),
        (1, u64::MAX),
    ] {
        assert!(
            !ram.contains(address, length),
            "{length:#x} at {address:#x}"
        );
        assert_out_of_range(ram.write_zeros(address, length), address, length);
    }
}

#[test]
fn the_highest_addresses_work() {
    let start = u64::MAX - 0x1fff;
    let ram = GuestRam::new(&[RegionSpec { start, size: PAGE }], &RamOptions::default()).unwrap();
    ram.write(start + PAGE - 1, &[1]).unwrap();
    assert_out_of_range(ram.write(start + PAGE - 1, &[1, 2]), start + PAGE - 1, 2);
}

#[test]
fn memory_outlives_its_handle() {
    let ram = ram(2 * MIB, &RamOptions::default());
    ram.write(100, &[42]).unwrap();
    let mapping = first(&ram);
    let memory = ram.memory().clone();
    drop(ram);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(100)).unwrap(), 42);
    drop(memory);
    let mut byte = [0u8];
    mapping.slice(100, 1).unwrap().copy_to(&mut byte);
    assert_eq!(byte, [42]);
}

#[test]
fn vm_memory_sees_the_same_memory() {
    let ram = split();
    ram.memory()
        .write_obj(0x1122_3344_u32, GuestAddress(0x2000))
        .unwrap();
    let mut bytes = [0; 4];
    ram.read(0x2000, &mut bytes).unwrap();
    assert_eq!(u32::from_ne_bytes(bytes), 0x1122_3344);

    let region = GuestMemoryBackend::find_region(ram.memory(), GuestAddress(0x3fff)).unwrap();
    assert_eq!(
        (region.start_addr().0, region.last_addr().0),
        (0x2000, 0x3fff)
    );
    let host = GuestMemoryBackend::get_host_address(ram.memory(), GuestAddress(0x3008)).unwrap();
    assert_eq!(host.addr(), region.mapping().address().addr() + 0x1008);
    assert!(GuestMemoryBackend::get_host_address(ram.memory(), GuestAddress(0x4000)).is_err());
    assert!(GuestMemoryBackend::get_slice(ram.memory(), GuestAddress(0x3fff), 2).is_err());
    assert_eq!(region.is_hugetlbfs(), Some(false));
}

#[test]
fn zeros_are_written_to_all_of_the_range_and_no_more() {
    let ram = ram(MIB, &RamOptions::default());
    ram.write(0, &vec![0xff; 1 << 20]).unwrap();
    ram.write_zeros(1, 10_001).unwrap();
    let mut bytes = vec![0; 1 << 20];
    ram.read(0, &mut bytes).unwrap();
    assert_eq!(bytes[0], 0xff);
    assert!(bytes[1..10_002].iter().all(|byte| *byte == 0));
    assert!(bytes[10_002..].iter().all(|byte| *byte == 0xff));
}

#[test]
fn a_file_is_read_without_moving_its_position() {
    let content: Vec<u8> = (0..20_000u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    let mut file = file_of(&content);
    file.seek(SeekFrom::Start(3)).unwrap();
    let ram = split();
    ram.read_from_file(&file, 1000, 0x1ff0, 0x1800).unwrap();
    let mut bytes = vec![0; 0x1800];
    ram.read(0x1ff0, &mut bytes).unwrap();
    assert_eq!(bytes, content[1000..1000 + 0x1800]);
    assert_eq!(file.stream_position().unwrap(), 3);
}

#[test]
fn a_short_file_says_by_how_much() {
    let error = split()
        .read_from_file(&file_of(&[1; 100]), 10, 0x1000, 200)
        .unwrap_err();
    assert!(
        matches!(error, Error::FileEnd { missing: 110, .. }),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "the file ends 110 bytes short of the 200 bytes at offset 10 to load at guest address 0x1000"
    );
    let beyond = split()
        .read_from_file(&file_of(&[1; 100]), 1000, 0x1000, 1)
        .unwrap_err();
    assert!(
        matches!(beyond, Error::FileEnd { missing: 1, .. }),
        "{beyond:?}"
    );
}

#[test]
fn files_that_cannot_be_read_are_an_error() {
    let ram = split();
    for offset in [u64::MAX, 1 << 63] {
        let error = ram
            .read_from_file(&file_of(b"x"), offset, 0x1000, 1)
            .unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }
    let directory = File::open("/proc").unwrap();
    assert!(matches!(
        ram.read_from_file(&directory, 0, 0x1000, 1),
        Err(Error::File { .. })
    ));
    let (pipe, _writer) = std::io::pipe().unwrap();
    let pipe = File::from(OwnedFd::from(pipe));
    let error = ram.read_from_file(&pipe, 0, 0x1000, 1).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn no_bytes_are_always_there() {
    let ram = split();
    for address in [0, 0x1000, 0x4000, 0x5000, u64::MAX] {
        assert!(ram.contains(address, 0));
        ram.write(address, &[]).unwrap();
        ram.read(address, &mut []).unwrap();
        ram.write_zeros(address, 0).unwrap();
        ram.read_from_file(&file_of(&[]), 5, address, 0).unwrap();
    }
}

#[test]
fn only_pages_that_are_written_take_memory() {
    let ram = ram(
        GIB,
        &RamOptions {
            thp: false,
            ..RamOptions::default()
        },
    );
    assert_eq!(resident_pages(&first(&ram)), 0);
    ram.write(0x1000, &[1]).unwrap();
    assert_eq!(resident_pages(&first(&ram)), 1);
}

#[test]
fn handles_can_go_to_other_threads() {
    let ram = split();
    std::thread::scope(|scope| {
        for number in 0..4u8 {
            let ram = ram.clone();
            scope.spawn(move || {
                ram.write(0x1000 + u64::from(number), &[number + 1])
                    .unwrap();
            });
        }
    });
    let mut bytes = [0; 4];
    ram.read(0x1000, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
}

/// Addresses near the edges of [`split`]'s regions and of the address space.
fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..0x8000u64,
        (0..8u64, 0..16u64).prop_map(|(page, near)| (page * PAGE + near).saturating_sub(8)),
        any::<u64>()
    ]
}

proptest! {
    #[test]
    fn ram_behaves_as_an_array_with_holes(
        writes in prop::collection::vec((addresses(), prop::collection::vec(any::<u8>(), 0..0x1200)), 1..12),
        from in addresses(),
        length in 0..0x3000usize,
    ) {
        let ram = split();
        let mut model = vec![0u8; 0x8000];
        for (address, bytes) in &writes {
            let allowed = is_ram(*address, bytes.len() as u64);
            prop_assert_eq!(ram.write(*address, bytes).is_ok(), allowed);
            if allowed && !bytes.is_empty() {
                let at = usize::try_from(*address).unwrap();
                model[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        let mut found = vec![0; length];
        let allowed = is_ram(from, length as u64);
        prop_assert_eq!(ram.contains(from, length as u64), allowed);
        prop_assert_eq!(ram.read(from, &mut found).is_ok(), allowed);
        if allowed && length > 0 {
            let at = usize::try_from(from).unwrap();
            prop_assert_eq!(&found[..], &model[at..at + length]);
        }
    }

    #[test]
    fn loading_is_reading_the_file_then_writing(
        content in prop::collection::vec(any::<u8>(), 0..0x2000),
        offset in 0..0x2800u64,
        address in addresses(),
        length in 0..0x2000u64,
    ) {
        let ram = split();
        let loaded = ram.read_from_file(&file_of(&content), offset, address, length);
        let enough = length == 0 || offset + length <= content.len() as u64;
        prop_assert_eq!(loaded.is_ok(), is_ram(address, length) && enough);
        if loaded.is_ok() && length > 0 {
            let mut found = vec![0; usize::try_from(length).unwrap()];
            ram.read(address, &mut found).unwrap();
            let at = usize::try_from(offset).unwrap();
            prop_assert_eq!(&found[..], &content[at..at + found.len()]);
        }
    }
}
