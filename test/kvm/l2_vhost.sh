# SPDX-License-Identifier: MIT
# The inner machine's part of vhost.sh.
dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null
echo "l2: data $(sha256sum </tmp/data)"
transport=$(grep virtio_transport.ko /modules/order)
for round in 1 2; do
    ip addr add 10.9.0.2/24 dev eth0
    ip link set eth0 up
    until ping -c 1 -W 1 10.9.0.1 >/dev/null 2>&1; do usleep 200000; done
    echo "l2: queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
    echo "l2: round $round starts, up $(cut -d " " -f 1 /proc/uptime) s"
    until taskset 1 nc 10.9.0.1 700$round </tmp/data >/tmp/net 2>/dev/null; do usleep 200000; done & # each by its CPU's queue
    until taskset 2 nc 10.9.0.1 800$round </tmp/data >/tmp/net2 2>/dev/null; do usleep 200000; done
    wait
    echo "l2: round $round net $(sha256sum </tmp/net)"
    echo "l2: round $round net2 $(sha256sum </tmp/net2)"
    vsock-cat listen 500$round </tmp/data >/tmp/in
    echo "l2: round $round in $(sha256sum </tmp/in)"
    vsock-cat connect 900$round </tmp/data >/tmp/out
    echo "l2: round $round out $(sha256sum </tmp/out)"
    [ $round = 1 ] || break
    device=$(basename $(readlink /sys/class/net/eth0/device))
    echo $device >/sys/bus/virtio/drivers/virtio_net/unbind
    echo $device >/sys/bus/virtio/drivers/virtio_net/bind
    rmmod vmw_vsock_virtio_transport
    insmod /modules/$transport
done
grep virtio /proc/interrupts | sed 's/^/l2: /'
echo "l2: end, up $(cut -d " " -f 1 /proc/uptime) s"
