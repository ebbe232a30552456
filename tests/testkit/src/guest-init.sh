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

serve() {
    # Lines as they are: no echo, no carriage returns; only a dying kernel may interrupt.
    stty -echo -opost </dev/console
    dmesg -n 1
    script=
    echo "@testkit-ready"
    while read -r word rest; do
        case $word in
        @run)
            echo "$script" | base64 -d >/tmp/request
            sh /tmp/request </dev/null >/tmp/answer 2>&1
            status=$?
            # Every byte costs an exit of the processor, up to 0.4 ms where all is emulated.
            packing=plain
            if [ "$(wc -c </tmp/answer)" -gt 1000 ]; then
                gzip -f /tmp/answer && mv /tmp/answer.gz /tmp/answer && packing=gzip
            fi
            echo
            echo "@begin $rest $packing"
            base64 /tmp/answer
            echo "@end $rest $status"
            script=
            ;;
        *) script="$script$word" ;;
        esac
    done
}

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
