#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's kernels boot, unmodified, and find a machine whose every device works; Multiboot kernels too.

Usage: boot.py cloud|elf|generic|end|multiboot      (needs HULL_BUILD; one case is about 10 s on an idle host)"""
import hashlib
import os
import socket
import sys
import threading
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
DHCP = '''#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet
route add default gw $router
'''
# One part a device. Times are the host's business: nothing here waits longer than it must.
DISK = '''
echo "T: serial $(cat /sys/block/vda/serial)"
echo "T: sum $(sha256sum </dev/vda)"
tr '\\0' W </dev/zero | dd of=/dev/vda bs=64k seek=64 count=16 iflag=fullblock conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo "T: back $(dd if=/dev/vda bs=64k skip=64 count=16 2>/dev/null | sha256sum)"
blkdiscard -o 6291456 -l 2097152 /dev/vda && echo "T: discard done"
'''
NET = '''
for i in lo eth0; do ifconfig $i up; done
udhcpc -i eth0 -n -q -f -s /dhcp >/dev/null 2>&1
echo "T: address $(ifconfig eth0 | sed -n 's/.*inet addr:\\([0-9.]*\\).*/\\1/p')"
echo "T: from-host $(nc 10.0.2.2 $port_from | sha256sum)"
dd if=/dev/vda bs=1M count=1 2>/dev/null | nc 10.0.2.2 $port_to
nc -l -p 7000 >/tmp/in &
while ! grep -q ':1B58 .* 0A ' /proc/net/tcp*; do usleep 20000; done
echo "T: listens yes"
wait $!
echo "T: forwarded $(sha256sum </tmp/in)"
'''
RNG = '''
echo "T: rng $(cat /sys/class/misc/hw_random/rng_current)"
echo "T: random $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | wc -c) $(dd if=/dev/hwrng bs=32 count=2 2>/dev/null | od -An -tx1 | sort -u | wc -l)"
'''
PORTS = '''
port=$(grep -l '^echo$' /sys/class/virtio-ports/*/name)
port=/dev/$(basename $(dirname $port))
echo "T: port $port"
exec 4<>$port
while ! read line <&4; do usleep 20000; done # the end of file until the host connects
echo "port $line" >&4
exec 5<>/dev/hvc0
stty raw -echo <&5
echo "T: hvc ready"
read line <&5
echo "hvc $line" >&5
'''
BALLOON = '''
# Free memory would tell too little: page reporting takes up to 128 MiB out of it for moments.
event() { sed -n "s/^$1 //p" /proc/vmstat; }
held_kb() { echo $((($(event balloon_inflate) - $(event balloon_deflate)) * 4)); }
echo "T: balloon ready"
for i in $(seq 3000); do [ $(held_kb) -gt 40000 ] && break; usleep 20000; done
echo "T: inflated $(held_kb)"
for i in $(seq 3000); do [ $(held_kb) -lt 10000 ] && break; usleep 20000; done
echo "T: deflated $(held_kb)"
'''
BUTTON = '''
event=$(grep -l 'Power Button' /sys/class/input/event*/device/name | head -n 1)
event=$(basename ${event%/device/name})
exec 6</dev/input/$event
echo "T: button $event"
dd bs=24 count=1 <&6 2>/dev/null | od -An -tu2 -j16 -N6
'''


def serve(handle):
    """A TCP server on a port of its own for one connection."""
    server = socket.create_server(('127.0.0.1', 0))

    def run():
        server.settimeout(120)
        try:
            connection = server.accept()[0]
            with connection:
                handle(connection)
        except OSError:
            pass
        server.close()

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()[1]


def read_all(connection):
    data = b''
    while got := connection.recv(65536):
        data += got
    return data


def sha(data):
    return hashlib.sha256(data).hexdigest() + '  -'


def boot(name, folder, file, cpus, script, *args, files=None, append='', memory='256M', cpu='x86-64-v2'):
    image = TMP / f'{name}.cpio'
    initramfs.build(image, folder, f'echo "T: online $(cat /sys/devices/system/cpu/online)"\n' + script, files=files)
    return Machine('--kernel', folder / file, '--initrd', image, '--cpus', cpus, '--memory', memory, '--timeout', '120',
                   '--append', f'console=ttyS0 {append}', '--cpu', cpu, *args, name=name)


def online(cpus):
    return f'0-{cpus - 1}' if cpus > 1 else '0'


def close(m, expected, what, clean=True):
    status = m.status()
    good = ok(status == expected, f'{m.name}: {what}: status {status}')
    if clean:
        bad = m.complaints()
        good = ok(not bad, f'{m.name}: a clean serial log {bad[:5] or ""}') and good
    if not good:
        m.show()


def check_disk(m, disk, before):
    m.expect('serial', 'D15K', "the disk's serial number")
    m.expect('sum', sha(before), 'the disk read by the guest is the disk')
    m.expect('back', sha(b'W' * MIB), 'what was written and flushed is read back')
    if m.expect('discard', 'done', 'discard'):
        after = disk.read_bytes()
        ok(after[4 * MIB:5 * MIB] == b'W' * MIB and after[:4 * MIB] == before[:4 * MIB], f'{m.name}: and is in the file')
        ok(disk.stat().st_blocks * 512 <= 6 * MIB + 65536, f'{m.name}: discard made the file smaller '
           f'({disk.stat().st_blocks * 512 >> 10} KiB)')


def check_net(m, payload, arrived, before, forward):
    m.expect('address', '10.0.2.15', 'DHCP')
    m.expect('from-host', sha(payload), '1 MiB by TCP from the host')
    if m.expect('listens', 'yes', 'a server in the guest'):
        with socket.create_connection(('127.0.0.1', forward), 10) as c:
            c.sendall(payload)
        m.expect('forwarded', sha(payload), '1 MiB in through a forward')
    ok(b''.join(arrived) == before[:MIB], f'{m.name}: 1 MiB by TCP to the host')


def read_line(s):
    data = b''
    while not data.endswith(b'\n') and (got := s.recv(100)):
        data += got
    return data.decode().strip()


def check_ports(m, port, console):
    for path, name, prefix in ((port, 'port', '/dev/vport'), (console, 'hvc', 'ready')):
        said = m.value(name)
        ok(said and said.startswith(prefix), f'{m.name}: {name} is there ({said})')
        if not said:
            continue
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(path))
            s.sendall(b'hello\n')
            answer = read_line(s)
        ok(answer == f'{name} hello', f'{m.name}: {name} echoes ({answer!r})')


def check_balloon(m, q):
    if not m.expect('balloon', 'ready', 'the balloon has a driver'):
        return
    q.call('balloon', value=192 * MIB)
    taken = int(m.value('inflated') or 0)
    ok(taken > 40000, f'{m.name}: the balloon takes memory from the guest ({taken} KiB)')
    ok(q.call('query-balloon')['return']['actual'] <= 216 * MIB, f'{m.name}: query-balloon says so')
    q.call('balloon', value=256 * MIB)
    left = int(m.value('deflated') or 99999)
    ok(left < 10000, f'{m.name}: and gives it back ({left} KiB short)')


def test_devices(name, folder, file, cpus, cpu):
    disk, qmp, port, console = (TMP / f'{name}.{x}' for x in ('disk', 'qmp', 'port', 'console'))
    before, payload, arrived, forward = os.urandom(8 * MIB), os.urandom(MIB), [], free_port()
    disk.write_bytes(before)
    port_from = serve(lambda c: c.sendall(payload))
    port_to = serve(lambda c: arrived.append(read_all(c)))
    script = f'port_from={port_from} port_to={port_to}' + DISK + NET + RNG + PORTS + BALLOON + BUTTON
    m = boot(name, folder, file, cpus, script, '--disk', f'{disk},serial=D15K', '--net', f'user,forward=tcp:{forward}:7000',
             '--qmp', qmp, '--port', f'echo,socket={port}', '--console', f'unix:{console}', files={'dhcp': DHCP.encode()},
             cpu=cpu)
    m.expect('online', online(cpus), f'{cpus} vCPUs online')
    check_disk(m, disk, before)
    check_net(m, payload, arrived, before, forward)
    m.expect('rng', 'virtio_rng.0', "the random number generator is the machine's")
    m.expect('random', '32 4', 'and gives numbers')
    check_ports(m, port, console)
    if m.process.poll() is None:
        q = Qmp(qmp)
        q.call('qmp_capabilities')
        check_balloon(m, q)
        ok(m.value('button'), f'{m.name}: a power button')
        q.call('system_powerdown')
        ok(m.find(r'^ +1 +116 +1\n'), f'{m.name}: system_powerdown presses it (KEY_POWER)')
    close(m, 0, 'powers off')


def test_kernel(name, kernel_name, file):
    folder = kernel(kernel_name)
    if not folder:
        skip(name, 'no kernel package: apt has none in its cache and no network')
        return
    test_devices(f'{name}-1', folder, file, 1, 'x86-64-v2')
    test_devices(f'{name}-2', folder, file, 2, 'x86-64-v3')


def test_end():
    folder = kernel('cloud')
    if not folder:
        skip('many vCPUs, reboot, panic', 'no kernel package: apt has none in its cache and no network')
        return
    m = boot('many', folder, 'vmlinuz', 8, 'echo "T: sum $(taskset 80 sha256sum /init | wc -l)"\n', '--net', 'none')
    m.expect('online', online(8), '8 vCPUs online')
    m.expect('sum', '1', 'the last of them works')
    close(m, 0, 'powers off')

    disk = TMP / 'count'
    disk.write_bytes(b'0' * 4096)
    script = '''n=$(head -c 1 /dev/vda)
    echo "T: boot $n"
    [ $n = 2 ] && return
    printf $((n + 1)) | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null
    reboot -f
    '''
    m = boot('reboot', folder, 'vmlinux', 2, script, '--net', 'none', '--disk', disk)
    found = [bool(m.find(rf'^T: boot {n}\n')) for n in range(3)]
    ok(all(found), f'reboot: the guest reboots twice from inside {found}')
    close(m, 0, 'then powers off')

    m = boot('panic', folder, 'vmlinuz', 1, 'echo c >/proc/sysrq-trigger\nsleep 60\n', '--net', 'none', '--exit-on-panic')
    close(m, 3, "--exit-on-panic when the guest's kernel panics", clean=False)
    ok('sysrq triggered crash' in m.log, 'panic: which it did')


def test_multiboot():
    xen, mach, cloud = kernel('xen'), kernel('mach'), kernel('cloud')
    if xen and cloud:
        m = Machine('--kernel', xen / 'xen', '--initrd', cloud / 'vmlinuz', '--append', 'com1=115200,8n1 console=com1',
                    '--net', 'none', '--memory', '512M', '--timeout', '60', name='xen')
        ok(m.find(r'Xen version 4\.17'), 'Xen greets')
        ok(m.find(r'Multiboot-e820 RAM map'), 'takes its memory map')
        ok(m.find(r'Dom0 kernel: 64-bit'), 'and finds a kernel in its module')
        m.process.terminate()
        m.status()
    else:
        skip('Xen', 'no package in apt\'s cache and no network')
    if mach:
        m = Machine('--kernel', mach / 'gnumach', '--append', 'console=com0', '--net', 'none', '--timeout', '60', name='mach')
        ok(m.find(r'^GNU Mach 1\.8'), 'GNU Mach greets')
        ok(m.find(r'No bootstrap code loaded with the kernel'), 'and asks for its modules')
        m.process.terminate()
        m.status()
    else:
        skip('GNU Mach', 'no package in apt\'s cache and no network')


CASES = {
    'cloud': lambda: test_kernel('cloud', 'cloud', 'vmlinuz'),
    'elf': lambda: test_kernel('elf', 'cloud', 'vmlinux'),
    'generic': lambda: test_kernel('generic', 'generic', 'vmlinuz'),
    'end': test_end,
    'multiboot': test_multiboot,
}

for case in sys.argv[1:] or CASES:
    CASES[case]()
done()
