//! Files that are damaged by chance or on purpose: an error or a plan within the RAM, never a panic.

use proptest::prelude::*;

use super::super::plan::{Plan, Room};
use super::*;

const LOW_RAM: u64 = 256 * MIB;

/// Plans a file as kernel and as firmware, and checks that whatever is planned is inside the RAM and the file.
/// Nothing is written, so the size of the RAM does not matter.
fn check(content: &[u8]) {
    let initramfs = || Some(file(&[0x5a; 4096]));
    let as_kernel = Request {
        initramfs: initramfs(),
        ..kernel(content)
    };
    let as_firmware = Request {
        firmware: Some(file(content)),
        ..Request::default()
    };
    for request in [as_kernel, as_firmware] {
        let room = Room {
            low_ram_end: LOW_RAM,
            reserved: &[],
        };
        let Ok(plan) = Plan::new(&request, room) else {
            continue;
        };
        let mut taken = Vec::new();
        for copy in &plan.copies {
            assert!(copy.file_offset + copy.size <= copy.source.size);
            taken.push(copy.address..copy.address + copy.size);
        }
        taken.extend(plan.zeros.iter().cloned());
        taken.sort_by_key(|range| range.start);
        assert!(
            taken
                .iter()
                .all(|range| range.start >= 0x3_0000 && range.end <= LOW_RAM)
        );
        assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let spare = &plan.loaded.spare_ram;
        assert!(spare.start <= spare.end && spare.end <= LOW_RAM);
        super::super::handoff::writes(&plan.loaded, &[], 0).unwrap();
    }
}

fn elf() -> Vec<u8> {
    let mut elf = ElfFile::at(2 * MIB, &[0x90; 300]);
    elf.parts.push(Part {
        address: 3 * MIB,
        content: vec![1; 10],
        memory_size: 0x5000,
    });
    elf.notes = Some(
        [
            note(b"GNU\0", 3, b"id"),
            note(b"Xen\0", 18, &0x20_0000u32.to_le_bytes()),
        ]
        .concat(),
    );
    elf.build()
}

#[test]
fn every_truncation_is_survived() {
    for whole in [elf(), BzImageFile::new(&[0x90; 0x400]).0] {
        check(&whole);
        for len in 1..whole.len() {
            check(&whole[..len]);
            let read = Image::read(&file(&whole[..len]), Role::Kernel);
            // The kernel's size may be rounded up by 15 bytes; nothing else may be missing.
            assert!(read.is_err() || len + 15 >= whole.len(), "cut to {len}");
        }
    }
}

#[test]
fn counts_and_sizes_at_their_limits_are_survived() {
    let headers = [
        (elf(), 4..64 + 3 * 56),
        (BzImageFile::new(&[0x90; 0x400]).0, 0x1f1..0x268),
    ];
    for (whole, range) in headers {
        for at in range {
            for value in [
                [0; 8],
                [0xff; 8],
                [0x80, 0, 0, 0, 0, 0, 0, 0],
                [0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0],
            ] {
                for size in [1, 2, 4, 8] {
                    let mut bytes = whole.clone();
                    bytes[at..at + size].copy_from_slice(&value[..size]);
                    check(&bytes);
                }
            }
        }
    }
}

#[test]
fn a_program_header_count_beyond_the_file_allocates_nothing() {
    let mut bytes = elf();
    bytes[56..58].copy_from_slice(&[0xff, 0xff]);
    let error = Image::read(&file(&bytes), Role::Kernel).unwrap_err();
    assert!(
        matches!(error, Error::Truncated { len: 3_669_960, .. }),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn mutated_elf_is_survived(changes in prop::collection::vec((0usize..600, any::<u8>()), 1..12)) {
        let mut bytes = elf();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        check(&bytes);
    }

    #[test]
    fn mutated_setup_header_is_survived(
        changes in prop::collection::vec((0x1f1usize..0x290, any::<u8>()), 1..12),
    ) {
        let mut image = BzImageFile::new(&[0x90; 0x400]);
        for (at, value) in changes {
            image.set(at, &[value]);
        }
        image.set(0x1fe, &[0x55, 0xaa]).set(0x202, b"HdrS");
        check(&image.0);
    }

    #[test]
    fn random_notes_are_survived(notes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut elf = ElfFile::at(2 * MIB, b"code");
        elf.notes = Some(notes);
        check(&elf.build());
    }

    #[test]
    fn random_bytes_after_the_magic_are_survived(rest in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.extend(rest);
        check(&bytes);
    }
}
