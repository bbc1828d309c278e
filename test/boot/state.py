#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest is saved in the middle of its work, and goes on wherever it is restored.

Usage: state.py work|layers|refuse      (needs HULL_BUILD)"""
import os
import shutil
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
# A round: memory is changed and checked, the disk is written through and read back, the host is asked over TCP.
WORK = '''
for i in lo eth0; do ifconfig $i up; done
udhcpc -i eth0 -n -q -f -s /dhcp >/dev/null 2>&1
dd if=/dev/urandom of=/tmp/blob bs=1M count=4 2>/dev/null
sum=$(sha256sum </tmp/blob)
(while :; do [ "$(sha256sum </tmp/blob)" = "$sum" ] || echo "T: broken memory"; usleep 100000; done) &
n=0
while :; do
    n=$((n + 1))
    dd if=/tmp/blob of=/dev/vda bs=64k seek=$((n % 64)) skip=$((n % 60)) count=1 conv=notrunc,fsync 2>/dev/null
    echo 1 >/proc/sys/vm/drop_caches
    a=$(dd if=/tmp/blob bs=64k skip=$((n % 60)) count=1 2>/dev/null | sha256sum)
    b=$(dd if=/dev/vda bs=64k skip=$((n % 64)) count=1 2>/dev/null | sha256sum)
    [ "$a" = "$b" ] || echo "T: broken disk"
    c=$(nc 10.0.2.2 $port </dev/null)
    [ "$c" = hello ] || echo "T: broken net $c"
    read up rest </proc/uptime
    echo "T: tick $n $up"
    usleep 50000
done
'''


class Greeter:
    """Says hello to everybody who connects."""

    def __init__(self):
        self.server = socket.create_server(('127.0.0.1', 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            c = self.server.accept()[0]
            with c:
                c.sendall(b'hello')


def ticks(m):
    return [(int(n), float(up)) for n, up in re.findall(r'^T: tick (\d+) ([\d.]+)\n', m.log, re.M)]


def wait_ticks(m, more, seconds=120):
    """Waits for that many more rounds; the number of the last one."""
    have = len(ticks(m))
    m.find(r'(T: tick \d+ [\d.]+\n(?:.*\n)*?){%d}' % (have + more), seconds)
    got = ticks(m)
    return got[-1][0] if len(got) >= have + more else None


def healthy(m, what):
    bad = m.complaints() + [line for line in m.log.splitlines() if 'broken' in line]
    if not ok(not bad, f'{m.name}: {what} {bad[:3] or ""}'):
        m.show()


def start(name, folder, cpus, greeter, *args):
    image, disk = TMP / f'{name}.cpio', TMP / f'{name}.disk'
    disk.write_bytes(os.urandom(8 * MIB))
    initramfs.build(image, folder, f'port={greeter.port}\n' + WORK, files={'dhcp': DHCP.encode()})
    return Machine('--kernel', folder / 'vmlinuz', '--initrd', image, '--cpus', cpus, '--memory', '256M', '--disk', disk,
                   '--append', 'console=ttyS0', '--net', 'user', '--qmp', TMP / f'{name}.qmp', *args, name=name)


def restore(name, folder, *args):
    return Machine(command=[HULL, 'restore', folder, *args], name=name)


def end(m):
    m.process.terminate()
    m.status(20)


def goes_on(m, last, rounds=3):
    """A restored machine's first round follows the last one before it was saved."""
    wait_ticks(m, rounds)
    got = ticks(m)
    ok(len(got) >= rounds and last < got[0][0] <= last + 2, f'{m.name}: goes on after round {last} ({got[:3]})')
    ok(all(b > a for (_, a), (_, b) in zip(got, got[1:])), f'{m.name}: its clock goes forward')
    healthy(m, 'no error in its log')


def save(name, folder, *args):
    code, _, err = run('snapshot', '--qmp', TMP / f'{name}.qmp', folder, *args, timeout=120)
    return ok(code == 0, f'{name}: saved to {folder.name} {err.strip()}')


def last_round(m, before):
    """The last round that the guest can have finished when it was saved: `before` was seen before that."""
    return max(n for n, _ in ticks(m)) if ticks(m) else before


def test_work():
    folder, greeter = kernel('cloud'), Greeter()
    if not folder:
        skip('snapshot of a working guest', "no kernel package: apt has none in its cache and no network")
        return
    for cpus in (2, 1):
        name = f'work{cpus}'
        m = start(name, folder, cpus, greeter)
        if not ok(wait_ticks(m, 3), f'{name}: the guest works'):
            m.show()
        before = ticks(m)[-1][0]
        save(name, TMP / f'{name}.s1', '--copy-disks')
        after = ticks(m)[-1][0] + 1
        ok(wait_ticks(m, 3), f'{name}: and goes on')
        healthy(m, 'no error in its log')
        q = Qmp(TMP / f'{name}.qmp')
        q.call('qmp_capabilities')
        q.call('stop') # this host may be slow
        for i in range(2):
            r = restore(f'{name}-again{i}', TMP / f'{name}.s1', '--temporary')
            wait_ticks(r, 3)
            got = ticks(r)
            ok(len(got) >= 3 and before < got[0][0] <= after, f'{r.name}: goes on after round {before} ({got[:3]})')
            ok(all(b > a for (_, a), (_, b) in zip(got, got[1:])), f'{r.name}: its clock goes forward')
            healthy(r, 'no error in its log')
            end(r)
        q.call('cont')
        ok(wait_ticks(m, 2), f'{name}: the first machine goes on after a stop')
        save(name, TMP / f'{name}.s2', '--stop')
        ok(m.status(20) == 0, f'{name}: --stop ends the machine')
        last = ticks(m)[-1][0]
        r = restore(f'{name}-last', TMP / f'{name}.s2')
        goes_on(r, last)
        end(r)
        code, _, err = run('restore', TMP / f'{name}.s2')
        ok(code == 1 and 'has changed since' in err, f'{name}: a snapshot whose disk has moved on is refused ({err.strip()})')


CASES = {'work': test_work}

for case in sys.argv[1:] or CASES:
    CASES[case]()
done()
