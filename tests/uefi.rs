//! A disk that starts itself: UEFI firmware, the GRUB on the disk, and the Debian that it finds.

use testkit::{SerialLink, Vm, env};

/// From the start of the firmware, past GRUB and the initramfs, until systemd greets.
const GRUB_SECONDS: u64 = 240;
/// From there until it asks for a name.
const BOOT_SECONDS: u64 = 240;

#[test]
fn firmware_starts_the_disks_own_boot_loader() {
    let disk = env::debian_disk().unwrap();
    let mut vm = Vm::builder()
        .serial(SerialLink::Stdio)
        .arg("--firmware", env::firmware().unwrap().display().to_string())
        .cpus("boot=2")
        .memory("size=1G")
        .arg(
            "--disk",
            format!("path={},image_type=raw,serial=root-disk", disk.display()),
        )
        .spawn()
        .unwrap();
    vm.wait_for("Debian GNU/Linux 12", GRUB_SECONDS).unwrap();
    vm.wait_for("guest login: ", BOOT_SECONDS).unwrap();
    vm.send("root\n").unwrap();
    vm.wait_for("# ", 60).unwrap();
    // What the firmware handed over, and the words that only the disk's GRUB says.
    vm.send("echo fw=$(ls /sys/firmware/efi | grep -c systab) $(cat /proc/cmdline) on $(findmnt -n -o SOURCE /)\n")
        .unwrap();
    vm.wait_for("fw=1 BOOT_IMAGE=/boot/vmlinuz root=LABEL=debian", 60)
        .unwrap();
    vm.wait_for("on /dev/vda2", 10).unwrap();
    vm.send("systemctl poweroff\n").unwrap();
    assert_eq!(vm.wait_exit(120).unwrap(), testkit::Exit::Code(0));
}
