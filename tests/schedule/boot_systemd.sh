#!/bin/bash
# Boots a systemd of its own: in namespaces of its own, on a copy of this computer's files that is thrown away.
# Run by private_systemd.py through unshare; $1 is an empty folder, $2… are paths that every account shall reach.
set -eu
space=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$space"
mkdir "$space"/{upper,work,root}
root=$space/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$space/upper,workdir=$space/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
touch "$root/dev/console"
mount --bind /dev/null "$root/dev/console"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm" -o mode=1777
for path in "$@"; do
    while [ "$path" != / ]; do
        chmod a+rx "$root$path" 2>/dev/null || true
        path=$(dirname "$path")
    done
done
units=$root/etc/systemd/system
# What would touch the kernel that we share with everybody else.
for unit in systemd-sysctl systemd-modules-load systemd-udevd systemd-udev-trigger systemd-remount-fs \
    systemd-random-seed systemd-hwdb-update systemd-binfmt systemd-pstore systemd-machine-id-commit kmod-static-nodes; do
    ln -sf /dev/null "$units/$unit.service"
done
cat > "$units/test.target" <<UNIT
[Unit]
Requires=systemd-journald.service dbus.service systemd-logind.service
After=systemd-journald.service dbus.service systemd-logind.service
AllowIsolate=yes
UNIT
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
cd "$root"
mkdir -p mnt/old
# Not chroot: inside of one, no user namespace can be made, as units of a user need it.
pivot_root . mnt/old
umount -l /mnt/old
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=test.target --show-status=0
