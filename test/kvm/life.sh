#!/bin/sh
# SPDX-License-Identifier: MIT
# Machines that are killed at any moment leave nothing: half of the time hull dies, half of the time hull-vmm. Only in the
# outer machine, where no others run. Usage: life.sh SHARE COUNT; prints TAP.
share=$1 count=$2
mount -t debugfs debug /sys/kernel/debug 2>/dev/null

running() {
    pidof hull-vmm hull hull-usernet | wc -w
}

machines() { # of KVM, by their folders PID-FD
    find /sys/kernel/debug/kvm -mindepth 1 -maxdepth 1 -type d 2>/dev/null | wc -l
}

files() {
    find /tmp /run /dev/shm -type s -o -type f 2>/dev/null | wc -l
}

before="$(machines) machines, $(files) files"
n=0 stubborn=0
while [ $n -lt "$count" ]; do
    hull run --engine kvm --kernel "$share/sleep.img" --memory 64M --net user --serial none >/dev/null 2>&1 </dev/null &
    pid=$!
    usleep $((n * 7919 % 400 * 1000)) # from before the machine is there to long after
    if [ $((n & 1)) = 0 ]; then
        kill -9 $pid
    else
        victim=$(pidof hull-vmm)
        kill -9 ${victim:-$pid}
    fi
    wait $pid 2>/dev/null
    for try in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(running)" = 0 ] && break
        usleep 100000
    done
    [ "$(running)" = 0 ] || { stubborn=$((stubborn + 1)); killall -9 hull hull-vmm hull-usernet 2>/dev/null; }
    n=$((n + 1))
done
sleep 1
after="$(machines) machines, $(files) files"
[ $stubborn = 0 ] && echo "ok 1 - all processes of $count killed machines are gone" ||
    echo "not ok 1 - all processes of $count killed machines are gone: $stubborn were not"
[ "$before" = "$after" ] && echo "ok 2 - they leave $after" || echo "not ok 2 - they leave $after, before: $before"
echo 1..2
