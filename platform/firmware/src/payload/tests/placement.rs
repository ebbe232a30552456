//! Where things go, and what is refused.

use std::io::Write as _;
use std::path::PathBuf;

use super::*;

#[test]
fn elf_goes_to_its_addresses_and_the_rest_is_zero() {
    let ram = ram(64 * MIB);
    // Left over from before a reset.
    ram.write(0x20_0000, &[0xaa; 0x3000]).unwrap();
    let mut elf = ElfFile::at(0x20_0000, b"code and data");
    elf.parts[0].memory_size = 0x2000;
    let loaded = load(&kernel(&elf.build()), &ram, &[]).unwrap();

    assert_eq!(loaded.entry, Entry::Pvh { entry: 0x20_0000 });
    let found = bytes_at(&ram, 0x20_0000, 0x2001);
    assert_eq!(&found[..13], b"code and data");
    assert!(found[13..0x2000].iter().all(|byte| *byte == 0));
    assert_eq!(found[0x2000], 0xaa, "not past the segment");
    assert_eq!(loaded.spare_ram, 0x20_2000..64 * MIB);
    assert_eq!((loaded.initramfs, loaded.cmdline_len), (None, None));
}

#[test]
fn bzimage_goes_where_it_prefers_to_be() {
    let ram = ram(64 * MIB);
    let loaded = load(&kernel(&BzImageFile::new(&code()).0), &ram, &[]).unwrap();
    assert_eq!(
        loaded.entry,
        Entry::Linux64 {
            entry: 16 * MIB + 0x200
        }
    );
    assert_eq!(bytes_at(&ram, 16 * MIB, 0x1000), code());
    assert_eq!(loaded.spare_ram, 48 * MIB..64 * MIB);
}

/// The kernel that `cargo xtask test` names and downloads, or else the one that this machine starts with.
fn distribution_kernel() -> PathBuf {
    if let Some(path) = std::env::var_os("CH_KERNEL") {
        return path.into();
    }
    let entries = std::fs::read_dir("/boot").into_iter().flatten().flatten();
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("vmlinuz-")
    };
    entries
        .map(|entry| entry.path())
        .find(is_kernel)
        .expect("CH_KERNEL names a bzImage, or /boot has one: `cargo xtask test` sees to that")
}

#[test]
fn a_distribution_kernel_and_its_initramfs_are_loaded() {
    let vmlinuz = distribution_kernel();
    // Of no whole number of pages, and nowhere the same.
    let content: Vec<u8> = (0..5_000_001_u32)
        .map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes()[3])
        .collect();
    let mut initrd = tempfile::tempfile().unwrap();
    initrd.write_all(&content).unwrap();
    let request = Request {
        kernel: Some(File::open(&vmlinuz).unwrap()),
        initramfs: Some(initrd),
        cmdline: Some("console=ttyS0 panic=-1".to_owned()),
        ..Request::default()
    };
    let ram = ram(512 * MIB);
    let loaded = load(&request, &ram, &[]).unwrap();

    let range = loaded.initramfs.unwrap();
    assert_eq!(range.start % 4096, 0);
    assert!(range.end > 512 * MIB - 4096 && range.end <= 512 * MIB);
    assert_eq!(range.end - range.start, content.len() as u64);
    assert!(bytes_at(&ram, range.start, content.len()) == content);

    let Entry::Linux64 { entry } = loaded.entry else {
        panic!("not a bzImage")
    };
    let file = std::fs::read(&vmlinuz).unwrap();
    let start = (usize::from(file[0x1f1]) + 1) * 512;
    assert!(bytes_at(&ram, entry - 0x200, file.len() - start) == file[start..]);
    assert_eq!(bytes_at(&ram, 0x2_0000, 23), b"console=ttyS0 panic=-1\0");
}

/// A kernel at 2 MiB, and an initramfs of this many bytes.
fn with_initramfs(size: usize) -> Request {
    Request {
        initramfs: Some(file(&vec![0x5a; size])),
        ..kernel(&small_elf())
    }
}

fn small_elf() -> Vec<u8> {
    ElfFile::at(2 * MIB, &[0x90; 4096]).build()
}

#[test]
fn initramfs_ends_at_the_top_of_low_ram() {
    for (size, top) in [(64 * MIB, 64 * MIB), (3 << 30, 3 << 30), (4 << 30, 3 << 30)] {
        let loaded = load(&with_initramfs(5000), &ram(size), &[]).unwrap();
        let range = loaded.initramfs.unwrap();
        assert_eq!(range, top - 8192..top - 8192 + 5000);
        assert_eq!(loaded.spare_ram, 2 * MIB + 4096..range.start);
    }
}

#[test]
fn initramfs_stays_in_the_reach_of_the_kernel() {
    let initramfs = || Some(file(&[0x5a; 4096]));
    let request = |kernel: &[u8]| Request {
        initramfs: initramfs(),
        ..self::kernel(kernel)
    };
    let ram = ram(3 << 30);
    let mut image = BzImageFile::new(&code());
    let loaded = load(&request(&image.0), &ram, &[]).unwrap();
    assert_eq!(loaded.initramfs, Some(0x7fff_f000..0x8000_0000));
    image.set(0x22c, &0x37ff_ffffu32.to_le_bytes());
    let loaded = load(&request(&image.0), &ram, &[]).unwrap();
    assert_eq!(loaded.initramfs, Some(0x37ff_f000..0x3800_0000));
}

#[test]
fn nothing_goes_to_reserved_ranges() {
    let ram = ram(64 * MIB);
    let top = 64 * MIB;
    let reserved = [top - 8192..top, top - 20480..top - 12288];
    // Fits between the two.
    let loaded = load(&with_initramfs(4096), &ram, &reserved).unwrap();
    assert_eq!(loaded.initramfs, Some(top - 12288..top - 8192));
    // Fits only below both.
    let loaded = load(&with_initramfs(4097), &ram, &reserved).unwrap();
    assert_eq!(loaded.initramfs, Some(top - 28672..top - 28672 + 4097));
    assert_eq!(loaded.spare_ram.end, top - 28672);
    let loaded = load(&kernel(&small_elf()), &ram, &reserved).unwrap();
    assert_eq!(loaded.spare_ram.end, top - 20480);
    let error = load(&with_initramfs(1), &ram, std::slice::from_ref(&(0..top))).unwrap_err();
    assert!(
        matches!(
            error,
            Error::PayloadInTheWay {
                role: Role::Kernel,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn initramfs_that_is_too_large_names_both_sizes() {
    let ram = ram(4 * MIB);
    let free = 2 * MIB - 4096;
    load(&with_initramfs(free as usize), &ram, &[]).unwrap();
    let error = load(&with_initramfs(free as usize + 1), &ram, &[]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("needs {} bytes, and {free} are free", free + 1)),
        "{text}"
    );
    assert!(text.contains("--memory size"), "{text}");
    // Larger than all RAM, and sparse.
    let huge = tempfile::tempfile().unwrap();
    huge.set_len(1 << 40).unwrap();
    let request = Request {
        initramfs: Some(huge),
        ..kernel(&small_elf())
    };
    assert!(matches!(
        load(&request, &ram, &[]),
        Err(Error::InitramfsTooLarge { .. })
    ));
}

#[test]
fn a_payload_must_fit_the_ram_and_leave_boot_information_alone() {
    let ram = ram(32 * MIB);
    let elf_at = |address| load(&kernel(&ElfFile::at(address, b"code").build()), &ram, &[]);
    for address in [0, 0x7000, 0x2_fffc, 0xa_0000, 0xf_fffc] {
        assert!(
            matches!(elf_at(address), Err(Error::PayloadInTheWay { .. })),
            "{address:#x}"
        );
    }
    for address in [0x3_0000, 0x9_fffc, 0x10_0000, 32 * MIB - 4] {
        assert!(elf_at(address).is_ok(), "{address:#x}");
    }
    for address in [32 * MIB - 3, 32 * MIB, 0xc000_0000] {
        let error = elf_at(address).unwrap_err();
        assert!(matches!(error, Error::PayloadTooLarge { .. }), "{error}");
        assert!(error.to_string().contains("raise --memory size"), "{error}");
    }
    // It runs up to 48 MiB, far above where it is loaded.
    let error = load(&kernel(&BzImageFile::new(&code()).0), &ram, &[]).unwrap_err();
    assert!(
        matches!(error, Error::PayloadTooLarge { end, .. } if end == 48 * MIB),
        "{error}"
    );
}

#[test]
fn a_bzimage_must_lie_in_what_its_page_tables_map() {
    let mut image = BzImageFile::new(&code());
    image.set(0x258, &(1008 * MIB).to_le_bytes());
    let error = load(&kernel(&image.0), &ram(2 << 30), &[]).unwrap_err();
    assert!(error.to_string().contains("above 1 GiB"), "{error}");
}

#[test]
fn command_lines_are_checked_and_end_with_nul() {
    let ram = ram(64 * MIB);
    let try_on = |image: &[u8], cmdline: String| {
        let request = Request {
            cmdline: Some(cmdline),
            ..kernel(image)
        };
        load(&request, &ram, &[])
    };
    let bzimage = BzImageFile::new(&code()).0;
    assert_eq!(
        try_on(&bzimage, "x".repeat(2047)).unwrap().cmdline_len,
        Some(2047)
    );
    let error = try_on(&bzimage, "x".repeat(2048)).unwrap_err().to_string();
    assert!(
        error.contains("2048 bytes, and the limit is 2047"),
        "{error}"
    );
    // No kernel can have more than there is room for.
    let mut boastful = BzImageFile::new(&code());
    boastful.set(0x238, &[0xff; 4]);
    for image in [&boastful.0, &small_elf()] {
        try_on(image, "x".repeat(0xffff)).unwrap();
        assert_eq!(bytes_at(&ram, 0x2_fffe, 2), b"x\0");
        assert!(matches!(
            try_on(image, "x".repeat(0x1_0000)),
            Err(Error::CmdlineTooLong { max: 0xffff, .. })
        ));
    }
    try_on(&bzimage, "short".to_owned()).unwrap();
    assert_eq!(bytes_at(&ram, 0x2_0000, 6), b"short\0");
    assert!(matches!(
        try_on(&bzimage, "a\0b".to_owned()),
        Err(Error::CmdlineNul)
    ));
    assert_eq!(
        try_on(&bzimage, String::new()).unwrap().cmdline_len,
        Some(0)
    );
    assert_eq!(bytes_at(&ram, 0x2_0000, 1), [0]);
}

#[test]
fn exactly_one_of_kernel_and_firmware() {
    let ram = ram(64 * MIB);
    let both = Request {
        firmware: Some(file(&small_elf())),
        ..kernel(&small_elf())
    };
    assert!(matches!(
        load(&both, &ram, &[]),
        Err(Error::KernelAndFirmware)
    ));
    let error = load(&Request::default(), &ram, &[]).unwrap_err();
    assert!(
        error.to_string().contains("--kernel or --firmware"),
        "{error}"
    );
}

#[test]
fn firmware_leaves_initramfs_and_command_line_out() {
    let ram = ram(64 * MIB);
    let firmware = || Some(file(&small_elf()));
    let request = Request {
        kernel: None,
        firmware: firmware(),
        initramfs: Some(file(b"")),
        cmdline: Some("x".repeat(1 << 20)),
    };
    let loaded = load(&request, &ram, &[]).unwrap();
    assert_eq!(loaded.ignored, ["--cmdline", "--initramfs"]);
    assert_eq!((loaded.initramfs, loaded.cmdline_len), (None, None));
    assert_eq!(loaded.entry, Entry::Pvh { entry: 0x20_0000 });
    assert_eq!(bytes_at(&ram, 0x2_0000, 1), [0]);

    let alone = Request {
        firmware: firmware(),
        ..Request::default()
    };
    assert!(load(&alone, &ram, &[]).unwrap().ignored.is_empty());
}

#[test]
fn firmware_without_pvh_entry_is_refused_by_name() {
    let ram = ram(64 * MIB);
    let mut elf = ElfFile::at(2 * MIB, b"code");
    elf.notes = None;
    for (content, expected) in [
        (elf.build(), "the firmware is an ELF file without a PVH"),
        (vec![0xff; 4096], "ff ff"),
    ] {
        let request = Request {
            firmware: Some(file(&content)),
            ..Request::default()
        };
        let text = load(&request, &ram, &[]).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}
