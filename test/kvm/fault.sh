# SPDX-License-Identifier: MIT
# What hull says and does where KVM cannot be had: --engine kvm ends with status 1 and one line, auto says in one line
# why and runs the machine on the soft engine. Prints TAP. Most faults are the real kernel's answers with one changed
# (fault.c); with HULL_OUTER set also what only root of a host of its own can bring about, with nothing changed: no device,
# one for others, and another hypervisor that holds the processor.
#
# Usage: fault.sh SHARE TMP
share=$1 tmp=$2 count=0
export XDG_CACHE_HOME="$tmp/cache" # nothing is remembered of a KVM that works

ok() { # STATUS NAME
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then echo "ok $count - $2"; else
        echo "not ok $count - $2"
        sed 's/^/# /' "$tmp/out"
    fi
}

machine() { # ENGINE...: the machine that ends itself with status 7; what it says is in $tmp/out
    rm -rf "$tmp/cache"
    hull run --kernel "$share/exit.img" --memory "${memory:-64M}" --net none --serial none --debug-exit --timeout 60 \
        --engine "$@" >"$tmp/out" 2>&1 </dev/null
    status=$?
}

lines() {
    wc -l <"$tmp/out"
}

# STATUS TEXT: that status, and one line with the text.
says() {
    [ $status -eq "$1" ] && [ "$(lines)" -eq 1 ] && grep -qF -- "$2" "$tmp/out"
}

both() { # NAME TEXT: in the way for both choices
    machine kvm
    says 1 "$2"
    ok $? "$1: --engine kvm: status $status, $(head -n 1 "$tmp/out")"
    machine auto
    says 7 "$2"
    ok $? "$1: auto: the machine runs, $(head -n 1 "$tmp/out")"
}

faulty() { # FAULT COMMAND...
    export KVM_FAULT="$1" LD_PRELOAD="$share/lib/kvm-fault.so"
    shift
    "$@"
    unset KVM_FAULT LD_PRELOAD
}

machine kvm
[ $status -eq 7 ] && [ "$(lines)" -eq 0 ]
ok $? "with nothing in the way it runs and says nothing: status $status"
faulty none machine kvm
[ $status -eq 7 ]
ok $? "and so it does through the library that changes nothing"
faulty version both "an older API" "too old: its version is 11, not 12"
faulty no-split both "no split irqchip" "no split irqchip: the kernel is too old (5.14 or later works)"
faulty old both "before 5.14" "the kernel is too old (5.14 or later works)"
faulty busy both "busy" "another hypervisor holds the processor's virtualization: end it"
if [ "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)" -gt 4500000 ]; then
    memory=4G # in two parts, around the hole below 4 GiB
    faulty slots machine kvm
    memory=
    says 1 "this host's KVM has 1 memory slots, the machine needs"
    ok $? "memory slots: status $status, $(head -n 1 "$tmp/out")"
fi
faulty vcpu machine kvm
[ $status -eq 1 ] && grep -q "Cannot allocate memory" "$tmp/out"
ok $? "no vCPU: status $status, $(head -n 1 "$tmp/out")"
faulty slow machine auto
says 7 "so it is a KVM in software"
ok $? "slow: auto: the machine runs, $(head -n 1 "$tmp/out")"

if [ "$HULL_OUTER" ]; then
    mv /dev/kvm /dev/kvm.away
    both "no device" "there is no /dev/kvm"
    mv /dev/kvm.away /dev/kvm

    as_nobody() {
        rm -rf "$tmp/cache"
        start-stop-daemon -S -c nobody -x "$share/bin/hull" -- run --kernel "$share/exit.img" --memory 64M --net none \
            --serial none --debug-exit --timeout 60 --engine "$1" >"$tmp/out" 2>&1 </dev/null
        status=$?
    }
    chmod 660 /dev/kvm
    mkdir -p /etc
    printf '%s\n' root:x:0:0::/root:/bin/sh nobody:x:65534:65534::/:/bin/sh >/etc/passwd
    as_nobody kvm
    says 1 "be in group kvm: usermod -aG kvm"
    ok $? "forbidden: --engine kvm: status $status, $(head -n 1 "$tmp/out")"
    as_nobody auto
    says 7 "be in group kvm: usermod -aG kvm"
    ok $? "forbidden: auto: the machine runs, $(head -n 1 "$tmp/out")"

    # With the machine gone that held it (l1.sh), the processor's SVM is taken. KVM looks at each processor that is
    # there; with one there is none to be confused by the kernel's patching of itself (hold.c).
    hold=$(pidof kvm-hold)
    cpu1=/sys/devices/system/cpu/cpu1/online
    [ ! -e $cpu1 ] || echo 0 >$cpu1
    kill $hold
    while kill -0 $hold 2>/dev/null && [ -e /proc/$hold/fd/0 ]; do usleep 100000; done
    if kvm-hold --other on 2>"$tmp/out"; then
        both "another hypervisor" "another hypervisor holds the processor's virtualization: end it"
        kvm-hold --other off
    else
        ok 1 "another hypervisor: $(cat "$tmp/out")"
    fi
    kvm-hold >/dev/null 9>&- &
    sleep 1
    [ ! -e $cpu1 ] || echo 1 >$cpu1
    machine kvm
    [ $status -eq 7 ]
    ok $? "and when it is gone, --engine kvm works: status $status"
fi
echo "1..$count"
