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
# Usage: inner.sh SHARE RESULT SUITE     SUITE: short (in the gate), all, or vhost, state, share, fault, life or debian alone
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

boot() { # NAME KERNEL APPEND OPTIONS...: that kernel with its initramfs, to poweroff
    # XSAVE only together with AVX, as in x86-64-v3: see doc/kvm.md.
    name=$1 kernel=$2 append=$3
    shift 3
    try "boot-$name" 300 hull run --engine kvm --kernel "$share/$kernel" --initrd "$share/$kernel.cpio.gz" \
        --append "console=ttyS0 quiet panic=-1 $append" --cpu "${cpu:-x86-64-v2,-xsave}" --memory 256M --timeout 280 \
        --disk "$tmp/disk,format=raw" "$@"
}

if [ ! -e /dev/kvm ]; then
    echo "@none no /dev/kvm" >&9
    exit 1
fi
try info 60 hull info
one() { # CASE: those that are scripts of their own
    case $1 in
    vhost) [ ! -e /dev/vhost-net ] || [ ! -e "$share/bin/vsock-cat" ] || try vhost 460 sh "$share/vhost.sh" "$share" "$tmp" ;;
    share) try share 300 sh "$share/share.sh" "$share" "$tmp" ;;
    state) try state 600 sh "$share/state.sh" "$share" "$tmp" ;;
    fault) try fault 300 sh "$share/fault.sh" "$share" "$tmp" ;;
    life) [ -z "$HULL_OUTER" ] || try life 1200 sh "$share/life.sh" "$share" 200 ;; # counts all processes of the host
    debian)
        disk=$share/debian.img
        [ -e "$disk" ] || disk=/dev/vda
        [ ! -e "$share/debian.boot" ] || try debian 2400 sh "$share/debian.sh" "$share" "$tmp" "$disk"
        ;;
    esac
}

case $suite in
vhost | state | share | fault | life | debian)
    one "$suite"
    echo "@finished" >&9
    exit 0
    ;;
esac
while read -r name; do
    try "unit-$name" 120 "$name"
done <"$share/units/list"
try unit-cpuid 200 sh "$share/cpuid.sh" "$share/guests/cpuid.img"
case $suite in
short) step=9 only= ;;
all) step=1 only= ;;
states:*) step=1 only=${suite#states:} ;; # a developer's choice
esac
# Its log would land in the middle of a state.
try states 900 sh -c 'exec guest-states "$@" 2>/dev/null' sh --engine kvm --step "$step" ${only:+--only "$only"} \
    "$share/guests/states32.img" "$share/guests/states64.img" "$share/guests/states-smp.img:4"
if [ "$only" ]; then
    echo "@finished" >&9
    exit 0
fi
while read -r name cpus when; do
    [ "$suite" = all ] || [ "$when" = short ] || continue
    try "guest-$name" 120 guest-run --engine kvm --cpus "$cpus" "$share/guests/$name.img"
done <"$share/guests/list"
dd if=/dev/zero of="$tmp/disk" bs=1M count=16 2>/dev/null
boot cloud-2 cloud "" --cpus 2 --net user
if [ "$suite" = all ]; then
    cpu=x86-64-v3
    boot cloud-1 cloud "" --cpus 1 --net user
    boot generic-2 generic "" --cpus 2 --net user
    cpu=x86-64-v2,-xsave,hyperv=on
    boot cloud-1-hyperv cloud "" --cpus 1 --net user
    cpu=host,-xsave
    boot cloud-2-host cloud "" --cpus 2 --net user
    cpu=
    boot cloud-4-reboot cloud l2.reboot --cpus 4 --net user
    boot generic-1 generic "" --cpus 1 --net user
    boot generic-4 generic "" --cpus 4 --net user
fi
if [ "$suite" = all ]; then
    one share
    one state
    one vhost
    if [ "$HULL_OUTER" ]; then # what touches the host beyond its machine
        tunctl -t hull0 >/dev/null
        ip addr add 10.9.0.1/24 dev hull0
        ip link set hull0 up
        boot cloud-1-tap cloud l2.tap --cpus 1 --net tap,name=hull0
        boot cloud-2-vhost cloud l2.tap --cpus 2 --net tap,name=hull0,vhost=on
    fi
    one debian
    one life
    one fault
fi
echo "@finished" >&9
