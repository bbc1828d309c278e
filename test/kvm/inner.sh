#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs in the outer machine (or on a host with a working /dev/kvm): every case writes its own log and status
# into OUT, and test/kvm/run judges those. Usage: inner.sh SHARE OUT
share=$1 out=$2
mkdir -p "$out"
case=0

try() { # NAME COMMAND...
    name=$1
    shift
    begin=$(cut -d ' ' -f 1 /proc/uptime)
    timeout 100 "$@" >"$out/$name.log" 2>&1 </dev/null
    echo "$? $begin $(cut -d ' ' -f 1 /proc/uptime)" >"$out/$name.status"
}

guest() { # NAME CPUS
    try "guest-$1" guest-run --engine kvm --cpus "$2" "$share/guests/$1.img"
}

boot() { # NAME OPTIONS...: the kernel and initramfs of the share, to poweroff
    # Without XSAVE: QEMU 7.2's TCG does not intercept XSETBV, so KVM on it never learns of the guest's XCR0.
    name=$1
    shift
    try "$name" hull run --kernel "$share/vmlinuz" --initrd "$share/l2.cpio.gz" --append "console=ttyS0 quiet panic=-1" \
        --cpu x86-64-v2,-xsave --memory 256M --timeout 90 "$@"
}

[ -e /dev/kvm ] || { echo "no /dev/kvm" >"$out/none"; exit 1; }
try info hull info
try unit kvm_test
while read -r name cpus; do
    guest "$name" "$cpus"
done <"$share/guests/list"
dd if=/dev/zero of=/tmp/disk bs=1M count=16 2>/dev/null
for cpus in 1 2; do
    boot "boot-$cpus" --engine kvm --cpus "$cpus" --net user --disk /tmp/disk,format=raw
done
echo done >"$out/finished"
