#!/bin/busybox sh
# First program of the emulated host. It puts together a root file system that looks like the
# machine that started it (9p, read-only, with a throw-away layer above) and goes on there.
/bin/busybox --install -s /bin
export PATH=/bin
fail() { echo "nested-host: $*" >/dev/console; poweroff -f; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module" || echo "nested-host: $module does not load"
done

mkdir -p /lower /layer /root
options=trans=virtio,version=9p2000.L,msize=512000,cache=loose
mount -t 9p -o ro,$options root /lower || fail "cannot mount the machine's files"
mount -t tmpfs -o size=50% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work root /root ||
    fail "cannot put a layer above the machine's files"

for folder in proc sys dev; do mount --move /$folder /root/$folder; done
mkdir -p /root/dev/pts /root/dev/shm /root/dev/virtio-ports
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
for folder in tmp run dev/shm; do mount -t tmpfs -o mode=1777 $folder /root/$folder; done
ln -sf /proc/self/fd /root/dev/fd
mount -t cgroup2 cgroup /root/sys/fs/cgroup 2>/dev/null

# Folders in which results are kept, one line each: tag, path.
while read -r tag path; do
    mkdir -p "/root$path"
    mount -t 9p -o rw,$options "$tag" "/root$path" || fail "cannot mount $path"
done </job/writable
read -r modules </job/modules
mkdir -p /root/lib/modules
mount --bind "/root$modules" /root/lib/modules || fail "cannot show the modules"

for port in /root/sys/class/virtio-ports/*; do
    read -r name <"$port/name" && ln -s "../${port##*/}" "/root/dev/virtio-ports/$name"
done
cp -a /job /root/run/nested
cp /bin/busybox /root/run/nested/
exec switch_root /root /run/nested/busybox sh /run/nested/enter
