#!/usr/lib/busybox/busybox sh
# The first process of the test VM: makes a small Linux out of the bare kernel, runs the payload, says how it ended,
# powers off.

export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/usr/lib/busybox HOME=/root TERM=dumb LANG=C.UTF-8

mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpffs /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
ln -s /proc/self/fd /dev/fd
# Programs that make network namespaces expect mounts to be shared, as systemd has them.
mount --make-rshared /

# Otherwise every new network namespace would begin with a device of each tunnel module that is loaded.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net

while read -r module; do
    insmod "$module" || echo "cannot load $module"
done </vm/modules

hostname sluice-vm
ip link set lo up
ulimit -n 65536

# Defines TAG, the word that marks the lines of this run, and PATIENCE, the seconds after which it counts as hanging.
. /vm/settings

# Whoever reads about a hang wants to know who hung, and where in the kernel.
read -r uptime _ </proc/uptime
{
    sleep $((PATIENCE - ${uptime%.*}))
    echo
    echo "still running after $PATIENCE s:"
    ps -o pid,ppid,stat,args | grep -v ' \[.*\]$'
    echo w >/proc/sysrq-trigger
} &

echo
echo "$TAG begin"
/usr/bin/sh /vm/payload </dev/null
code=$?

# From here on only a panic may write between our lines.
dmesg -n 1
dmesg >/out/kernel.log
# The second serial port has to carry bytes, not lines.
stty -F /dev/ttyS1 raw -echo
tar -C /out -cf /dev/ttyS1 .
echo
echo "$TAG exit=$code"
poweroff -f
