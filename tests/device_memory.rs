//! Memory that devices add to a Linux guest, or take from it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::Vm;

const MIB: u64 = 1 << 20;
/// Loads the drivers that the kernel has as modules.
const LOAD: &str = "for module in /modules/*.ko; do insmod $module || exit 1; done";
/// The same without the balloon's, which comes when the test wants it.
const LOAD_OTHERS: &str =
    "for module in $(ls /modules/*.ko | grep -v balloon); do insmod $module || exit 1; done";
/// Longest that anything here takes on a busy machine.
const SECONDS: u64 = 120;

fn run(vm: &mut Vm, script: &str) -> String {
    let output = vm.run(script).unwrap();
    assert_eq!(output.status, 0, "{script}: {}", output.stdout);
    output.stdout
}

/// A file of 16 MiB that begins with `text`.
fn file(path: &Path, text: &[u8]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(16 * MIB).unwrap();
    file.write_all_at(text, 0).unwrap();
}

fn first_bytes(path: &Path) -> [u8; 5] {
    let mut bytes = [0; 5];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn linux_keeps_what_it_writes_to_persistent_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, discarded) = (folder.path().join("kept"), folder.path().join("discarded"));
    file(&kept, b"first");
    file(&discarded, b"other");
    let mut vm = Vm::linux()
        .arg("--pmem", format!("file={}", kept.display()))
        .arg(
            "--pmem",
            format!("file={},discard_writes=on", discarded.display()),
        )
        .flag("--landlock")
        .spawn()
        .unwrap();
    vm.wait_ready(120).unwrap();
    run(&mut vm, LOAD);
    let sizes = run(&mut vm, "cat /sys/block/pmem0/size /sys/block/pmem1/size");
    assert_eq!(sizes, "32768\n32768\n");
    let ids = run(&mut vm, "cat /sys/bus/pci/devices/*/device | grep 0x105b");
    assert_eq!(ids, "0x105b\n0x105b\n");
    let read = "head -c 5 /dev/pmem0; head -c 5 /dev/pmem1";
    assert_eq!(run(&mut vm, read), "firstother");
    run(
        &mut vm,
        "for disk in 0 1; do printf hello | dd of=/dev/pmem$disk conv=notrunc,fsync 2>/dev/null || exit 1; done",
    );
    assert_eq!(first_bytes(&kept), *b"hello");
    assert_eq!(first_bytes(&discarded), *b"other");
    // A reset of the guest is none of its memory modules.
    vm.run_last("reboot -f").unwrap();
    vm.wait_ready(120).unwrap();
    run(&mut vm, LOAD);
    assert_eq!(run(&mut vm, read), "hellohello");
    vm.power_off().unwrap();
    assert_eq!(first_bytes(&kept), *b"hello");
    assert_eq!(first_bytes(&discarded), *b"other");
}

/// Bytes of memory that the monitor has.
fn resident(vm: &Vm) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", vm.pid())).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Waits until `bytes` says at most `most`.
fn wait_for(what: &str, most: u64, mut bytes: impl FnMut() -> u64) {
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    loop {
        let now = bytes();
        if now <= most {
            return;
        }
        let (now, most) = (now / MIB, most / MIB);
        assert!(Instant::now() < deadline, "{what}: {now} MiB, not {most}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn total(vm: &mut Vm) -> u64 {
    let text = run(vm, "awk '/^MemTotal/ { print $2 }' /proc/meminfo");
    text.trim().parse::<u64>().unwrap() << 10
}

/// Makes the guest use 128 MiB, and free them.
const USE: &str = "mkdir -p /mnt && mount -t tmpfs -o size=140m none /mnt && \
     dd if=/dev/urandom of=/mnt/fill bs=1M count=128 2>/dev/null && umount /mnt";

#[test]
fn the_host_gets_what_is_in_the_balloon() {
    let mut vm = Vm::linux()
        .memory("size=256M,thp=off")
        .arg("--balloon", "size=96M")
        .spawn()
        .unwrap();
    vm.wait_ready(120).unwrap();
    run(&mut vm, LOAD_OTHERS);
    run(&mut vm, USE);
    let (before, whole) = (resident(&vm), total(&mut vm));
    assert!(before > 128 * MIB, "{} MiB", before / MIB);
    run(&mut vm, "insmod /modules/*virtio_balloon.ko");
    wait_for("the guest has", whole - 95 * MIB, || total(&mut vm));
    // Of what went in, some the guest may never have touched, and so the host never had to give it.
    wait_for("the monitor has", before - 24 * MIB, || resident(&vm));
    vm.power_off().unwrap();
}

#[test]
fn the_host_gets_what_the_guest_reports_as_free() {
    let mut vm = Vm::linux()
        .memory("size=256M,thp=off")
        .arg("--balloon", "free_page_reporting=on,deflate_on_oom=on")
        .flag("--landlock")
        .spawn()
        .unwrap();
    vm.wait_ready(120).unwrap();
    run(&mut vm, LOAD);
    let (before, whole) = (resident(&vm), total(&mut vm));
    run(&mut vm, USE);
    wait_for("the monitor has", before + 32 * MIB, || resident(&vm));
    // The guest may have it again at any time.
    run(&mut vm, USE);
    assert_eq!(total(&mut vm), whole);
    vm.power_off().unwrap();
}
