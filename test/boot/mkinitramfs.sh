#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes a small initramfs for tests: busybox, the modules that hull's devices need, and an init that runs a
# script and powers off. Its last line on the console is "hull: script ended with N".
#
# Usage: mkinitramfs.sh -k KERNELDIR -o FILE [-s SCRIPT] [-m MODULES] [-f FILE]...
#   -k DIR      made by fetch.sh
#   -s SCRIPT   run by init; without it, the kernel command line gives one: hull.sh=BASE64, or a shell runs
#   -m A,B      modules instead of the usual ones; names that are built in or missing are left out
#   -f FILE     put into /files/; may be repeated
set -eu
PATH=$PATH:/usr/sbin:/sbin
kernel= out= script= files=
modules=virtio_pci,virtio_mmio,virtio_blk,virtio_net,virtio_console,virtio_rng,virtio_balloon,virtio_scsi,sd_mod,ext4,crc32c_generic,crc32c_intel
while getopts k:o:s:m:f: option; do
    case $option in
    k) kernel=$OPTARG ;;
    o) out=$OPTARG ;;
    s) script=$OPTARG ;;
    m) modules=$OPTARG ;;
    f) files="$files
$OPTARG" ;;
    *) exit 2 ;;
    esac
done
[ -n "$kernel" ] && [ -n "$out" ] || { sed -n 's/^# Usage/Usage/p' "$0" >&2; exit 2; }
[ -e "$kernel/done" ] || { echo "mkinitramfs: $kernel: made by fetch.sh, which was not run" >&2; exit 1; }
busybox=$(command -v busybox) && ! ldd "$busybox" >/dev/null 2>&1 ||
    { echo "mkinitramfs: no static busybox: apt-get install busybox-static" >&2; exit 1; }
for tool in cpio gzip modprobe; do
    command -v $tool >/dev/null || { echo "mkinitramfs: $tool is missing: apt-get install cpio gzip kmod" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/mnt" "$root/etc" "$root/lib/modules" "$root/files"
cp "$busybox" "$root/bin/busybox"
"$busybox" --list | while read -r name; do
    [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
done

# In the order in which they must be loaded.
for module in $(echo "$modules" | tr , ' '); do
    modprobe -d "$kernel/modules" -S "$(cat "$kernel/done")" --ignore-install --show-depends "$module" 2>/dev/null || :
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/list"
while read -r file; do
    cp "$file" "$root/lib/modules/"
    echo "${file##*/}" >>"$root/lib/modules/order"
done <"$work/list"

[ -z "$script" ] || cp "$script" "$root/script"
echo "$files" | while read -r file; do
    [ -z "$file" ] || cp "$file" "$root/files/"
done

cat >"$root/init" <<'INIT'
#!/bin/sh
# Made by test/boot/mkinitramfs.sh.
export PATH=/bin HOME=/
mount -t devtmpfs none /dev 2>/dev/null
mount -t proc none /proc
mount -t sysfs none /sys
while read -r module; do
    insmod "/lib/modules/$module" || echo "hull: $module cannot be loaded"
done 2>/dev/null </lib/modules/order
for word in $(cat /proc/cmdline); do
    case $word in
    hull.sh=*) echo "${word#hull.sh=}" | base64 -d >/script ;;
    esac
done
if [ -e /script ]; then
    sh /script
    echo "hull: script ended with $?"
else
    setsid cttyhack sh
fi
sync
poweroff -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc -R 0:0 --quiet) | gzip -9n >"$work/out"
mv "$work/out" "$out"
