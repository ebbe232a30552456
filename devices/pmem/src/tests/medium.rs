//! Files.

use super::*;

/// Writes into the mapping as the guest would.
fn guest_writes(medium: &Medium, bytes: &[u8]) {
    // The monitor has no way to, on purpose; the kernel has one for every mapping (proc_pid_mem(5)).
    let address = medium.mapping().address().addr() as u64;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .unwrap();
    memory.write_all_at(bytes, address).unwrap();
}

fn guest_reads(medium: &Medium) -> [u8; 5] {
    let mut bytes = [0; 5];
    let address = medium.mapping().address().addr() as u64;
    std::fs::File::open("/proc/self/mem")
        .unwrap()
        .read_exact_at(&mut bytes, address)
        .unwrap();
    bytes
}

fn first_bytes(path: &Path) -> [u8; 5] {
    let mut bytes = [0; 5];
    std::fs::File::open(path)
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn writes_are_in_the_file() {
    let file = file();
    file.as_file().write_all_at(b"hello", 0).unwrap();
    let medium = Medium::open(&config(file.path())).unwrap();
    assert_eq!(medium.size(), 4 * MIB);
    assert_eq!(&guest_reads(&medium), b"hello");
    guest_writes(&medium, b"world");
    medium.sync().unwrap();
    assert_eq!(&first_bytes(file.path()), b"world");
}

#[test]
fn discarded_writes_are_not() {
    let file = file();
    file.as_file().write_all_at(b"hello", 0).unwrap();
    let config = PmemConfig {
        discard_writes: true,
        ..config(file.path())
    };
    let medium = Medium::open(&config).unwrap();
    guest_writes(&medium, b"world");
    medium.sync().unwrap();
    assert_eq!(&guest_reads(&medium), b"world");
    // After a reset the guest finds what it wrote; in another machine it does not.
    let kept = medium.clone();
    drop(medium);
    assert_eq!(&guest_reads(&kept), b"world");
    drop(kept);
    assert_eq!(&first_bytes(file.path()), b"hello");
    assert_eq!(&guest_reads(&Medium::open(&config).unwrap()), b"hello");
}

#[test]
fn a_part_of_a_file() {
    let file = file();
    let part = PmemConfig {
        size: Some(ByteSize(2 * MIB)),
        ..config(file.path())
    };
    assert_eq!(Medium::open(&part).unwrap().size(), 2 * MIB);
    assert_eq!(
        file.as_file().metadata().unwrap().len(),
        4 * MIB,
        "the file is not changed"
    );
}

#[test]
fn a_folder_gets_a_file_that_nobody_else_sees() {
    let folder = tempfile::tempdir().unwrap();
    let config = PmemConfig {
        size: Some(ByteSize(4 * MIB)),
        ..config(folder.path())
    };
    let medium = Medium::open(&config).unwrap();
    guest_writes(&medium, b"world");
    medium.sync().unwrap();
    assert_eq!(medium.size(), 4 * MIB);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_persistent_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of_length = |name: &str, length| {
        let path = folder.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        path
    };
    let (whole, odd, empty) = (
        of_length("whole", 4 * MIB),
        of_length("odd", 3 * MIB),
        of_length("empty", 0),
    );
    let none = folder.path().join("none");
    let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    for (path, size, why) in [
        (&*none, None, "No such file"),
        (Path::new("/dev/null"), Some(2 * MIB), "neither a file"),
        (&folder.path().join("socket"), None, "neither a file"),
        (folder.path(), None, "give the size"),
        (folder.path(), Some(3 * MIB), "whole multiples of 2 MiB"),
        (&odd, None, "its length is 3145728 bytes"),
        (&empty, None, "its length is 0 bytes"),
        (&whole, Some(0), "size is 0 bytes"),
        (
            &whole,
            Some(6 * MIB),
            "size=6M is more than the 4194304 bytes",
        ),
        (&whole, Some(u64::MAX - (2 * MIB - 1)), "is more than"),
    ] {
        let config = PmemConfig {
            size: size.map(ByteSize),
            ..config(path)
        };
        let error = Medium::open(&config).unwrap_err();
        assert_eq!(error.to_string(), format!("--pmem file={}", path.display()));
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(why), "{source}");
    }
    assert_eq!(whole.metadata().unwrap().len(), 4 * MIB);
    // The part of an odd file that is whole.
    let part = PmemConfig {
        size: Some(ByteSize(2 * MIB)),
        ..config(&odd)
    };
    assert_eq!(Medium::open(&part).unwrap().size(), 2 * MIB);
}

#[test]
fn it_is_kept_for_the_same_configuration_only() {
    let (file, mapped, bench) = (file(), Mapped::default(), Bench::new());
    let mut config = config(file.path());
    let medium = Medium::open(&config).unwrap();
    let mut device = on_pci(&bench, new_pmem(&bench, &mapped, medium.clone()));
    device.stop().unwrap();
    let kept = Box::new(device)
        .leave()
        .unwrap()
        .downcast::<Medium>()
        .unwrap();
    assert!(mapped.now().is_empty(), "the slot is gone");
    assert_eq!(kept.mapping().address(), medium.mapping().address());
    config.pci.pci_device_id = Some(3);
    assert!(kept.is_of(&config));
    config.discard_writes = true;
    assert!(!kept.is_of(&config));
}

#[test]
fn what_is_gone_with_the_machine_is_not_saved_as_if_it_were_kept() {
    let file = file();
    let folder = tempfile::tempdir().unwrap();
    let discarded = PmemConfig {
        discard_writes: true,
        ..config(file.path())
    };
    let unnamed = PmemConfig {
        size: Some(ByteSize(4 * MIB)),
        ..config(folder.path())
    };
    for (config, kept) in [
        (config(file.path()), true),
        (discarded, false),
        (unnamed, false),
    ] {
        let (bench, mapped) = (Bench::new(), Mapped::default());
        let medium = Medium::open(&config).unwrap();
        let pmem = new_pmem(&bench, &mapped, medium.clone());
        assert!(pmem.save().is_ok(), "nothing was written: {config:?}");
        guest_writes(&medium, b"x");
        match pmem.save() {
            Ok(_) => assert!(kept, "{config:?}"),
            Err(error) => {
                let text = telemetry::chain(&error).join(": ");
                assert!(!kept && text.contains("discard_writes=off"), "{text}");
            }
        }
    }
}
