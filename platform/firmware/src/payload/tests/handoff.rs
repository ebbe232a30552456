//! What a payload is started with.

use arch::layout::{E820Entry, E820Kind};

use super::super::handoff::writes;
use super::*;
use crate::bytes::{u16_at, u32_at, u64_at};

fn map(count: u64) -> Vec<E820Entry> {
    (0..count)
        .map(|index| E820Entry {
            start: index << 20,
            size: 0x1000,
            kind: E820Kind::Ram,
        })
        .collect()
}

fn request(image: &[u8]) -> Request {
    Request {
        initramfs: Some(file(&[0x5a; 5000])),
        cmdline: Some("quiet".to_owned()),
        ..kernel(image)
    }
}

#[test]
fn pvh_start_info_leads_to_everything() {
    let ram = ram(64 * MIB);
    let elf = ElfFile::at(2 * MIB, b"code").build();
    let loaded = load(&request(&elf), &ram, &[]).unwrap();
    let acpi = E820Entry {
        start: 0x300_0000,
        size: 0x2000,
        kind: E820Kind::Acpi,
    };
    let e820 = layout::e820(64 * MIB, &[acpi]);
    let entry = finish(&loaded, &e820, 0xa_0000, &ram).unwrap();
    assert_eq!(
        entry,
        arch::Entry::Pvh {
            entry: 0x20_0000,
            start_info: 0x6000
        }
    );

    let info = bytes_at(&ram, 0x6000, 56);
    assert_eq!(u32_at(&info, 0), Some(0x336e_c578));
    assert_eq!(u32_at(&info, 4), Some(1), "version");
    assert_eq!(u32_at(&info, 8), Some(0), "flags");
    assert_eq!(u32_at(&info, 12), Some(1), "modules");
    assert_eq!(u64_at(&info, 16), Some(0x6040));
    assert_eq!(u64_at(&info, 24), Some(0x2_0000), "command line");
    assert_eq!(u64_at(&info, 32), Some(0xa_0000), "RSDP");
    assert_eq!(u64_at(&info, 40), Some(0x7000), "memory map");
    assert_eq!(u32_at(&info, 48), Some(e820.len() as u32));

    let module = bytes_at(&ram, 0x6040, 32);
    let initramfs = loaded.initramfs.unwrap();
    assert_eq!(u64_at(&module, 0), Some(initramfs.start));
    assert_eq!(u64_at(&module, 8), Some(5000));
    assert_eq!(module[16..], [0; 16]);

    let map = bytes_at(&ram, 0x7000, e820.len() * 24);
    for (bytes, entry) in map.chunks(24).zip(&e820) {
        assert_eq!(u64_at(bytes, 0), Some(entry.start));
        assert_eq!(u64_at(bytes, 8), Some(entry.size));
        assert_eq!(u32_at(bytes, 16), Some(entry.kind as u32));
        assert_eq!(u32_at(bytes, 20), Some(0));
    }
    assert!(e820.iter().any(|entry| entry.kind == E820Kind::Acpi));
}

#[test]
fn pvh_without_initramfs_and_command_line_has_null_pointers() {
    let ram = ram(64 * MIB);
    let loaded = load(&kernel(&ElfFile::at(2 * MIB, b"code").build()), &ram, &[]).unwrap();
    let writes = writes(&loaded, &map(1), 0).unwrap();
    let (_, info) = &writes[0];
    assert_eq!(u32_at(info, 12), Some(0));
    assert_eq!((u64_at(info, 16), u64_at(info, 24)), (Some(0), Some(0)));
    assert_eq!(writes.len(), 2, "no module list");
}

#[test]
fn zero_page_has_the_setup_header_and_what_the_loader_fills_in() {
    let ram = ram(64 * MIB);
    let image = BzImageFile::new(&code()).0;
    let loaded = load(&request(&image), &ram, &[]).unwrap();
    let e820 = layout::e820(64 * MIB, &[]);
    let entry = finish(&loaded, &e820, 0xa_0000, &ram).unwrap();
    let expected = arch::Entry::Linux64 {
        entry: 16 * MIB + 0x200,
        zero_page: 0x7000,
    };
    assert_eq!(entry, expected);

    let page = bytes_at(&ram, 0x7000, 4096);
    let initramfs = loaded.initramfs.unwrap();
    assert!(page[..0x70].iter().all(|byte| *byte == 0));
    assert_eq!(u64_at(&page, 0x70), Some(0xa_0000), "RSDP");
    assert_eq!(page[0x1e8], e820.len() as u8);
    assert_eq!(page[0x1ef], 0, "sentinel");
    assert_eq!(u16_at(&page, 0x1fe), Some(0xaa55));
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(page[0x210], 0xff, "loader");
    assert_eq!(page[0x211], 1, "flags are as they were");
    assert_eq!(
        u32_at(&page, 0x214),
        Some(0x100_0000),
        "where it was loaded"
    );
    assert_eq!(u32_at(&page, 0x218), Some(initramfs.start as u32));
    assert_eq!(u32_at(&page, 0x21c), Some(5000));
    assert_eq!(u32_at(&page, 0x228), Some(0x2_0000), "command line");
    assert_eq!(u64_at(&page, 0x250), Some(0), "no setup data");
    assert_eq!(
        u64_at(&page, 0x258),
        Some(16 * MIB),
        "the rest of the header is there"
    );
    assert!(
        page[0x26c..0x2d0].iter().all(|byte| *byte == 0),
        "nothing follows the header"
    );
    for (bytes, entry) in page[0x2d0..].chunks(20).zip(&e820) {
        assert_eq!(u64_at(bytes, 0), Some(entry.start));
        assert_eq!(u64_at(bytes, 8), Some(entry.size));
        assert_eq!(u32_at(bytes, 16), Some(entry.kind as u32));
    }
}

#[test]
fn zero_page_without_initramfs_has_none() {
    let ram = ram(64 * MIB);
    let mut image = BzImageFile::new(&code());
    // Left over in the file from another loader.
    image.set(0x218, &[0xff; 8]).set(0x228, &[0xff; 4]);
    let loaded = load(&kernel(&image.0), &ram, &[]).unwrap();
    let (_, page) = &writes(&loaded, &map(1), 0).unwrap()[0];
    assert_eq!(page[0x218..0x220], [0; 8]);
    assert_eq!(page[0x228..0x22c], [0; 4]);
}

#[test]
fn memory_maps_that_do_not_fit_are_refused() {
    let ram = ram(64 * MIB);
    let images = [
        (ElfFile::at(2 * MIB, b"code").build(), 170),
        (BzImageFile::new(&code()).0, 128),
    ];
    for (image, max) in images {
        let loaded = load(&kernel(&image), &ram, &[]).unwrap();
        let writes_of = |count| writes(&loaded, &map(count), 0);
        for (address, bytes) in writes_of(max).unwrap() {
            assert!(address + bytes.len() as u64 <= layout::BOOT_STACK_START);
        }
        assert!(matches!(
            writes_of(max + 1),
            Err(Error::MemoryMapTooLong { .. })
        ));
    }
}
