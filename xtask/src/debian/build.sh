#!/bin/sh
# Makes a disk with Debian on it, and its kernel beside it. As root:
#
#     build.sh FOLDER SERVE-SCRIPT
#
# FOLDER gets disk.raw (GPT: EFI system partition with GRUB, ext4 root labelled "debian"), vmlinuz and
# initrd.img. SERVE-SCRIPT is the part of the tests' guest that takes requests.
set -eu
folder=$1 serve=$2
work=$folder/work
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT

packages=systemd-sysv,udev,dbus,kmod,iproute2,iputils-ping,pciutils,fio,iperf3,socat,ethtool,e2fsprogs
packages=$packages,procps,util-linux,netcat-openbsd,linux-image-cloud-amd64,initramfs-tools,zstd,grub-efi-amd64-bin
mmdebstrap --mode=root --variant=minbase --include="$packages" "${CH_DEBIAN_SUITE:-bookworm}" "$work/root.tar"
root=$work/root
mkdir "$root"
tar -xpf "$work/root.tar" --numeric-owner -C "$root"
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/lib/apt/lists/*

echo guest >"$root/etc/hostname"
echo 'LABEL=debian / ext4 errors=remount-ro,discard 0 1' >"$root/etc/fstab"
printf 'root:\n' | chroot "$root" sh -c 'passwd -d root' >/dev/null
cat >"$root/etc/systemd/network/80-guest.network" <<'END'
# What `cargo xtask boot --debian` gives the guest; others say it by command.
[Match]
Name=en*
[Network]
Address=192.168.249.2/24
Gateway=192.168.249.1
LinkLocalAddressing=no
IPv6AcceptRA=no
END
chroot "$root" systemctl enable systemd-networkd >/dev/null 2>&1
# Nobody waits for the network, and nothing of a test's guest is to start by the clock.
chroot "$root" systemctl mask systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer \
    e2scrub_all.timer fstrim.timer >/dev/null 2>&1

install -m 755 "$serve" "$root/usr/local/sbin/testkit-serve"
cat >"$root/etc/systemd/system/testkit.service" <<'END'
# Takes requests of the tests on the first serial port, in place of the login.
[Unit]
ConditionKernelCommandLine=testkit
Before=serial-getty@ttyS0.service
After=systemd-udev-settle.service basic.target systemd-user-sessions.service
[Service]
ExecStart=/bin/sh -c '. /usr/local/sbin/testkit-serve; serve'
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WorkingDirectory=/root
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
END
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/order.conf" <<'END'
[Unit]
ConditionKernelCommandLine=!testkit
END
chroot "$root" systemctl enable testkit.service serial-getty@ttyS0.service >/dev/null 2>&1
# A login on the paravirtual console where there is one: waiting for it would take a minute and a half where there is not.
cat >"$root/etc/udev/rules.d/90-console.rules" <<'END'
SUBSYSTEM=="tty", KERNEL=="hvc0", TAG+="systemd", ENV{SYSTEMD_WANTS}+="serial-getty@hvc0.service"
END

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd.img"
(cd "$root/boot" && ln -sf vmlinuz-* vmlinuz && ln -sf initrd.img-* initrd.img)

# GRUB as the firmware finds it without any variables: EFI/BOOT/BOOTX64.EFI.
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<'END'
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
menuentry "Debian" {
    search --no-floppy --label --set=root debian
    linux /boot/vmlinuz root=LABEL=debian rw console=ttyS0 loglevel=4
    initrd /boot/initrd.img
}
END
cat >"$root/boot/grub/early.cfg" <<'END'
search --no-floppy --label --set=root debian
set prefix=($root)/boot/grub
configfile ($root)/boot/grub/grub.cfg
END
chroot "$root" grub-mkimage -O x86_64-efi -o /boot/grub/bootx64.efi -p /boot/grub -c /boot/grub/early.cfg \
    part_gpt ext2 fat normal linux configfile search search_label serial terminal echo test gzio minicmd
truncate -s 63M "$work/esp.img"
mkfs.vfat -n EFI "$work/esp.img" >/dev/null
mmd -i "$work/esp.img" ::/EFI ::/EFI/BOOT
mcopy -i "$work/esp.img" "$root/boot/grub/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
rm -rf "$root"/usr/lib/grub

truncate -s 1500M "$work/root.img"
mkfs.ext4 -q -L debian -E lazy_itable_init=1,root_owner=0:0 -d "$root" "$work/root.img"

disk=$work/disk.raw
truncate -s 1568M "$disk"
sfdisk -q "$disk" <<'END'
label: gpt
start=1MiB, size=63MiB, type=uefi, name=esp
start=64MiB, size=1500MiB, type=linux, name=root
END
dd if="$work/esp.img" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/root.img" of="$disk" bs=1M seek=64 conv=notrunc,sparse status=none
mv "$disk" "$folder/disk.raw"
