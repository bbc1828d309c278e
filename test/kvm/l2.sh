# SPDX-License-Identifier: MIT
# What the inner machine does before it powers off: a line for each device that works. On the kernel's command line:
# l2.tap: the network is a tap with 10.9.0.1 at its other end; l2.reboot: reboots once, as its disk remembers.
if grep -q l2=vhost /proc/cmdline; then
    . /vhost.sh
    return
fi
if grep -q l2=share /proc/cmdline; then
    mkdir /s
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 work /s && cd /s || return
    echo "l2: begin $(cat /proc/uptime)"
    echo "l2: in $(sha256sum <in)"
    cp in out2
    echo "l2: out $(sha256sum <out2)"
    mkdir many
    for half in 0 1; do
        (i=$half; while [ $i -lt 100 ]; do echo $i >many/$i; i=$((i + 2)); done) &
    done
    wait
    echo "l2: files $(ls many | wc -l) $(cat many/* | sort -n | sha256sum)"
    echo "l2: outside $(cat out 2>&1 | grep -c secret$)"
    echo "l2: finished $(cat /proc/uptime)"
    cd / && umount /s && echo "l2: end"
    return
fi
if grep -q l2=state /proc/cmdline; then
    # Rounds with memory, both processors and the clock; see state.sh.
    sum=$(head -c 200000 /proc/kallsyms | md5sum)
    head -c 200000 /proc/kallsyms >/tmp/data
    n=0
    while :; do
        n=$((n + 1))
        (md5sum </tmp/data >/tmp/other) &
        [ "$(md5sum </tmp/data)" = "$sum" ] || echo "l2: broken memory"
        wait
        [ "$(cat /tmp/other)" = "$sum" ] || echo "l2: broken memory of the other"
        sleep 0.1
        read -r up rest </proc/uptime
        echo "l2: round $n $up"
    done
fi
echo "l2: cpus $(grep -c ^processor /proc/cpuinfo)"
echo "l2: clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
trap 'echo "l2: signal"' USR1 # a signal's frame holds all vector state
kill -USR1 $$
if [ -e /dev/vda ]; then
    echo "written by the guest" | dd of=/dev/vda bs=512 count=1 conv=sync 2>/dev/null
    sync
    echo 3 >/proc/sys/vm/drop_caches
    echo "l2: disk $(dd if=/dev/vda bs=20 count=1 2>/dev/null)"
fi
asked() {
    grep -q "l2\.$1" /proc/cmdline
}

if asked tap; then
    ip addr add 10.9.0.2/24 dev eth0
    ip link set eth0 up
    for try in 1 2 3 4 5 6 7 8 9 10; do
        ping -c 1 -W 2 10.9.0.1 >/dev/null 2>&1 && echo "l2: ping" && break
    done
elif [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -i eth0 -n -q -t 5 -s /bin/true >/dev/null 2>&1 && echo "l2: network lease"
fi
[ ! -e /dev/hwrng ] || echo "l2: hwrng $(dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c)"
ls /sys/bus/virtio/drivers/virtio_balloon/ | grep -q ^virtio && echo "l2: balloon"
if asked reboot && [ "$(dd if=/dev/vda bs=512 skip=1 count=1 2>/dev/null | head -c 5)" != again ]; then
    echo again | dd of=/dev/vda bs=512 seek=1 count=1 conv=sync 2>/dev/null
    sync
    echo "l2: reboots"
    reboot -f
fi
sleep 1
awk '/LOC:|TLB:|RES:/ { print "l2: " $0 }' /proc/interrupts
echo "l2: end"
