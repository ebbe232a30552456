//! Disk images of all formats under a guest: what it wrote is there, and the images are in order afterwards.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use disk::tools::NewImage;
use disk::{Event, ImageType, OpenOptions, Operation, Request};
use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};
use testkit::bare::Bare;
use testkit::{Builder, Signal};

use crate::{SECONDS, events, run};

/// Bytes of the guest's places, and how many it has on the disks here; one more says how often it was started.
const PLACE: usize = 64 << 10;
const PLACES: usize = 67;
const SIZE: usize = PLACE * (PLACES + 1);
/// What the backing files have everywhere: nothing that the guest writes.
const BEHIND: u8 = 0xfe;

/// QCOW2 images that `qemu-img` makes in a folder which has `base.raw` and `base.qcow2`, with what is behind them.
const QCOW2: &[(&str, u8)] = &[
    ("disk.qcow2 SIZE", 0),
    ("-b base.raw -F raw disk.qcow2", BEHIND),
    (
        "-b base.qcow2 -F qcow2 -o cluster_size=4096 disk.qcow2",
        BEHIND,
    ),
    (
        "-b base.qcow2 -F qcow2 -o cluster_size=128k,extended_l2=on disk.qcow2",
        BEHIND,
    ),
    (
        "-b base.qcow2 -F qcow2 -o cluster_size=2M,lazy_refcounts=on disk.qcow2",
        BEHIND,
    ),
    ("-o data_file=data.raw disk.qcow2 SIZE", 0),
];

fn tool(folder: &Path, line: &str) {
    let line = line.replace("SIZE", &SIZE.to_string());
    let words: Vec<&str> = line.split_whitespace().collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut command = Command::new(words[0]);
        let output = command.args(&words[1..]).current_dir(folder).output();
        let output = output.unwrap();
        // The kernel lets go of the files of a killed program's io_uring some time after its end.
        let is_locked = String::from_utf8_lossy(&output.stderr).contains("Failed to lock");
        if !is_locked || Instant::now() > deadline {
            assert!(output.status.success(), "{line}: {output:?}");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes the base of all, and the image.
fn make(folder: &Path, options: &str) {
    std::fs::write(folder.join("base.raw"), vec![BEHIND; SIZE]).unwrap();
    tool(
        folder,
        "qemu-img convert -c -f raw -O qcow2 base.raw base.qcow2",
    );
    tool(folder, &format!("qemu-img create -q -f qcow2 {options}"));
}

/// The machine, confined as far as it can be, with the image as its disk.
fn machine(builder: Builder, folder: &Path) -> Builder {
    let path = folder.join("disk.qcow2").display().to_string();
    builder.cpus("boot=2").flag("--landlock").arg(
        "--disk",
        format!("path={path},image_type=qcow2,backing_files=on,num_queues=2,queue_size=256"),
    )
}

/// As the guest has it.
fn letter(place: usize, start: usize) -> u8 {
    u8::try_from(1 + (place * 7 + start * 3) % 200).unwrap()
}

/// What `qemu-img` finds in the image after both starts of the guest.
fn check(folder: &Path, behind: u8) {
    tool(folder, "qemu-img check -q -f qcow2 disk.qcow2");
    tool(
        folder,
        "qemu-img convert -f qcow2 -O raw disk.qcow2 found.raw",
    );
    let found = std::fs::read(folder.join("found.raw")).unwrap();
    assert_eq!(found.len(), SIZE);
    for (place, bytes) in found.chunks_exact(PLACE).take(PLACES).enumerate() {
        let written = letter(place, 0);
        let (before, rest) = bytes.split_at(8192);
        let (part, after) = rest.split_at(4096);
        assert!(
            part.iter().all(|byte| *byte == letter(place, 1)),
            "place {place}"
        );
        let is_right = |byte: &u8| match place % 4 {
            0 => *byte == behind,
            1 => *byte == written,
            2 => *byte == 0,
            _ => *byte == 0 || *byte == written,
        };
        assert!(before.iter().chain(after).all(is_right), "place {place}");
    }
}

#[test]
fn a_confined_guest_writes_discards_and_flushes_qcow2_and_finds_it_after_its_reset() {
    for (options, behind) in QCOW2 {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        make(folder, options);
        let report = run(&format!("test=image behind={behind}"), |builder| {
            machine(builder, folder)
        });
        let markers: Vec<&str> = report
            .facts()
            .filter(|(name, _)| *name == "marker")
            .map(|(_, value)| value)
            .collect();
        assert_eq!(
            markers,
            [behind.to_string(), (!behind).to_string()],
            "{options}"
        );
        check(folder, *behind);
        let base = std::fs::read(folder.join("base.raw")).unwrap();
        assert!(
            base.iter().all(|byte| *byte == BEHIND),
            "{options}: the base was changed"
        );
    }
}

#[test]
fn what_was_flushed_to_qcow2_is_there_after_the_monitor_was_killed() {
    for (options, behind) in QCOW2 {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        make(folder, options);
        let words = format!("test=image behind={behind}");
        let mut guest = Bare::start(&format!("{words} killed=yes"), |builder| {
            machine(builder, folder)
        })
        .unwrap();
        guest.wait_for("flushed", SECONDS).unwrap();
        // Some time for it to be in the middle of something.
        std::thread::sleep(Duration::from_millis(50));
        guest.vm.signal(Signal::KILL).unwrap();
        guest.vm.wait_exit(SECONDS).unwrap();
        // Clusters may count as used that are not, and nothing else.
        tool(folder, "qemu-img check -q -r leaks -f qcow2 disk.qcow2");
        let report = run(&words, |builder| machine(builder, folder));
        assert_eq!(
            report.fact("marker"),
            Some(&*(!behind).to_string()),
            "{options}"
        );
        check(folder, *behind);
    }
}

#[test]
fn images_of_microsoft_are_disks_of_a_guest() {
    let folder = tempfile::tempdir().unwrap();
    for (word, image_type, fixed) in [
        ("vhd", ImageType::FixedVhd, true),
        ("vhd", ImageType::FixedVhd, false),
        ("vhdx", ImageType::Vhdx, true),
        ("vhdx", ImageType::Vhdx, false),
    ] {
        let path = folder.path().join(format!("{word}-{fixed}"));
        let new = NewImage {
            image_type,
            size: 4 << 20,
            fixed,
            block: None,
            sector: None,
            ..NewImage::default()
        };
        disk::tools::create(&path, &new).unwrap();
        let report = run("test=work", |builder| {
            let value = format!("path={},image_type={word}", path.display());
            builder.arg("--disk", value)
        });
        assert_eq!(
            report.fact("works.block"),
            Some("yes"),
            "{word}: {report:?}"
        );
        let found = disk::tools::check(&path, image_type, false).unwrap();
        assert_eq!((found.errors, found.repairs), (0, 0), "{word}: {found:?}");
        // The guest has written the last sector of the disk.
        let bytes = last_sector(&path, image_type);
        assert!(bytes[0] != 0 && bytes == [bytes[0]; 512], "{word} {fixed}");
    }
}

#[test]
fn an_image_that_contradicts_itself_is_an_event_and_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("events");
    let path = folder.path().join("disk.qcow2");
    let line = "qemu-img create -q -f qcow2 -o preallocation=metadata disk.qcow2 4M";
    tool(folder.path(), line);
    let mut image = std::fs::read(&path).unwrap();
    let pointer = |image: &[u8], at: usize| {
        let bytes = image[at..at + 8].try_into().unwrap();
        usize::try_from(u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00).unwrap()
    };
    // The last of 64 clusters is where the refcount table is.
    let last = pointer(&image, pointer(&image, 40)) + 8 * 63;
    let entry = 1 << 63 | pointer(&image, 48) as u64;
    image[last..last + 8].copy_from_slice(&entry.to_be_bytes());
    std::fs::write(&path, &image).unwrap();
    let guest = Bare::start("test=work", |builder| {
        builder
            .arg(
                "--disk",
                format!("path={},image_type=qcow2,id=root", path.display()),
            )
            .arg("--event-monitor", format!("path={}", told.display()))
    });
    let error = guest.unwrap().finish(SECONDS).unwrap_err().to_string();
    assert!(
        error.contains("the last sector cannot be written: Some(1)"),
        "{error}"
    );
    let told = events(&told);
    let mut told = told.iter().filter(|(name, _)| name == "vm/disk-corrupted");
    let (_, properties) = told.next().unwrap();
    assert_eq!(properties["id"], "root");
    let reason = properties["reason"].as_str().unwrap();
    assert!(reason.contains("where tables are"), "{reason}");
    assert_eq!(told.next(), None, "it is told once");
    let now = std::fs::read(&path).unwrap();
    assert_eq!(now[79], 2, "it is marked");
}

/// Read as a disk, by what the monitor reads with.
fn last_sector(path: &Path, image_type: ImageType) -> [u8; 512] {
    let options = OpenOptions {
        image_type,
        read_only: true,
        ..OpenOptions::new(path)
    };
    let disk = disk::open(&options).unwrap();
    let regions = [RegionSpec {
        start: 0,
        size: 2 << 20,
    }];
    let mut vectors = IoVectors::new(GuestRam::new(&regions, &RamOptions::default()).unwrap());
    vectors.push(0, 512).unwrap();
    let mut lane = disk.lane(1).unwrap();
    let offset = disk.capacity() - 512;
    let operation = Operation::Read { offset, vectors };
    lane.push(Request { tag: 0, operation });
    let mut events = Vec::new();
    lane.wait(&mut events).unwrap();
    let mut bytes = [0; 512];
    match events.pop() {
        Some(Event::Done {
            result: Ok(()),
            vectors: Some(vectors),
            ..
        }) => vectors.copy_to(&mut bytes),
        other => panic!("{other:?}"),
    };
    bytes
}
