//! What `qemu-img` and `qemu-io` wrote is what the guest reads.

use super::*;

/// Compares with what `qemu-img convert` makes of the image, through every engine and around the page cache too.
fn compare(folder: &Path, name: &str) {
    tool(
        folder,
        &format!("qemu-img convert -f qcow2 -O raw {name} expected.raw"),
    );
    let expected = std::fs::read(folder.join("expected.raw")).unwrap();
    for (number, piece) in [512 * 7, 4096, 1 << 20].into_iter().enumerate() {
        let options = OpenOptions {
            disable_io_uring: number > 0,
            disable_aio: number > 1,
            direct: number == 1,
            ..options(&folder.join(name))
        };
        let disk = open(&options).unwrap();
        let bytes = contents(&disk, piece);
        assert_eq!(bytes.len(), expected.len(), "{name}");
        let differ = bytes.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(
            differ, None,
            "{name} in pieces of {piece}: first byte that differs"
        );
    }
}

/// Data in the first, in a middle and in the last cluster, zeros in between, a part of a cluster.
const WRITES: &str = "write -P 17 0 70k;write -P 34 777k 9k;write -z 20k 30k;write -P 51 2000k 1000k;\
                      discard 2200k 64k;write -P 68 5119k 1k;write -P 85 5000k 512";

pub(super) fn fill(folder: &Path, name: &str) {
    for command in WRITES.split(';') {
        let output = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command, name])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

#[test]
fn with_every_option() {
    for options in [
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=512,compat=0.10",
        "cluster_size=4096,refcount_bits=1",
        "cluster_size=65536,refcount_bits=64,lazy_refcounts=on",
        "cluster_size=2097152",
        "extended_l2=on,cluster_size=16384",
        "extended_l2=on,cluster_size=131072",
        "extended_l2=on,cluster_size=2097152",
        "preallocation=metadata",
        "preallocation=falloc",
        "data_file=other.raw",
        "data_file=other.raw,data_file_raw=on",
        "data_file=other.raw,extended_l2=on",
    ] {
        let folder = folder();
        let line = format!("qemu-img create -q -f qcow2 -o {options} a.qcow2 5M");
        if !tool(folder.path(), &line) {
            return;
        }
        compare(folder.path(), "a.qcow2");
        fill(folder.path(), "a.qcow2");
        compare(folder.path(), "a.qcow2");
    }
}

#[test]
fn compressed_and_with_snapshots() {
    for options in [
        "cluster_size=512",
        "cluster_size=65536",
        "cluster_size=2097152",
        "compat=0.10",
        "compression_type=zstd,cluster_size=512",
        "compression_type=zstd,cluster_size=65536",
        "compression_type=zstd,cluster_size=2097152",
    ] {
        let folder = folder();
        // Some of it does not compress.
        let mut random = 4711_u32;
        // The tool takes long for so many small clusters.
        let is_small = options.contains("cluster_size=512");
        let full = if is_small { 1 << 20 } else { 5 << 20 };
        let mut bytes: Vec<u8> = (0..full)
            .map(|at: u32| {
                random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
                let [noise, ..] = random.to_be_bytes();
                if at & (1 << 17) == 0 {
                    noise
                } else {
                    noise & 3
                }
            })
            .collect();
        bytes.resize(5 << 20, 0);
        write(&folder, "source.raw", &bytes);
        let line = format!("qemu-img convert -c -f raw -O qcow2 -o {options} source.raw a.qcow2");
        if !tool(folder.path(), &line) {
            return;
        }
        compare(folder.path(), "a.qcow2");
        tool(folder.path(), "qemu-img snapshot -c first a.qcow2");
        fill(folder.path(), "a.qcow2");
        compare(folder.path(), "a.qcow2");
    }
}

#[test]
fn with_backing_files() {
    for options in ["cluster_size=65536", "cluster_size=32768,extended_l2=on"] {
        let folder = folder();
        std::fs::create_dir(folder.path().join("base")).unwrap();
        let bytes: Vec<u8> = (0..3_333_333_usize).map(|at| at.to_le_bytes()[1]).collect();
        write(&folder, "base/base.raw", &bytes);
        let create = |rest: &str| {
            let line = format!("qemu-img create -q -f qcow2 -o {options} {rest}");
            tool(folder.path(), &line)
        };
        // Relative to the image that names it, not to where we are; the last is longer than what is behind it.
        if !create("-F raw -b base.raw base/middle.qcow2 4M") {
            return;
        }
        fill_middle(folder.path());
        assert!(create("-F qcow2 -b base/middle.qcow2 top.qcow2 5M"));
        compare(folder.path(), "top.qcow2");
        fill(folder.path(), "top.qcow2");
        compare(folder.path(), "top.qcow2");
    }
}

fn fill_middle(folder: &Path) {
    let commands = [
        "write -P 99 100k 100k",
        "write -z 300k 100k",
        "write -P 98 3300k 200k",
    ];
    for command in commands {
        let output = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command, "base/middle.qcow2"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

#[test]
fn of_many_terabytes() {
    let folder = folder();
    if !tool(folder.path(), "qemu-img create -q -f qcow2 a.qcow2 60T") {
        return;
    }
    let disk = open(&options(&folder.path().join("a.qcow2"))).unwrap();
    assert_eq!(disk.capacity(), 60 << 40);
    assert!(disk.is_read_only() && !disk.can_discard() && !disk.can_write_zeroes());
    assert!(disk.resize(1 << 20).is_err());
}

#[test]
fn is_not_changed() {
    let folder = folder();
    if !tool(folder.path(), "qemu-img create -q -f qcow2 a.qcow2 1M") {
        return;
    }
    let path = folder.path().join("a.qcow2");
    let before = std::fs::read(&path).unwrap();
    let disk = open(&options(&path)).unwrap();
    let mut lane = disk.lane(4).unwrap();
    let (offset, length, unmap) = (0, 4096, true);
    for (operation, works) in [
        (Operation::Discard { offset, length }, false),
        (
            Operation::WriteZeroes {
                offset,
                length,
                unmap,
            },
            false,
        ),
        (Operation::Flush, true),
    ] {
        lane.push(Request { tag: 1, operation });
        let mut events = Vec::new();
        lane.wait(&mut events).unwrap();
        let [Event::Done { result, .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(result.is_ok(), works);
    }
    drop((lane, disk));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
