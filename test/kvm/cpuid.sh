# SPDX-License-Identifier: MIT
# The same --cpu gives the same CPUID on both engines of one host, but for the platform's leaves (doc/cpu.md).
# Prints TAP; runs in the outer machine.
#
# Usage: cpuid.sh CPUID_IMAGE
image=$1 count=0 failed=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

ok() { # STATUS NAME
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then echo "ok $count - $2"; else echo "not ok $count - $2"; failed=1; fi
}

leaves() { # ENGINE MODEL
    guest-run --engine "$1" --cpu "$2" "$image" >"$tmp/$1" 2>&1
    status=$?
    sed -n 's/^# cpuid //p' "$tmp/$1" >"$tmp/$1.leaves"
    # KVM offers the TSC page only where its own host counts time by the TSC, which QEMU's guest does not.
    if [ "$1" = kvm ] && [ "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" != tsc ]; then
        sed -i '/^not ok .* the TSC page is valid$/d; /^not ok .* it tells the counter.s time/d' "$tmp/kvm"
        grep -q '^1\.\.' "$tmp/kvm" && status=0 # all of it ran
    fi
    [ "$status" -eq 0 ] && ! grep '^not ok' "$tmp/$1"
    status=$?
    [ "$status" -eq 0 ] || grep -v '^# cpuid\|^ok' "$tmp/$1" | sed 's/^/# /'
    ok "$status" "$2 on $1"
}

for model in Nehalem Westmere Westmere,hyperv=on; do
    leaves soft "$model"
    leaves kvm "$model"
    # Hyper-V's rights are what each engine has of it.
    grep -v '^4000000[34] ' "$tmp/soft.leaves" >"$tmp/a"
    grep -v '^4000000[34] ' "$tmp/kvm.leaves" >"$tmp/b"
    [ -s "$tmp/a" ] && diff "$tmp/a" "$tmp/b" >"$tmp/diff"
    ok $? "$model: the same CPUID on both ($(wc -l <"$tmp/a") leaves)"
    sed 's/^/# /' "$tmp/diff"
done
for model in x86-64-v2,-xsave x86-64-v2,-xsave,hyperv=on host,-xsave; do
    leaves kvm "$model"
done
guest-run --engine kvm --cpu x86-64-v2,+xop,+tbm "$image" 2>"$tmp/err"
[ $? -eq 1 ] && grep -q "this host's KVM lacks" "$tmp/err"
ok $? "what this KVM lacks is named: $(cat "$tmp/err")"
guest-run --engine kvm --cpu host,-xsave,+svm "$image" >"$tmp/svm" 2>&1
ok $? "nested virtualization on request"
echo "1..$count"
exit $failed
