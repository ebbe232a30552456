//! Disks: every engine, trimming, resizing, and what a kill leaves.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use testkit::{Builder, Signal};

use crate::{Debian, file, host};

const SIZE: u64 = 96 << 20;

/// Name of the file and serial number, further keys, engine.
const DISKS: &[(&str, &str, &str)] = &[
    ("ring", "", "io_uring"),
    ("ring-direct", "direct=on", "io_uring"),
    ("aio-direct", "direct=on,_disable_io_uring=on", "aio"),
    ("sync", "_disable_io_uring=on,_disable_aio=on", "sync"),
    ("queues", "num_queues=2,queue_size=64,direct=on", "io_uring"),
];

pub(crate) fn options(mut builder: Builder, folder: &Path) -> Builder {
    for (name, keys, _) in DISKS {
        let path = file(&folder.join(name), SIZE);
        let comma = if keys.is_empty() { "" } else { "," };
        let value = format!("path={path},image_type=raw,serial={name},id={name}{comma}{keys}");
        builder = builder.arg("--disk", value);
    }
    let fixed = folder.join("fixed");
    std::fs::write(&fixed, vec![0x5a; 1 << 20]).unwrap();
    let value = format!(
        "path={},image_type=raw,serial=fixed,readonly=on",
        fixed.display()
    );
    builder.arg("--disk", value)
}

/// The guest's name of the disk with this serial number.
fn device(debian: &mut Debian, serial: &str) -> String {
    let script = format!(
        "for d in /sys/block/vd*; do if [ \"$(cat $d/serial)\" = {serial} ]; then echo /dev/${{d##*/}}; fi; done"
    );
    debian.run(&script).trim().to_owned()
}

pub(crate) fn verify_on_every_engine(debian: &mut Debian) {
    let info = debian.client().get("vm.info").json();
    for (name, _, engine) in DISKS {
        // Where `vm.info` tells what is really used.
        let node = &info["device_tree"][*name];
        assert_eq!(node["details"]["engine"], **engine, "{node}");
        let device = device(debian, name);
        // Random sizes and places, every block with a checksum, read back from the disk.
        let verify = format!(
            "fio --name=v --filename={device} --rw=randwrite --bsrange=512-64k --bs_unaligned=0 --size=12M \
             --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --randrepeat=1 --minimal"
        );
        debian.run(&verify);
    }
    let queues = device(debian, "queues");
    let mq = debian.run(&format!("ls /sys/block/{}/mq | wc -l", &queues[5..]));
    assert_eq!(mq, "2\n");
    let fixed = device(debian, "fixed");
    let sum = debian.run(&format!(
        "md5sum < {fixed}; cat /sys/block/{}/ro",
        &fixed[5..]
    ));
    let expected = host(
        "sh",
        &[
            "-c",
            &format!("md5sum < {}", debian.path("fixed").display()),
        ],
    );
    assert_eq!(sum, expected + "1\n");
    debian.run(&format!(
        "! dd if=/dev/zero of={fixed} bs=512 count=1 2>/dev/null"
    ));
}

pub(crate) fn trim_gives_space_back(debian: &mut Debian) {
    let device = device(debian, "ring");
    let blocks = |debian: &Debian| std::fs::metadata(debian.path("ring")).unwrap().blocks();
    debian.run(&format!(
        "mkfs.ext4 -q -F -E nodiscard {device} && mkdir -p /mnt/trim && mount {device} /mnt/trim"
    ));
    debian.run("dd if=/dev/urandom of=/mnt/trim/big bs=1M count=40 conv=fsync 2>/dev/null");
    let full = blocks(debian);
    assert!(full >= 40 << 11, "{full} sectors");
    debian.run("rm /mnt/trim/big && sync && fstrim /mnt/trim && umount /mnt/trim");
    let trimmed = blocks(debian);
    assert!(
        trimmed + (30 << 11) < full,
        "{full} sectors, then {trimmed}"
    );
}

pub(crate) fn resize_while_it_runs(debian: &mut Debian) {
    let device = device(debian, "sync");
    let change = json!({ "id": "sync", "desired_size": 2 * SIZE });
    debian.client().act("vm.resize-disk", &change.to_string());
    debian.wait(&format!(
        "[ $(cat /sys/block/{}/size) = {} ]",
        &device[5..],
        2 * SIZE / 512
    ));
    // The new end can be written.
    debian.run(&format!(
        "dd if=/dev/urandom of={device} bs=4096 count=1 seek={} oflag=direct 2>/dev/null",
        2 * SIZE / 4096 - 1
    ));
}

/// A file system under load loses its monitor: what was synced is there, and the file system can be repaired by its
/// journal alone.
pub(crate) fn survive_a_kill() {
    let mut debian = Debian::start(|builder, folder| {
        let path = file(&folder.join("data"), SIZE);
        let value = format!("path={path},image_type=raw,serial=data");
        builder.arg("--disk", value)
    });
    let device = device(&mut debian, "data");
    debian.run(&format!(
        "mkfs.ext4 -q -F {device} && mount {device} /mnt && seq 100000 > /mnt/kept && sync"
    ));
    debian.run(
        "(i=0; while :; do i=$((i+1)); cp /mnt/kept /mnt/file$((i % 50)); done) >/dev/null 2>&1 &
         (while :; do sync; done) >/dev/null 2>&1 &
         sleep 3",
    );
    debian.vm.signal(Signal::KILL).unwrap();
    debian.vm.wait_exit(30).unwrap();
    let path = debian.path("data").display().to_string();
    // Replays the journal; anything beyond that would be an error of ours.
    let status = std::process::Command::new("e2fsck")
        .args(["-p", &path])
        .status();
    assert!(matches!(status.unwrap().code(), Some(0 | 1)));
    host("e2fsck", &["-f", "-n", &path]);
    let kept = host("debugfs", &["-R", "cat /kept", &path]);
    assert!(kept.ends_with("\n99999\n100000\n"), "{} bytes", kept.len());
}
