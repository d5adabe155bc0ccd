#!/bin/sh
# The first process of the machine: makes of a kernel and an archive what tests take for a Linux system, runs suite.py,
# says its exit code on the console, and switches the machine off. Settings come as kernel parameters, which the kernel
# hands on as environment.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

# The root of an initramfs cannot be left by pivot_root, which is what the sandbox does. A mount of it upon itself can.
if [ -z "$FAAS_ROOT" ]; then
    mount --bind / /old && cd /old && mount --move . / && FAAS_ROOT=1 exec chroot . /init
fi

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/shm
mount -t tmpfs -o mode=1777 shm /dev/shm
# Not over the suite, where this repository is below /tmp.
case "$FAAS_SUITE" in
/tmp/*) chmod 1777 /tmp ;;
*) mount -t tmpfs -o mode=1777 tmp /tmp ;;
esac
ip link set lo up
mount -t securityfs security /sys/kernel/security
[ ! -e /overlay.ko ] || insmod /overlay.ko

if [ "$FAAS_CGROUPS" = v1 ]; then
    mount -t tmpfs cgroups /sys/fs/cgroup
    for controllers in cpu,cpuacct memory pids cpuset devices freezer blkio; do
        mkdir "/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
    done
else
    mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
fi

echo "vm: up"
python3 -u "$FAAS_SUITE"
echo "vm: exit code $?"
poweroff -f
