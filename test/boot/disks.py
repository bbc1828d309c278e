#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest works on its disk while the host changes what is below: errors, limits, size.

Usage: disks.py errors|limits      (needs HULL_BUILD; errors needs root: it mounts a tmpfs)"""
import os
import subprocess
import sys
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
# Writes 12 MiB of random bytes, durably, then what is there is compared with what was meant.
FILL = '''
dd if=/dev/urandom of=/tmp/blob bs=1M count=12 2>/dev/null
echo "T: begin yes"
dd if=/tmp/blob of=/dev/vda bs=256k conv=notrunc,fsync 2>/tmp/err
echo "T: wrote $?"
echo 1 >/proc/sys/vm/drop_caches
a=$(sha256sum </tmp/blob)
b=$(dd if=/dev/vda bs=1M count=12 2>/dev/null | sha256sum)
[ "$a" = "$b" ] && echo "T: same yes" || echo "T: same no"
'''
LIMITS = '''
while [ "$(cat /sys/block/vda/size)" = 65536 ]; do usleep 50000; done
echo "T: size $(cat /sys/block/vda/size)"
s=$(cut -d ' ' -f 1 /proc/uptime)
dd if=/dev/zero of=/dev/vda bs=64k count=32 conv=notrunc oflag=direct 2>/dev/null
e=$(cut -d ' ' -f 1 /proc/uptime)
echo "T: slow $s $e"
'''


def guest(name, script, *args, **more):
    folder = kernel('cloud')
    if not folder:
        return None, None
    initrd = TMP / f'{name}.cpio'
    initramfs.build(initrd, folder, script)
    qmp = TMP / f'{name}.qmp'
    m = Machine('--kernel', folder / 'vmlinuz', '--initrd', initrd, '--append', 'console=ttyS0 quiet', '--net', 'none',
                '--memory', '192M', '--timeout', '300', '--qmp', qmp, *args, name=name, **more)
    q = Qmp(qmp, 60)
    q.call('qmp_capabilities')
    return m, q


class Tiny:
    """A file system of so many bytes."""

    def __init__(self, size):
        self.path = TMP / 'tiny'
        self.path.mkdir()
        self.mounted = not subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tiny', self.path], check=False,
                                          capture_output=True).returncode

    def close(self):
        if self.mounted:
            subprocess.run(['umount', self.path], check=False)


def case_errors():
    """The host's file system is full: the guest waits, space is made, it goes on and nothing is lost."""
    tiny = Tiny(8 * MIB)
    if not tiny.mounted:
        skip('errors', 'cannot mount a tmpfs')
        return
    try:
        disk = tiny.path / 'd.qcow2'
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', disk, '64M'], check=True)
        (tiny.path / 'ballast').write_bytes(bytes(2 * MIB))
        m, q = guest('errors', FILL, '--disk', f'{disk},format=qcow2')
        if not m:
            skip('errors', 'no kernel')
            return
        e = q.event('BLOCK_IO_ERROR')
        data = e and e['data']
        ok(data and data['device'] == 'disk0' and data['operation'] == 'write' and data['action'] == 'stop' and
           data['nospace'], f'no space: BLOCK_IO_ERROR {data}')
        if not ok(q.event('STOP'), 'the machine stops'):
            m.show()
        got = q.call('query-status')['return']
        ok(got['status'] == 'io-error' and not got['running'], f'its status is io-error ({got})')
        ok(q.call('query-block')['return'][0]['io-status'] == 'nospace', 'io-status: nospace')
        q.call('cont')
        ok(q.event('RESUME') and q.event('BLOCK_IO_ERROR') and q.event('STOP'), 'cont without space: the same once more')
        (tiny.path / 'ballast').unlink()
        subprocess.run(['mount', '-o', f'remount,size={40 * MIB}', tiny.path], check=True)
        q.call('cont')
        ok(q.event('RESUME'), 'space is made and it goes on')
        ok(q.call('query-block')['return'][0]['io-status'] == 'ok', 'io-status: ok')
        m.expect('wrote', '0', 'the guest saw no error')
        m.expect('same', 'yes', 'and all that it wrote is there')
        ok(m.status() == 0, 'the guest powers off')
        check = subprocess.run(['qemu-img', 'check', disk], capture_output=True, text=True, check=False)
        ok(check.returncode == 0, f'qemu-img check: {check.stdout.strip()}')

        disk.unlink()
        subprocess.run(['mount', '-o', f'remount,size={8 * MIB}', tiny.path], check=True)
        raw = tiny.path / 'd.raw'
        subprocess.run(['truncate', '-s', '64M', raw], check=True)
        m, q = guest('report', FILL, '--disk', f'{raw},format=raw,werror=report')
        e = q.event('BLOCK_IO_ERROR')
        ok(e and e['data']['action'] == 'report', 'werror=report tells the guest')
        m.expect('wrote', '1', 'whose dd fails')
        ok(m.status() == 0, 'and the machine goes on to its end')
    finally:
        tiny.close()


def case_limits():
    """block_resize is seen, limits hold and go away."""
    disk = TMP / 'limits.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', disk, '32M'], check=True)
    m, q = guest('limits', LIMITS, '--disk', f'{disk},format=qcow2,iops_wr=8')
    if not m:
        skip('limits', 'no kernel')
        return
    inserted = q.call('query-block')['return'][0]['inserted']
    ok(inserted['iops_wr'] == 8 and inserted['bps'] == 0, '--disk iops_wr=8 is in query-block')
    m.find('T: init', 120)
    got = q.call('block_resize', device='disk1', size=48 * MIB)
    ok('error' in got and got['error']['class'] == 'DeviceNotFound', f'block_resize of no disk: {got}')
    got = q.call('block_resize', device='disk0', size=48 * MIB)
    ok(got.get('return') == {}, f'block_resize: {got}')
    m.expect('size', str(48 * MIB // 512), 'the guest sees the new size')
    slow = m.value('slow')
    took = [float(x) for x in (slow or '0 0').split()]
    ok(3 <= took[1] - took[0] <= 30, f'32 writes at 8 a second take about 4 s ({took[1] - took[0]:.1f})')
    got = q.call('block_set_io_throttle', device='disk0', bps=1000, bps_rd=10, bps_wr=0, iops=0, iops_rd=0, iops_wr=0)
    ok('error' in got, f'total and read limits exclude each other: {got}')
    m.status()
    got = subprocess.run(['qemu-img', 'info', '--output=json', disk], capture_output=True, text=True, check=False).stdout
    ok(f'"virtual-size": {48 * MIB}' in got, 'the image has the new size')


CASES = {'errors': case_errors, 'limits': case_limits}
if __name__ == '__main__':
    CASES[sys.argv[1]]()
    done()
