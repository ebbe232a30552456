#!/bin/busybox sh
# First program of the guest. What it becomes depends on what it finds:
#   /command                       runs that script between two markers, then powers off
#   "testkit" on the command line  answers requests on the console, see testkit/src/guest.rs
#   neither                        a shell; leaving it powers off
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=${TERM:-linux}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /tmp /run /root
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
cd /root
read -r options </proc/cmdline

. /serve

if [ -e /command ]; then
    read -r marker </marker
    stty -echo -opost </dev/console
    dmesg -n 1
    printf '%s-begin\n' "$marker"
    sh /command
    printf '%s-end %d\n' "$marker" $?
else
    case " $options " in
    *" testkit "*) serve ;;
    *)
        echo
        echo "This is the guest: $(uname -sr), $(nproc) processor(s). Leaving the shell powers it off."
        setsid cttyhack sh
        ;;
    esac
fi
poweroff -f
