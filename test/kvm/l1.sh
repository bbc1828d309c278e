# SPDX-License-Identifier: MIT
# The outer machine's only program: takes the share, copies the programs out of it, runs the tests.
mkdir -p /host /tmp /dev/shm /dev/pts /lib64
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 host /host || exit 1
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
cp -r /host/bin /host/lib /tmp/
ln -s /tmp/lib/ld-linux-x86-64.so.2 /lib64/
export PATH=/tmp/bin:$PATH LD_LIBRARY_PATH=/tmp/lib
if [ -e /host/shell ]; then
    setsid cttyhack sh
    exit 0
fi
sh /host/inner.sh /host /host/out
echo "hull: script ended with $?"
