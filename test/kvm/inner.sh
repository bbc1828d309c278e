#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs in the outer machine (or on a host with a working /dev/kvm): the inner tests, one after the other. Writes what
# they print and how they end to RESULT, which test/kvm/run reads as it grows and judges:
#
#   @begin NAME LIMIT          LIMIT: seconds after which it is ended
#    what it prints            a space before each line
#   @end NAME STATUS BEGIN END uptimes in seconds
#   @finished
#
# Usage: inner.sh SHARE RESULT SUITE     SUITE: short (in the gate), all, or vhost or state alone
share=$1 suite=$3
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
exec 9>"$2"

uptime_s() {
    cut -d ' ' -f 1 /proc/uptime
}

try() { # NAME LIMIT COMMAND...
    name=$1 limit=$2
    shift 2
    echo "@begin $name $limit" >&9
    begin=$(uptime_s)
    timeout -s KILL "$limit" "$@" >"$tmp/log" 2>&1 </dev/null
    status=$?
    sed 's/^/ /' "$tmp/log" >&9
    echo "@end $name $status $begin $(uptime_s)" >&9
}

boot() { # NAME OPTIONS...: the kernel and initramfs of the share, to poweroff
    # Without XSAVE: QEMU 7.2's TCG does not intercept XSETBV, so KVM on it never learns of the guest's XCR0.
    name=$1
    shift
    try "$name" 200 hull run --engine kvm --kernel "$share/vmlinuz" --initrd "$share/l2.cpio.gz" \
        --append "console=ttyS0 quiet panic=-1" --cpu "${cpu:-x86-64-v2,-xsave}" --memory 256M --timeout 180 "$@"
}

if [ ! -e /dev/kvm ]; then
    echo "@none no /dev/kvm" >&9
    exit 1
fi
try info 60 hull info
if [ "$suite" = vhost ]; then
    try vhost 240 sh "$share/vhost.sh" "$share" "$tmp"
    echo "@finished" >&9
    exit 0
fi
if [ "$suite" = state ]; then
    try state 600 sh "$share/state.sh" "$share" "$tmp"
    echo "@finished" >&9
    exit 0
fi
while read -r name; do
    try "unit-$name" 120 "$name"
done <"$share/units/list"
try unit-cpuid 200 sh "$share/cpuid.sh" "$share/guests/cpuid.img"
case $suite in
short) step=9 only= ;;
all) step=1 only= ;;
states:*) step=1 only=${suite#states:} ;; # a developer's choice
esac
try states 900 guest-states --engine kvm --step "$step" ${only:+--only "$only"} "$share/guests/states32.img" \
    "$share/guests/states64.img"
if [ "$only" ]; then
    echo "@finished" >&9
    exit 0
fi
while read -r name cpus when; do
    [ "$suite" = all ] || [ "$when" = short ] || continue
    try "guest-$name" 120 guest-run --engine kvm --cpus "$cpus" "$share/guests/$name.img"
done <"$share/guests/list"
dd if=/dev/zero of="$tmp/disk" bs=1M count=16 2>/dev/null
for cpus in 2 1; do
    boot "boot-$cpus" --cpus "$cpus" --net user --disk "$tmp/disk,format=raw"
    [ "$suite" = all ] || break
done
if [ "$suite" = all ]; then
    cpu=x86-64-v2,-xsave,hyperv=on boot boot-1-hyperv --net user --disk "$tmp/disk,format=raw"
    cpu=host,-xsave boot boot-2-host --cpus 2 --net user --disk "$tmp/disk,format=raw"
fi
[ "$suite" != all ] || try state 600 sh "$share/state.sh" "$share" "$tmp"
[ "$suite" != all ] || [ ! -e /dev/vhost-net ] || [ ! -e "$share/bin/vsock-cat" ] || try vhost 240 sh "$share/vhost.sh" "$share" "$tmp"
echo "@finished" >&9
