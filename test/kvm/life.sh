#!/bin/sh
# SPDX-License-Identifier: MIT
# Machines that start and end by themselves, and machines that are killed at any moment, leave nothing: no process, thread,
# machine of KVM, open file, socket or file. Of those killed it is hull half of the time, hull-vmm the other half. Only in
# the outer machine, where no others run. Usage: life.sh SHARE COUNT; prints TAP.
share=$1 count=$2
tmp=$(mktemp -d) || exit 1
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
dd if=/dev/zero of="$tmp/disk" bs=1M count=1 2>/dev/null

running() {
    pidof hull-vmm hull hull-usernet | wc -w
}

machines() { # of KVM, by their folders PID-FD
    find /sys/kernel/debug/kvm -mindepth 1 -maxdepth 1 -type d 2>/dev/null | wc -l
}

# All that a machine could leave. Kernel threads come and go on their own, so threads are those of processes.
left() {
    processes=0 threads=0
    for p in /proc/[0-9]*; do
        [ -e "$p/exe" ] && readlink "$p/exe" >/dev/null || continue
        processes=$((processes + 1))
        threads=$((threads + $(ls "$p/task" 2>/dev/null | wc -l)))
    done
    files=$(find /tmp /run /dev/shm -type s -o -type f -o -type p 2>/dev/null | wc -l)
    echo "$(machines) machines of KVM, $(running) of our processes, $processes processes, $threads threads, $files files," \
        "$(grep -c . /proc/net/unix) UNIX sockets, $(cat /proc/net/tcp /proc/net/udp | grep -vc ' 06 ') ports"
}

# Open files of the whole kernel are counted late and by groups of processors: some slack, far below one for a machine.
open_files() {
    cut -f 1 /proc/sys/fs/file-nr
}

n_ok=0
ok() { # STATUS NAME
    n_ok=$((n_ok + 1))
    if [ "$1" -eq 0 ]; then echo "ok $n_ok - $2"; else echo "not ok $n_ok - $2"; fi
}

settle() { # BEFORE: waits until it is so again, or 5 s
    for try in $(seq 50); do
        after=$(left)
        [ "$after" != "$1" ] || break
        usleep 100000
    done
    [ "$after" = "$1" ]
}

options="--engine kvm --memory 64M --net user --serial none --disk $tmp/disk --qmp $tmp/qmp"

# shellcheck disable=SC2086
ends() {
    hull run $options --kernel "$share/exit.img" --debug-exit </dev/null >"$tmp/out" 2>&1
}

ends
before=$(left) opened=$(open_files) n=0 wrong=0
while [ $n -lt "$count" ]; do
    ends
    [ $? -eq 7 ] || wrong=$((wrong + 1))
    n=$((n + 1))
done
[ $wrong -eq 0 ]
ok $? "$n machines started and ended by themselves, $wrong with a wrong status"
settle "$before"
ok $? "they leave nothing: $after"
[ "$after" = "$before" ] || echo "# before: $before"
opened_after=$(open_files)
[ $((opened_after - opened)) -lt $((count / 2)) ]
ok $? "and no open file of the kernel: $opened before, $opened_after after"

n=0 stubborn=0 hulls=0 vmms=0 early=0
while [ $n -lt "$count" ]; do
    # shellcheck disable=SC2086
    hull run $options --kernel "$share/sleep.img" >/dev/null 2>&1 </dev/null &
    pid=$!
    usleep $((n * 7919 % 400 * 1000)) # from before the machine is there to long after
    victim=$(pidof hull-vmm)
    [ "$victim" ] || early=$((early + 1))
    if [ $((n & 1)) = 0 ]; then
        kill -9 $pid
        hulls=$((hulls + 1))
    else
        kill -9 ${victim:-$pid}
        vmms=$((vmms + 1))
    fi
    wait $pid 2>/dev/null
    for try in $(seq 50); do
        [ "$(running)" = 0 ] && break
        usleep 100000
    done
    [ "$(running)" = 0 ] || { stubborn=$((stubborn + 1)); killall -9 hull hull-vmm hull-usernet 2>/dev/null; }
    n=$((n + 1))
done
[ $stubborn = 0 ]
ok $? "$n machines killed ($hulls times hull, $vmms times hull-vmm, $early times before that was there): $stubborn times a process stayed"
# The name of a socket that was asked for may outlive hull, killed itself; the next machine takes it over and clears it.
ends
status=$?
[ $status -eq 7 ] && [ ! -e "$tmp/qmp" ]
ok $? "the next machine takes over the socket's name and clears it: status $status"
settle "$before"
ok $? "they leave nothing: $after"
[ "$after" = "$before" ] || echo "# before: $before"
rm -r "$tmp"
echo "1..$n_ok"
