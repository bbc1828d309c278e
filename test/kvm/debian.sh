# SPDX-License-Identifier: MIT
# A Debian from its disk, as a user runs it: 2 vCPUs with work for every device, the balloon and a reboot, then 1 and 4.
# Prints TAP. Needs an ssh client and SHARE/debian.key, SHARE/debian.boot (test/kvm/run puts them there).
#
# Usage: debian.sh SHARE TMP DISK
share=$1 tmp=$2 count=0
image=$tmp/debian.img # with its kernel beside it, as hull image build makes it
ln -s "$3" "$image"
ln -s "$share/debian.boot" "$image.boot"
cp "$share/debian.key" "$tmp/key"
chmod 600 "$tmp/key"
[ -e /etc/passwd ] || { mkdir -p /etc /root; echo "root:x:0:0::/root:/bin/sh" >/etc/passwd; } # ssh wants to know who it is
MIB=1048576

ok() { # STATUS NAME
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then line="ok $count - $name: $2"; else line="not ok $count - $name: $2"; fi
    echo "$line"
    [ -z "$HULL_OUTER" ] || echo "$line" >/dev/kmsg # the outer machine's console shows how far it is
}

show() {
    tail -n 25 "$tmp/console" | sed 's/^/# /'
}

guest() { # COMMAND: in the guest, as root
    timeout 300 ssh -i "$tmp/key" -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
        -o BatchMode=yes -o ConnectTimeout=60 debian@127.0.0.1 "sudo -n sh -c '$1'" 2>&1
}

prompts() { # COUNT: waits for that many login prompts
    for try in $(seq 400); do
        [ "$(grep -c ' login: ' "$tmp/console")" -lt "$1" ] || return 0
        kill -0 $hull 2>/dev/null || return 1
        sleep 1
    done
    return 1
}

qmp() {
    kvm-qmp "$tmp/q" "$@"
}

memory() { # KIND: KiB in the guest
    guest "grep ^$1: /proc/meminfo" | awk '{ print $2 }'
}

balloon() { # MIB: how much the guest is to have; waits until the balloon says so
    qmp "{\"execute\":\"balloon\",\"arguments\":{\"value\":$(($1 * MIB))}}" >/dev/null
    for try in $(seq 120); do
        actual=$(qmp '{"execute":"query-balloon"}' | sed 's/.*"actual": *\([0-9]*\).*/\1/')
        [ "$actual" != $(($1 * MIB)) ] || return 0
        sleep 0.5
    done
    return 1
}

resident() { # MiB of the machine's process
    echo $(($(awk '/^VmRSS/ { print $2 }' "/proc/$(pidof hull-vmm)/status") / 1024))
}

# QEMU's TCG lets a guest write XCR0 without telling the KVM that runs it, which puts its own back at every entry: XSAVE
# then leaves vector registers out, and guests die of it (doc/kvm.md). There without XSAVE.
cpu=x86-64-v3
[ -z "$HULL_OUTER" ] || cpu=x86-64-v2,-xsave

start() { # CPUS
    name="debian, $1 vCPU"
    began=$(cut -d . -f 1 /proc/uptime)
    hull run "$image" --engine kvm --cpu $cpu --memory 512M --cpus "$1" --net user,forward=tcp:2222:22 --qmp "$tmp/q" \
        >"$tmp/console" 2>&1 </dev/null &
    hull=$!
    prompts 1
    ok $? "boots to the login prompt"
    echo "# $name: $(($(cut -d . -f 1 /proc/uptime) - began)) s"
    answer=$(guest "echo \$(nproc) \$(cat /proc/sys/kernel/tainted) \$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)")
    [ "$answer" = "$1 0 kvm-clock" ]
    ok $? "ssh answers, all vCPUs are up, not tainted, the clock is KVM's: $answer"
}

healthy() {
    answer=$(guest "systemctl is-system-running --wait; systemctl --failed --no-legend --plain")
    [ "$answer" = running ]
    ok $? "no unit has failed: $answer"
    guest dmesg | grep -E 'WARN|BUG|[Uu]nhandled|[Ll]ockup|[Cc]all [Tt]race|stall' | grep -v 'report a bug\|not a BUG' >"$tmp/bad"
    [ ! -s "$tmp/bad" ]
    ok $? "the kernel complains of nothing: $(head -n 3 "$tmp/bad")"
}

off() {
    guest "systemctl poweroff" >/dev/null
    wait $hull
    status=$?
    [ $status -eq 0 ]
    ok $? "poweroff: status $status"
    [ $status -eq 0 ] || show
}

devices() {
    answer=$(guest "dd if=/dev/urandom of=/root/f bs=1M count=16 2>/dev/null; sync; sha256sum </root/f; echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/f" | sort -u | wc -l)
    [ "$answer" = 1 ]
    ok $? "16 MiB come back from the disk as they were written: $answer sums"
    guest "cat /root/f" | sha256sum >"$tmp/a"
    guest "cat /root/f | sha256sum" >"$tmp/b"
    [ -s "$tmp/a" ] && cmp -s "$tmp/a" "$tmp/b"
    ok $? "and through the network"
    answer=$(guest "dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c")
    [ "$answer" = 16 ]
    ok $? "the random source gives $answer bytes"
}

balloons() {
    total=$(memory MemAvailable) before=$(resident) # with deflate-on-oom Linux leaves its total alone
    balloon 384
    ok $? "the balloon takes 128 MiB: the guest has $((actual / MIB)) MiB"
    less=$(memory MemAvailable)
    [ $((total - less)) -gt 100000 ]
    ok $? "the guest's free memory is $((total / 1024)) MiB, then $((less / 1024)) MiB; the process $before MiB, then $(resident) MiB"
    balloon 512
    ok $? "and gives it back: $((actual / MIB)) MiB"
    again=$(memory MemAvailable)
    [ $((again - less)) -gt 100000 ]
    ok $? "it is $((again / 1024)) MiB again"
    answer=$(guest "dd if=/dev/zero bs=1M count=150 of=/dev/shm/x 2>/dev/null && sha256sum </dev/shm/x && rm /dev/shm/x")
    [ "$answer" = "$(dd if=/dev/zero bs=1M count=150 2>/dev/null | sha256sum)" ]
    ok $? "which can be used"
}

start 2
if [ "$answer" ]; then
    healthy
    devices
    balloons
    guest "systemctl reboot" >/dev/null
    prompts 2
    ok $? "reboot: the login prompt comes again"
    answer=$(guest "nproc")
    [ "$answer" = 2 ]
    ok $? "and ssh answers: $answer"
fi
off
for cpus in 1 4; do
    start $cpus
    off
done
echo "1..$count"
