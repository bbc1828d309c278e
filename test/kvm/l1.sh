# SPDX-License-Identifier: MIT
# The outer machine's only program. All that it runs is in its initramfs under /share, results leave through a
# virtio-serial port: no file system is shared with the host that could keep it waiting.
echo "l1: modules loaded"
mkdir -p /dev/shm /dev/pts /lib64
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
ln -s /share/lib/ld-linux-x86-64.so.2 /lib64/
export HULL_OUTER=1 PATH=/share/bin:$PATH LD_LIBRARY_PATH=/share/lib
read -r suite </share/suite
if [ "$suite" = shell ]; then
    setsid cttyhack sh
    exit 0
fi
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -e /dev/vport0p1 ] || break
    sleep 1
done
[ -e /dev/vport0p1 ] || { echo "l1: no port for the results"; exit 1; }
kvm-hold & # see there
sleep 1
echo "l1: start"
sh /share/inner.sh /share /dev/vport0p1 "$suite"
echo "l1: script ended with $?"
