# Second program of the emulated host: runs the job and reports its end.
# Started inside of the assembled root file system; `$bb` works whatever that has.
bb=/run/nested/busybox
ports=/dev/virtio-ports
cd /run/nested || exit
$bb ifconfig lo 127.0.0.1 up
$bb hostname nested-host
$bb ulimit -n 65536 2>/dev/null
if [ -e scratch ]; then
    read -r drive folder <scratch
    $bb mkdir -p "$folder"
    $bb mount -t ext4 -o discard "$drive" "$folder"
fi
read -r trailer <trailer
exec 3>$ports/control
echo up >&3

if [ -e interactive ]; then
    read -r rows columns <interactive
    $bb stty -F /dev/hvc0 rows "$rows" cols "$columns"
    $bb setsid -c $bb sh job </dev/hvc0 >/dev/hvc0 2>&1
    status=$?
else
    # Through pipes, because a port can be opened only once and a program may open /dev/stderr.
    $bb mkfifo out err
    $bb cat out >$ports/out & out=$!
    $bb cat err >$ports/err & err=$!
    $bb setsid $bb sh job </dev/null >out 2>err
    status=$?
    # What the job left running may hold the pipes open: give it a moment, then go on.
    { $bb sleep 2; kill $out $err; } 2>/dev/null 3>&- & guard=$!
    wait $out $err 2>/dev/null
    kill $guard 2>/dev/null
    printf '%s' "$trailer" >$ports/out
    printf '%s' "$trailer" >$ports/err
fi
# The host ends the machine when it has read this, so nothing may wait in a cache.
$bb sync
echo "exit $status" >&3
while :; do $bb sleep 60; done
