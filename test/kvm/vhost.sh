# SPDX-License-Identifier: MIT
# A machine whose network and vsock are the kernel's (vhost-net with two pairs of queues, vhost-vsock), and its peers on
# this side: 4 MiB each way over each, before and after the guest's drivers have let go of their devices and taken them
# again. Meanwhile the machine is paused and goes on, and the tap is down for a moment.
#
# Usage: vhost.sh SHARE TMP
share=$1 tmp=$2
dd if=/dev/urandom of="$tmp/data" bs=64k count=64 2>/dev/null
echo "l1: data $(sha256sum <"$tmp/data")"
hull run --engine kvm --kernel "$share/cloud" --initrd "$share/cloud.cpio.gz" --cpu x86-64-v2,-xsave --memory 256M \
    --cpus 2 --append "console=ttyS0 quiet panic=-1 l2=vhost" --timeout 400 --net tap,name=hull0,vhost=on,queues=2 --vsock 42 \
    --qmp "$tmp/q" >"$tmp/vhost" 2>&1 &
hull=$!
wait_for() { # in the machine's log
    while ! grep -q "$1" "$tmp/vhost"; do
        kill -0 $hull 2>/dev/null || return 1
        usleep 100000
    done
}
while [ ! -e /sys/class/net/hull0 ]; do
    kill -0 $hull 2>/dev/null || break
    usleep 100000
done
ip addr add 10.9.0.1/24 dev hull0
ip link set hull0 up
for round in 1 2; do
    nc -l -p 700$round <"$tmp/data" >"$tmp/net.$round" &
    net=$!
    nc -l -p 800$round <"$tmp/data" >"$tmp/net2.$round" &
    net2=$!
    if wait_for "round $round starts"; then
        pauses=0
        for n in 1 2 3 4 5; do
            kvm-qmp "$tmp/q" '{"execute":"stop"}' '{"execute":"query-status"}' | grep -q paused && pauses=$((pauses + 1))
            usleep 200000
            kvm-qmp "$tmp/q" '{"execute":"cont"}' >/dev/null
            usleep 200000
        done
        echo "l1: round $round: $pauses pauses"
        ip link set hull0 down
        sleep 1
        ip link set hull0 up
    fi
    vsock-cat listen 900$round <"$tmp/data" >"$tmp/out.$round" 2>/dev/null &
    out=$!
    wait_for "listens 500$round" && vsock-cat connect 500$round 42 <"$tmp/data" >"$tmp/in.$round"
    [ $round = 2 ] || echo "l1: $(cat /proc/[0-9]*/comm | grep -c ^vhost-) workers"
    wait_for "round $round out" || kill $net $net2 $out
    wait $net $net2 $out
    echo "l1: round $round net $(sha256sum <"$tmp/net.$round")"
    echo "l1: round $round net2 $(sha256sum <"$tmp/net2.$round")"
    echo "l1: round $round in $(sha256sum <"$tmp/in.$round")"
    echo "l1: round $round out $(sha256sum <"$tmp/out.$round")"
    [ $round = 2 ] || hull run --engine kvm --kernel "$share/cloud" --net none --vsock 42 --timeout 20 2>&1 |
        sed 's/^/l1: second: /'
done
wait $hull
echo "l1: status $?"
cat "$tmp/vhost"
