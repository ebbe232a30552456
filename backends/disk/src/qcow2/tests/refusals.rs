//! What is not served is refused, by name.

use super::*;
use crate::Lane;
use crate::tools;

#[test]
fn what_an_image_names_is_opened_only_if_the_user_says_so() {
    let folder = folder();
    write(&folder, "base.raw", &[1; 1 << 20]);
    let line = "qemu-img create -q -f qcow2 -F raw -b base.raw a.qcow2";
    if !tool(folder.path(), line) {
        return;
    }
    let mut options = options(&folder.path().join("a.qcow2"));
    open(&options).unwrap();
    options.backing_files = false;
    assert!(message(&options).contains("\"base.raw\", which is opened only with backing_files=on"));
    tool(
        folder.path(),
        "qemu-img create -q -f qcow2 -o data_file=d.raw b.qcow2 1M",
    );
    options.path = folder.path().join("b.qcow2");
    assert!(message(&options).contains("the data file \"d.raw\", which"));
}

#[test]
fn chains_that_end_nowhere() {
    let folder = folder();
    let create = |name: &str, base: &str| {
        let line = format!("qemu-img create -q -u -f qcow2 -F qcow2 -b {base} {name} 1M");
        tool(folder.path(), &line)
    };
    if !create("0.qcow2", "1.qcow2") {
        return;
    }
    let at = |name: &str| options(&folder.path().join(name));
    for number in 1..40 {
        create(&format!("{number}.qcow2"), &format!("{}.qcow2", number - 1));
    }
    for name in ["0.qcow2", "1.qcow2", "9.qcow2"] {
        assert!(message(&at(name)).contains("lies behind itself"), "{name}");
    }
    assert!(message(&at("39.qcow2")).contains("more than 32 files"));
    for base in ["json:{}", "nbd://host/name"] {
        create("p.qcow2", base);
        assert!(
            message(&at("p.qcow2")).contains("is not named by a path"),
            "{base}"
        );
    }
    create("n.qcow2", "absent.qcow2");
    assert!(message(&at("n.qcow2")).contains("absent.qcow2"));
}

#[test]
fn features_that_are_not_known_here() {
    let folder = folder();
    if !tool(folder.path(), "qemu-img create -q -f qcow2 a.qcow2 1M") {
        return;
    }
    let path = folder.path().join("a.qcow2");
    let image = std::fs::read(&path).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut image = image.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, image).unwrap();
        open(&options(&path))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    with(79, &[3]).expect("dirty and corrupt images can be read");
    assert!(
        with(78, &[1])
            .unwrap_err()
            .contains("not known here: bit 8")
    );
    // The first name in the table, which begins after the header of 112 bytes, is now that of bit 1 of byte 78.
    assert_eq!(image[120..131], *b"\0\0dirty bit");
    let mut named = image.clone();
    (named[78], named[121]) = (2, 9);
    std::fs::write(&path, named).unwrap();
    assert!(message(&options(&path)).contains("\"dirty bit\" (bit 9)"));
    assert!(with(35, &[1]).unwrap_err().contains("encrypted"));
    assert!(with(23, &[8]).unwrap_err().contains("2^8 bytes"));
    assert!(with(23, &[22]).unwrap_err().contains("2^22 bytes"));
    assert!(with(7, &[4]).unwrap_err().contains("version 4"));
    assert!(with(38, &[0, 0]).unwrap_err().contains("too short"));
    assert!(
        with(36, &[0xff; 4])
            .unwrap_err()
            .contains("not within the file")
    );
    assert!(
        with(47, &[8])
            .unwrap_err()
            .contains("not at the begin of a cluster")
    );
    assert!(with(24, &[0xff; 8]).unwrap_err().contains("too large"));
}

#[test]
fn files_that_end_too_early() {
    let folder = folder();
    if !tool(folder.path(), "qemu-img create -q -f qcow2 a.qcow2 1M") {
        return;
    }
    let path = folder.path().join("a.qcow2");
    let image = std::fs::read(&path).unwrap();
    for length in (0..400).chain([512, 65536, 131_072]) {
        std::fs::write(&path, &image[..length]).unwrap();
        assert!(refused(&path), "{length}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = folder();
    let line = "qemu-img create -q -f qcow2 -o cluster_size=512 a.qcow2 1M";
    if !tool(folder.path(), line) {
        return;
    }
    let path = folder.path().join("a.qcow2");
    let image = std::fs::read(&path).unwrap();
    let options = OpenOptions {
        read_only: false,
        ..options(&path)
    };
    for (at, bytes, why) in [
        (79, &[2][..], "marked as corrupt"),
        (79, &[1], "marked as dirty"),
        (99, &[7], "refcounts have 2^7 bits"),
        (48, &[0xff; 8], "refcount table at 0xffffffffffffffff"),
        (56, &[0; 4], "refcount table has 0 bytes"),
        (56, &[0xff; 4], "refcount table has"),
    ] {
        let mut image = image.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, &image).unwrap();
        assert!(
            message(&options).contains(why),
            "{why}: {}",
            message(&options)
        );
        assert!(std::fs::read(&path).unwrap() == image, "{why}");
    }
    std::fs::write(&path, &image).unwrap();
    let direct = OpenOptions {
        direct: true,
        ..options.clone()
    };
    match open(&direct) {
        // A file system whose blocks are not larger.
        Ok(_) => {}
        Err(error) => assert!(error.to_string().contains("direct=off"), "{error}"),
    }
    let mut with_bitmaps = image;
    with_bitmaps[95] = 1;
    std::fs::write(&path, with_bitmaps).unwrap();
    drop(open(&options).unwrap());
    assert_eq!(std::fs::read(&path).unwrap()[88..96], [0; 8]);
}

/// Reads or writes one sector, and gives the words of the error.
fn sector(lane: &mut dyn Lane, offset: u64, writes: bool) -> Result<(), String> {
    let regions = [RegionSpec {
        start: 0,
        size: 1 << 20,
    }];
    let ram = GuestRam::new(&regions, &RamOptions::default()).unwrap();
    let mut vectors = IoVectors::new(ram);
    vectors.push(0, 512).unwrap();
    let operation = match writes {
        true => Operation::Write { offset, vectors },
        false => Operation::Read { offset, vectors },
    };
    lane.push(Request { tag: 1, operation });
    let mut events = Vec::new();
    lane.wait(&mut events).unwrap();
    match events.pop() {
        Some(Event::Done { result, .. }) => result.map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_that_contradicts_itself_is_not_written_any_more() {
    let folder = folder();
    let line = "qemu-img create -q -f qcow2 -o cluster_size=4096 a.qcow2 6M";
    if !tool(folder.path(), line) {
        return;
    }
    let path = folder.path().join("a.qcow2");
    super::images::fill(folder.path(), "a.qcow2");
    let image = std::fs::read(&path).unwrap();
    let l1 = usize::from(image[46]) << 8;
    let l2 = usize::from(image[l1 + 6]) << 8 | usize::from(image[l1 + 5]) << 16;
    // The first cluster of the disk is where the header, the refcount table, or nothing is, or in the middle of one.
    for (entry, writes, why) in [
        (1_u64 << 63 | 4096, true, "where tables are"),
        (1 << 63 | 0x20_0000, true, "refcount of 0"),
        (1 << 63 | 1, true, ""),
        (1 << 63 | 0x2200, false, "no meaning"),
        (1 << 63 | 0x2200, true, "no meaning"),
    ] {
        let mut image = image.clone();
        image[l2..l2 + 8].copy_from_slice(&entry.to_be_bytes());
        std::fs::write(&path, &image).unwrap();
        let options = OpenOptions {
            read_only: false,
            ..options(&path)
        };
        let disk = open(&options).unwrap();
        let mut lane = disk.lane(4).unwrap();
        if entry & 1 != 0 {
            // Zeros that are kept nowhere are not wrong.
            sector(&mut *lane, 0, true).unwrap();
            assert_eq!(disk.damage(), None);
            continue;
        }
        // This cluster is known to be the disk's own.
        sector(&mut *lane, 8192, true).unwrap();
        let error = sector(&mut *lane, 0, writes).unwrap_err();
        assert!(error.contains(why), "{why}: {error}");
        assert_eq!(disk.damage(), Some(error));
        let error = sector(&mut *lane, 8192, true).unwrap_err();
        assert!(error.contains("not written any more"), "{error}");
        sector(&mut *lane, 8192, false).unwrap();
        drop((lane, disk));
        let now = std::fs::read(&path).unwrap();
        assert_eq!(now[79], 2, "marked as corrupt");
        let tables = l1..l2 + 4096;
        assert!(now[tables.clone()] == image[tables], "{why}");
        assert!(message(&options).contains("marked as corrupt"));
        let found = tools::check(&path, ImageType::Qcow2, false).unwrap();
        assert!(found.errors > 1, "{found:?}");
    }
}

#[test]
fn refcounts_and_flags_are_repaired() {
    let folder = folder();
    let line = "qemu-img create -q -f qcow2 -o cluster_size=4096 a.qcow2 6M";
    if !tool(folder.path(), line) {
        return;
    }
    let path = folder.path().join("a.qcow2");
    super::images::fill(folder.path(), "a.qcow2");
    tool(folder.path(), "qemu-img snapshot -c first a.qcow2");
    super::images::fill(folder.path(), "a.qcow2");
    let mut image = std::fs::read(&path).unwrap();
    let options = OpenOptions {
        read_only: false,
        ..options(&path)
    };
    let before = contents(&open(&options).unwrap(), 1 << 20);
    // Some refcounts are 0, some too large; the image is marked as dirty and as corrupt.
    let table = usize::from(image[54]) << 8;
    let block = usize::from(image[table + 6]) << 8;
    image[block + 16..block + 40].fill(0);
    image[block + 60..block + 90].fill(7);
    image[79] = 3;
    std::fs::write(&path, &image).unwrap();
    let found = tools::check(&path, ImageType::Qcow2, false).unwrap();
    assert!(found.errors > 1 && found.leaks > 0, "{found:?}");
    assert!(std::fs::read(&path).unwrap() == image);
    let found = tools::check(&path, ImageType::Qcow2, true).unwrap();
    assert!(
        found.repairs > 3 && found.errors == 0 && found.leaks == 0,
        "{found:?}"
    );
    let found = tools::check(&path, ImageType::Qcow2, false).unwrap();
    assert_eq!(
        (found.errors, found.leaks, found.notes.len()),
        (0, 0, 0),
        "{found:?}"
    );
    tool(folder.path(), "qemu-img check -q a.qcow2");
    assert!(contents(&open(&options).unwrap(), 1 << 20) == before);
}

#[test]
fn images_of_our_own_are_those_of_the_tool_too() {
    let folder = folder();
    for block in [None, Some(512), Some(4096), Some(2 << 20)] {
        let path = folder.path().join(format!("{block:?}.qcow2"));
        let new = tools::NewImage {
            image_type: ImageType::Qcow2,
            size: 5 << 20,
            fixed: false,
            block,
            sector: None,
            ..tools::NewImage::default()
        };
        tools::create(&path, &new).unwrap();
        assert!(tools::create(&path, &new).is_err(), "it is there");
        let name = path.file_name().unwrap().to_str().unwrap();
        if !tool(folder.path(), &format!("qemu-img check -q {name}")) {
            return;
        }
        super::images::fill(folder.path(), name);
        tool(folder.path(), &format!("qemu-img check -q {name}"));
        let disk = open(&options(&path)).unwrap();
        assert_eq!(contents(&disk, 1 << 20)[..4], [17; 4]);
        drop(disk);
        let found = tools::check(&path, ImageType::Qcow2, true).unwrap();
        assert_eq!(
            (found.errors, found.leaks, found.repairs),
            (0, 0, 0),
            "{found:?}"
        );
    }
    let new = tools::NewImage {
        image_type: ImageType::Qcow2,
        size: 5 << 20,
        fixed: false,
        block: Some(5000),
        sector: None,
        ..tools::NewImage::default()
    };
    assert!(tools::create(&folder.path().join("b"), &new).is_err());
}
