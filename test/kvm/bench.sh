#!/bin/sh
# SPDX-License-Identifier: MIT
# The benchmark's part in the outer machine: hull and Debian's QEMU take turns. Writes "sample NAME VMM VALUE UNIT"
# lines to RESULT; test/kvm/bench makes medians of them. Usage: bench.sh SHARE RESULT RUNS ONLY
share=$1 runs=$3 only=$4
tmp=$(mktemp -d) || exit 1
exec 9>"$2"
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
stats=/sys/kernel/debug/kvm
data=$share/qemu
echo "@begin bench 3000" >&9

say() {
    echo " sample $*" >&9
}

now() { # in hundredths of a second
    cut -d ' ' -f 1 /proc/uptime | tr -d .
}

seconds() {
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", (b - a) / 100 }'
}

# Other machines than the one that is measured stand still (kvm-hold's), so the sums over all are its own.
exits() { # VMM
    for kind in exits io_exits mmio_exits halt_exits irq_exits irq_window_exits request_irq_exits insn_emulation hypercalls \
        irq_injections signal_exits nmi_injections; do
        [ ! -e "$stats/$kind" ] || say "boot_$kind" "$1" "$(cat "$stats/$kind")" exits
    done
}

processor() { # VMM: ticks of 10 ms that its process spent in itself, not in the guest
    for pid in $(pidof hull-vmm qemu-system-x86_64); do
        say boot_vmm_user "$1" "$(awk '{ print ($14 - $43) * 10 }' "/proc/$pid/stat")" ms
        say boot_vmm_kernel "$1" "$(awk '{ print $15 * 10 }' "/proc/$pid/stat")" ms
    done
}

memory() { # VMM: what it holds beyond guest RAM, the only mapping of 128 MiB or more that is touched
    for pid in $(pidof hull-vmm qemu-system-x86_64); do
        awk '/^Size:/ { ram = $2 >= 131072 } !ram && /^Rss:/ { r += $2 } !ram && /^Private/ { p += $2 } END { print r + 0, p + 0 }' \
            "/proc/$pid/smaps" >"$tmp/memory"
        read -r rss private <"$tmp/memory"
        say memory_beyond_guest "$1" "$rss" KiB
        say memory_private "$1" "$private" KiB
    done
}

vmm() { # VMM CPU-OPTIONS...: its command line on the kernel in $kernel, initramfs in $initrd
    which=$1
    shift
    common="-nodefaults -no-user-config -no-reboot -display none -serial stdio -accel kvm -cpu host,-xsave -smp 1 -m 256M
        -object memory-backend-memfd,id=ram,size=256M -L $data"
    case $which in
    hull) exec hull run --engine kvm --cpu x86-64-v2,-xsave --memory 256M --net none --timeout 120 --kernel "$kernel" \
        --initrd "$initrd" --append "console=ttyS0 quiet" "$@" ;;
    qemu_q35) machine="-M q35,memory-backend=ram" ;;
    qemu_qboot) machine="-M q35,memory-backend=ram -bios $data/qboot.rom" ;;
    qemu_microvm) machine="-M microvm,memory-backend=ram" ;;
    esac
    # shellcheck disable=SC2086
    exec qemu-system-x86_64 $common $machine -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 quiet" "$@"
}

boot() { # VMM
    begin=$(now)
    (vmm "$1") 2>"$tmp/err" </dev/null | while read -r line; do
        case $line in
        *"T: init"*)
            say boot_init "$1" "$(seconds "$begin" "$(now)")" s
            exits "$1"
            memory "$1"
            processor "$1"
            ;;
        esac
    done
    say boot_exit "$1" "$(seconds "$begin" "$(now)")" s
    sed "s/^/ # $1: /" "$tmp/err" >&9
}

start() { # VMM: ten times from exec to the exit that the first instructions ask for
    begin=$(now)
    for n in 0 1 2 3 4 5 6 7 8 9; do
        case $1 in
        hull) hull run --engine kvm --cpu x86-64-v2,-xsave --memory 256M --net none --kernel "$share/exit.img" --debug-exit ;;
        *) qemu-system-x86_64 -nodefaults -no-user-config -display none -accel kvm -cpu host,-xsave -m 256M -L "$data" \
            -M q35 -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$share/exit.img" ;;
        esac >/dev/null 2>&1 </dev/null
    done
    say start "$1" "$(($(now) - begin))" ms # tenths of ten
}

disk() { # VMM: guestbench on a disk
    case $1 in
    hull) work hull --disk "$tmp/disk,format=raw" ;;
    *) work "$1" -drive "file=$tmp/disk,if=none,id=d,format=raw,aio=io_uring" -device virtio-blk-pci,drive=d ;;
    esac
}

net() { # VMM: guestbench on the user network
    guestbench sink 7000 &
    sink=$!
    guestbench source 7001 &
    source=$!
    case $1 in
    hull) work hull --net user ;;
    *) work "$1" -netdev user,id=n -device virtio-net-pci,netdev=n,romfile= ;;
    esac
    kill $sink $source 2>/dev/null
}

work() { # VMM OPTIONS
    which=$1
    initrd=$share/work.cpio
    (vmm "$@") 2>"$tmp/err" </dev/null | tr -d '\r' | while read -r word name value unit; do
        [ "$word" != bench ] || say "$name" "$which" "$value" "$unit"
    done
    sed "s/^/ # $which: /" "$tmp/err" >&9
    initrd=$share/boot.cpio
}

kernel=$share/vmlinuz initrd=$share/boot.cpio
dd if=/dev/urandom of="$tmp/disk" bs=1M count=64 2>/dev/null
while [ "$runs" -gt 0 ]; do
    for part in $(echo "$only" | tr , ' '); do
        machines='hull qemu_q35'
        [ "$part" != boot ] || machines='hull qemu_microvm qemu_q35 qemu_qboot'
        for machine in $machines; do
            "$part" "$machine"
        done
    done
    runs=$((runs - 1))
done
echo "@end bench 0 0 0" >&9
echo "@finished" >&9
