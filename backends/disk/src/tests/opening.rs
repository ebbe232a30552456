//! What can be opened, and what is known of it then.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;
use crate::{Error, LockGranularity};

#[test]
fn an_image_has_its_size_in_whole_sectors_and_its_numbers() {
    let (_folder, path) = image(10_000);
    let disk = open(&OpenOptions::new(&path)).unwrap();
    assert_eq!(disk.capacity(), 19 * 512);
    let metadata = std::fs::metadata(&path).unwrap();
    let numbers = (metadata.dev(), metadata.rdev(), metadata.ino());
    assert_eq!(disk.identity().unwrap(), numbers);
    let topology = disk.topology();
    assert_eq!(
        (topology.logical_block, topology.physical_block),
        (512, 4096)
    );
    assert!(!disk.is_read_only());
}

#[test]
fn an_engine_that_is_turned_off_is_passed_over_with_the_option_that_did_it() {
    let (_folder, path) = image(4096);
    let mut options = OpenOptions::new(&path);
    options.disable_io_uring = true;
    options.disable_aio = true;
    let disk = open(&options).unwrap();
    assert_eq!(disk.engine(), Engine::Sync);
    let reasons: Vec<_> = disk
        .passed_over()
        .iter()
        .map(|p| (p.engine, &*p.reason))
        .collect();
    let expected = [
        (Engine::IoUring, "turned off by _disable_io_uring=on"),
        (Engine::Aio, "turned off by _disable_aio=on"),
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn formats_are_seen_and_refused_unless_the_user_says_raw() {
    let known: [(&[u8], ImageType); 5] = [
        (b"QFI\xfb\0\0\0\x03", ImageType::Qcow2),
        (b"vhdxfile", ImageType::Vhdx),
        (b"KDMV", ImageType::FlatVmdk),
        (b"# Disk DescriptorFile\n", ImageType::FlatVmdk),
        (b"conectix", ImageType::FixedVhd),
    ];
    for (magic, image_type) in known {
        let (_folder, path) = image(8192);
        let mut bytes = pattern(8192);
        let at = if image_type == ImageType::FixedVhd {
            8192 - 512
        } else {
            0
        };
        bytes[at..at + magic.len()].copy_from_slice(magic);
        std::fs::write(&path, bytes).unwrap();
        for direct in [false, true] {
            let mut options = OpenOptions {
                direct,
                ..OpenOptions::new(&path)
            };
            let error = open(&options).unwrap_err();
            assert!(
                matches!(&error, Error::LooksLike { image_type: seen, .. } if *seen == image_type)
            );
            assert!(
                error
                    .to_string()
                    .contains(&format!("say image_type={}", image_type.word()))
            );
            options.image_type = ImageType::Raw;
            assert!(!open(&options).unwrap().protects_first_sector());
        }
    }
}

#[test]
fn an_image_that_nobody_said_is_raw_has_its_first_sector_protected() {
    let (_folder, path) = image(8192);
    assert!(
        open(&OpenOptions::new(&path))
            .unwrap()
            .protects_first_sector()
    );
    // Shorter than any signature, and empty.
    for size in [0, 3, 512] {
        std::fs::write(&path, pattern(size)).unwrap();
        let disk = open(&OpenOptions::new(&path)).unwrap();
        assert_eq!(disk.capacity(), size as u64 / 512 * 512);
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let (folder, path) = image(512);
    let message = |options: &OpenOptions| open(options).unwrap_err().to_string();
    let mut options = OpenOptions::new(&path);
    options.image_type = ImageType::FlatVmdk;
    assert!(message(&options).contains("to be opened as vmdk, which this version does not have"));
    options.image_type = ImageType::Vhdx;
    assert!(message(&options).contains("cannot be opened as VHDX: it does not begin as one"));
    options.image_type = ImageType::FixedVhd;
    assert!(message(&options).contains("cannot be opened as VHD: it has no footer"));
    options = OpenOptions::new(folder.path().join("absent"));
    assert!(message(&options).contains("absent for reading and writing"));
    options = OpenOptions::new("/dev/null");
    assert_eq!(
        message(&options),
        "/dev/null is neither a file nor a block device"
    );
    options = OpenOptions {
        read_only: true,
        ..OpenOptions::new(folder.path())
    };
    assert!(message(&options).contains("is neither a file nor a block device"));
    // proc(5) has no direct I/O.
    options = OpenOptions {
        read_only: true,
        direct: true,
        ..OpenOptions::new("/proc/version")
    };
    assert!(message(&options).contains("direct=off"));
}

#[test]
fn a_read_only_disk_cannot_be_changed() {
    for engine in ENGINES {
        for direct in [false, true] {
            let (_folder, path) = image(8192);
            let options = OpenOptions {
                read_only: true,
                direct,
                ..options(&path, engine)
            };
            let Some(disk) = open_for(&options, engine) else {
                continue;
            };
            assert!(disk.is_read_only() && !disk.can_discard() && !disk.can_write_zeroes());
            let mut lane = disk.lane(4).unwrap();
            let ram = ram();
            assert_eq!(
                read_bytes(&mut *lane, &ram, 512, 512).unwrap(),
                pattern(8192)[512..1024]
            );
            let error = write_bytes(&mut *lane, &ram, 0, &[1; 512]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
            let zeroes = Operation::WriteZeroes {
                offset: 0,
                length: 512,
                unmap: false,
            };
            perform(&mut *lane, zeroes).unwrap_err();
            perform(&mut *lane, Operation::Flush).unwrap();
            assert!(disk.resize(4096).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), pattern(8192));
        }
    }
}

#[test]
fn an_image_can_grow_and_shrink_while_lanes_are_open() {
    for engine in ENGINES {
        let (_folder, path) = image(8192);
        let Some(disk) = open_for(&options(&path, engine), engine) else {
            continue;
        };
        let (mut lane, ram) = (disk.lane(4).unwrap(), ram());
        write_bytes(&mut *lane, &ram, 16384, &[1; 512]).unwrap_err();
        disk.resize(32768).unwrap();
        write_bytes(&mut *lane, &ram, 16384, &[1; 512]).unwrap();
        assert_eq!(
            read_bytes(&mut *lane, &ram, 16384, 1024).unwrap()[510..514],
            [1, 1, 0, 0]
        );
        disk.resize(4096).unwrap();
        assert_eq!(
            (disk.capacity(), std::fs::metadata(&path).unwrap().len()),
            (4096, 4096)
        );
        read_bytes(&mut *lane, &ram, 3584, 1024).unwrap_err();
        for wrong in [0, 100, u64::MAX, u64::MAX / 512 * 512] {
            disk.resize(wrong).unwrap_err();
            assert_eq!(disk.capacity(), 4096);
        }
    }
}

#[test]
fn requests_outside_of_the_disk_are_refused() {
    for engine in ENGINES {
        let (_folder, path) = image(8192);
        let Some(disk) = open_for(&options(&path, engine), engine) else {
            continue;
        };
        let (mut lane, ram) = (disk.lane(4).unwrap(), ram());
        for offset in [8192, 7681, u64::MAX, u64::MAX - 511, 1 << 63] {
            let length = 512;
            for operation in [
                read(offset, vectors(&ram, &[(0, 512)])),
                write(offset, vectors(&ram, &[(0, 512)])),
                Operation::Discard { offset, length },
                Operation::WriteZeroes {
                    offset,
                    length,
                    unmap: true,
                },
            ] {
                let error = perform(&mut *lane, operation).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), pattern(8192));
        // Nothing to do is done.
        perform(&mut *lane, read(0, vectors(&ram, &[]))).unwrap();
        perform(
            &mut *lane,
            Operation::Discard {
                offset: 0,
                length: 0,
            },
        )
        .unwrap();
    }
}

#[test]
fn names_are_those_of_the_interface() {
    let json = |value: &str| serde_json::from_str::<ImageType>(value).unwrap();
    assert_eq!(json("\"FixedVhd\""), ImageType::FixedVhd);
    assert_eq!(json("\"Unknown\""), ImageType::default());
    let full: LockGranularity = serde_json::from_str("\"Full\"").unwrap();
    assert_eq!(full, LockGranularity::Full);
    assert_eq!(
        serde_json::to_string(&LockGranularity::default()).unwrap(),
        "\"ByteRange\""
    );
    assert_eq!(
        serde_json::to_string(&Engine::IoUring).unwrap(),
        "\"io_uring\""
    );
}

#[test]
fn images_made_by_qemu_img_open() {
    let folder = tempfile::tempdir().unwrap();
    for (format, size, seen) in [
        ("raw", 1 << 20, None),
        ("qcow2", 1 << 20, Some(ImageType::Qcow2)),
        ("vhdx", 4 << 20, Some(ImageType::Vhdx)),
        ("vmdk", 1 << 20, Some(ImageType::FlatVmdk)),
        ("vpc", 1 << 20, Some(ImageType::FixedVhd)),
    ] {
        let path = folder.path().join(format);
        let mut command = Command::new("qemu-img");
        command
            .args(["create", "-q", "-f", format])
            .arg(&path)
            .arg(size.to_string());
        match command.status() {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                println!("SKIPPED: qemu-img: {error}");
                return;
            }
        }
        match (seen, open(&OpenOptions::new(&path))) {
            (None, Ok(disk)) => assert_eq!(disk.capacity(), size),
            (Some(seen), Err(Error::LooksLike { image_type, .. })) => assert_eq!(image_type, seen),
            (_, other) => panic!("{format}: {:?}", other.err()),
        }
    }
}
