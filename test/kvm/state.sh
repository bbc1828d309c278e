#!/bin/sh
# SPDX-License-Identifier: MIT
# A Linux guest is saved under one engine and goes on under the other, there and back: kvm, soft, kvm. The guest counts
# rounds (l2.sh); each machine must go on where the one before it was saved.
#
# Usage: state.sh SHARE TMP
share=$1 tmp=$2
last=0

# Waits until the guest of that log has counted a few rounds more than `last`, or for a minute.
rounds() { # LOG
    i=0
    while [ $i -lt 600 ]; do
        n=$(sed -n 's/^l2: round \([0-9]*\).*/\1/p' "$1" | tail -n 1)
        [ "${n:-0}" -lt $((last + 4)) ] || break
        sleep 0.2
        i=$((i + 1))
    done
    first=$(sed -n 's/^l2: round \([0-9]*\).*/\1/p' "$1" | head -n 1)
    echo "l1: $2: rounds ${first:-none} to ${n:-none} after $last"
    grep -iE 'WARN|BUG|call trace|lockup|stall|l2: broken' "$1" | sed "s/^/l1: $2: complains: /"
}

save() { # DIR PID LOG
    hull snapshot --qmp "$tmp/q" "$1" --stop || echo "l1: cannot be saved"
    wait "$2"
    echo "l1: saved, the machine ended with $?"
    last=$(sed -n 's/^l2: round \([0-9]*\).*/\1/p' "$3" | tail -n 1)
    last=${last:-0}
}

# Without what only KVM can do.
hull run --engine kvm --kernel "$share/vmlinuz" --initrd "$share/l2.cpio.gz" \
    --append "console=ttyS0 quiet panic=-1 l2=state" --cpu x86-64-v2,-xsave,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield --memory 128M --cpus 2 --net none \
    --qmp "$tmp/q" >"$tmp/kvm" 2>&1 &
rounds "$tmp/kvm" kvm
save "$tmp/s1" $! "$tmp/kvm"
hull restore "$tmp/s1" --engine soft --qmp "$tmp/q" >"$tmp/soft" 2>&1 &
rounds "$tmp/soft" soft
save "$tmp/s2" $! "$tmp/soft"
hull restore "$tmp/s2" --engine kvm --qmp "$tmp/q" >"$tmp/again" 2>&1 &
rounds "$tmp/again" again
kill $!
wait $!
[ "${n:-0}" -ge $((last + 4)) ] || tail -n 30 "$tmp/kvm" "$tmp/soft" "$tmp/again"
