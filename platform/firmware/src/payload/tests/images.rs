//! Recognising files and reading their headers.

use super::*;

fn image(content: &[u8]) -> Result<Image, Error> {
    Image::read(&file(content), Role::Kernel)
}

fn message(content: &[u8]) -> String {
    image(content).unwrap_err().to_string()
}

#[test]
fn elf_segments_and_entry_are_read() {
    let mut elf = ElfFile::at(0x20_0000, b"code here");
    elf.parts.push(Part {
        address: 0x10_0000,
        content: b"data".to_vec(),
        memory_size: 0x1000,
    });
    elf.parts.push(Part {
        address: 0x40_0000,
        content: Vec::new(),
        memory_size: 0,
    });
    let Image::Elf(elf) = image(&elf.build()).unwrap() else {
        panic!("not ELF")
    };
    assert_eq!(elf.entry, 0x20_0000);
    let segments: Vec<_> = elf
        .segments
        .iter()
        .map(|segment| (segment.memory.clone(), segment.file_size))
        .collect();
    assert_eq!(
        segments,
        [(0x10_0000..0x10_1000, 4), (0x20_0000..0x20_0009, 9)]
    );
}

#[test]
fn the_pvh_note_is_found_among_others_and_in_both_sizes() {
    for entry in [
        &0x10_0000u32.to_le_bytes()[..],
        &0x10_0000u64.to_le_bytes()[..],
    ] {
        let mut elf = ElfFile::at(0x10_0000, b"code");
        elf.notes = Some(
            [
                note(b"GNU\0", 3, b"build id!"),
                note(b"GNU\0", 18, &[0xff; 4]),
                note(b"Xen\0", 6, b"linux\0"),
                note(b"", 0, b""),
                note(b"Xen\0", 18, entry),
                note(b"Xen\0", 5, b"4.0"),
            ]
            .concat(),
        );
        assert!(matches!(image(&elf.build()), Ok(Image::Elf(elf)) if elf.entry == 0x10_0000));
    }
}

#[test]
fn notes_padded_to_eight_bytes_are_read() {
    let mut elf = ElfFile::at(0x10_0000, b"code");
    // Name of 4 bytes: 12 + 4 is a multiple of 8 already. Content of 5 bytes is padded to 8.
    let mut notes = note(b"GNU\0", 5, b"12345");
    notes.resize(notes.len().next_multiple_of(8), 0);
    notes.extend(note(b"Xen\0", 18, &0x10_0002u32.to_le_bytes()));
    elf.notes = Some(notes);
    let mut bytes = elf.build();
    // p_align of the second program header.
    bytes[64 + 56 + 48] = 8;
    assert!(matches!(image(&bytes), Ok(Image::Elf(elf)) if elf.entry == 0x10_0002));
}

#[test]
fn elf_without_pvh_note_says_what_is_missing() {
    let mut elf = ElfFile::at(0x10_0000, b"code");
    for notes in [None, Some(Vec::new()), Some(note(b"Xen\0", 1, &[0; 4]))] {
        elf.notes = notes;
        let text = message(&elf.build());
        assert!(text.contains("XEN_ELFNOTE_PHYS32_ENTRY"), "{text}");
        assert!(text.contains("CONFIG_PVH"), "{text}");
    }
}

#[test]
fn elf_files_that_cannot_be_started_say_why() {
    let good = ElfFile::at(0x10_0000, b"code").build();
    let changed = |offset: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        message(&bytes)
    };
    assert!(changed(4, 1).contains("32-bit"));
    assert!(changed(5, 2).contains("big-endian"));
    assert!(changed(18, 183).contains("another processor"));
    assert!(changed(16, 1).contains("no program in it"));
    // The header of EDK2's image: a 64-bit file for the 80386.
    let mut firmware = good.clone();
    firmware[18] = 3;
    assert!(image(&firmware).is_ok());
    assert!(changed(54, 32).contains("program headers of an unknown size"));
    assert!(changed(56, 0).contains("nothing to load"));
    // p_filesz above p_memsz.
    assert!(changed(64 + 40, 3).contains("larger in the file"));
    // p_paddr.
    assert!(changed(64 + 26, 0x20).contains("outside of its segments"));

    let part = |address| Part {
        address,
        content: b"code".to_vec(),
        memory_size: 0x1000,
    };
    let mut elf = ElfFile::at(0x10_0000, b"code");
    elf.parts.push(part(0x10_0003));
    assert!(message(&elf.build()).contains("overlap"));
    elf.parts[1] = part(u64::MAX - 0xffe);
    assert!(message(&elf.build()).contains("past the end of the address space"));
    elf.parts[1] = part(0x20_0000);
    elf.notes = Some(note(b"Xen\0", 18, &0x1_0010_0000u64.to_le_bytes()));
    assert!(
        message(&elf.build()).contains("entry point outside"),
        "above 4 GiB"
    );
    elf.notes = Some(vec![0; (1 << 20) + 1]);
    assert!(message(&elf.build()).contains("note segment of more than 1 MiB"));
}

#[test]
fn bzimage_headers_are_read() {
    let Image::BzImage(image) = image(&BzImageFile::new(&code()).0).unwrap() else {
        panic!("not a bzImage")
    };
    assert_eq!(image.file_offset, BzImageFile::CODE as u64);
    assert_eq!(image.file_size, 0x1000);
    assert_eq!(image.load_address, 16 * MIB);
    assert_eq!(image.entry, 16 * MIB + 0x200);
    assert_eq!(image.memory, 16 * MIB..48 * MIB);
    assert_eq!(image.initramfs_end, 0x8000_0000);
    assert_eq!(image.cmdline_max, 2047);
    assert_eq!(image.setup_header.len(), 0x26c - 0x1f1);
}

#[test]
fn bzimage_addresses_follow_relocatability_and_alignment() {
    let addresses = |offset: usize, value: &[u8]| {
        let mut file = BzImageFile::new(&code());
        file.set(offset, value);
        match image(&file.0) {
            Ok(Image::BzImage(image)) => (image.load_address, image.memory),
            other => panic!("{other:?}"),
        }
    };
    let fixed = addresses(0x234, &[0]);
    assert_eq!(fixed, (MIB, MIB..48 * MIB), "moves itself to 16 MiB");
    let unaligned = addresses(0x258, &(17 * MIB).to_le_bytes());
    assert_eq!(unaligned, (18 * MIB, 18 * MIB..50 * MIB));
    let anywhere = addresses(0x258, &[0; 8]);
    assert_eq!(anywhere, (2 * MIB, 2 * MIB..34 * MIB));
    let no_alignment = addresses(0x230, &[0; 4]);
    assert_eq!(no_alignment.0, 16 * MIB);
    let no_init_size = addresses(0x260, &[0; 4]);
    assert_eq!(
        no_init_size.1,
        16 * MIB..16 * MIB + 0x1000,
        "at least what is loaded"
    );
}

#[test]
fn bzimages_that_cannot_be_started_say_why() {
    let changed = |offset: usize, value: &[u8]| {
        let mut file = BzImageFile::new(&code());
        file.set(offset, value);
        message(&file.0)
    };
    assert!(changed(0x206, &[0x0b, 2]).contains("boot protocol 2.11"));
    assert!(changed(0x201, &[0x10]).contains("setup header of impossible size"));
    assert!(changed(0x201, &[0xff]).contains("setup header of impossible size"));
    assert!(changed(0x211, &[0]).contains("below 1 MiB"));
    assert!(changed(0x236, &[0x3e]).contains("32-bit kernel"));
    assert!(changed(0x230, &[3, 0, 0, 0]).contains("impossible load address"));
    assert!(changed(0x258, &[0xff; 8]).contains("impossible load address"));
    assert!(changed(0x1f1, &[40]).contains("truncated"));
    assert!(changed(0x1f4, &0x102u32.to_le_bytes()).contains("truncated"));
    let mut cut = BzImageFile::new(&code()).0;
    cut.truncate(0x240);
    assert!(message(&cut).contains("truncated"));
}

#[test]
fn a_kernel_size_rounded_either_way_is_taken() {
    let mut longer = BzImageFile::new(&code());
    longer.0.extend(b"a signature");
    assert!(matches!(image(&longer.0), Ok(Image::BzImage(image)) if image.file_size == 0x100b));
    let mut rounded_up = BzImageFile::new(&code());
    rounded_up.0.truncate(BzImageFile::CODE + 0xff1);
    assert!(matches!(image(&rounded_up.0), Ok(Image::BzImage(image)) if image.file_size == 0xff1));
}

#[test]
fn other_files_are_named_by_their_first_bytes() {
    for (content, expected) in [
        (
            &b"\x1f\x8b\x08\0more"[..],
            "first bytes are 1f 8b 08 00 (gzip)",
        ),
        (b"\x28\xb5\x2f\xfd", "(zstd)"),
        (b"\xfd7zXZ\0", "(xz)"),
        (b"070701000", "(cpio, as an initramfs is)"),
        (b"QFI\xfb", "(qcow2 disk image)"),
        (b"MZ\0\0", "(EFI program)"),
        (b"\x01", "first bytes are 01"),
        (b"\0\0\0\0\0", "first bytes are 00 00 00 00"),
    ] {
        let text = message(content);
        assert!(
            text.contains("neither an ELF file with a PVH note nor a bzImage"),
            "{text}"
        );
        assert!(text.ends_with(expected), "{text}");
    }
    let mut arm = vec![0; 64];
    arm[0..2].copy_from_slice(b"MZ");
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert!(message(&arm).ends_with("(Linux kernel for arm64)"));
}

#[test]
fn only_regular_files_with_content_are_read() {
    let read = |path: &str| Image::read(&File::open(path).unwrap(), Role::Firmware).unwrap_err();
    assert!(matches!(
        read("/dev/null"),
        Error::NotRegularFile {
            role: Role::Firmware
        }
    ));
    assert!(matches!(read("/"), Error::NotRegularFile { .. }));
    assert!(matches!(
        image(b""),
        Err(Error::EmptyFile { role: Role::Kernel })
    ));
    let write_only = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(write_only.path(), b"text").unwrap();
    let write_only = File::options().write(true).open(write_only.path()).unwrap();
    assert!(matches!(
        Image::read(&write_only, Role::Kernel),
        Err(Error::Read { .. })
    ));
}
