#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Block jobs under a Linux guest that writes and checks its disk all the time. What the guest means to have on its
disk, it keeps in memory too; in the end disk, memory and (by qemu-img) the images must agree.

Usage: blockjobs.py chain|mirror|backup      (needs HULL_BUILD)"""
import hashlib
import json
import os
import subprocess
import sys
import time
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
SIZE = 48 * MIB
# vdb's growth is the word to stop.
LOAD = '''
dd if=/dev/urandom of=/tmp/blob bs=1M count=4 2>/dev/null
dd if=/dev/vda of=/tmp/want bs=1M 2>/dev/null
stop=$(cat /sys/block/vdb/size)
n=0
echo "T: begin yes"
while [ $stop = "$(cat /sys/block/vdb/size)" ]; do
    n=$((n + 1))
    at=$(((n * 7919) % 766))
    for to in /dev/vda /tmp/want; do
        dd if=/tmp/blob of=$to bs=64k seek=$at skip=$((n % 60)) count=2 conv=notrunc,fsync 2>/dev/null || echo "T: broken write"
    done
    if [ $((n % 16)) = 0 ]; then
        echo 1 >/proc/sys/vm/drop_caches
        a=$(dd if=/dev/vda bs=64k skip=$at count=2 2>/dev/null | sha256sum)
        b=$(dd if=/tmp/want bs=64k skip=$at count=2 2>/dev/null | sha256sum)
        [ "$a" = "$b" ] || echo "T: broken disk at $at"
        echo "T: tick $n"
    fi
done
echo "T: rounds $n"
sync
echo 1 >/proc/sys/vm/drop_caches
echo "T: disk $(sha256sum </dev/vda)"
echo "T: want $(sha256sum </tmp/want)"
'''


def image(*args):
    return subprocess.run(['qemu-img', *map(str, args)], capture_output=True, text=True, check=False)


def raw_sum(path):
    """sha256 of the whole disk, as qemu-img reads it."""
    out = TMP / 'sum.raw'
    p = image('convert', '-U', '-O', 'raw', path, out)
    if p.returncode:
        print('#', p.stderr)
        return ''
    got = hashlib.sha256(out.read_bytes()).hexdigest()
    out.unlink()
    return got


class Guest:
    """The load, on a base image of random bytes."""

    def __init__(self, name):
        self.folder = kernel('cloud')
        self.base = TMP / f'{name}.qcow2'
        raw = TMP / f'{name}.raw'
        raw.write_bytes(os.urandom(8 * MIB))
        os.truncate(raw, SIZE)
        image('convert', '-O', 'qcow2', raw, self.base)
        signal = TMP / f'{name}.signal'
        signal.write_bytes(bytes(MIB))
        initrd = TMP / f'{name}.cpio'
        initramfs.build(initrd, self.folder, LOAD)
        self.m = Machine('--kernel', self.folder / 'vmlinuz', '--initrd', initrd, '--append', 'console=ttyS0 quiet', '--net',
                         'none', '--memory', '256M', '--timeout', '500', '--qmp', TMP / f'{name}.qmp', '--image-dir', TMP,
                         '--disk', f'{self.base},format=qcow2', '--disk', f'{signal},format=raw', '--quiet', name=name)
        self.q = Qmp(TMP / f'{name}.qmp', 60)
        self.q.call('qmp_capabilities')
        if not self.m.find('T: begin yes', 200):
            self.m.show()
        self.work()

    def work(self, rounds=1):
        """Waits until the guest has done more."""
        have = self.m.log.count('T: tick')
        end = time.monotonic() + 100
        while self.m.log.count('T: tick') < have + rounds and not self.m.over and time.monotonic() < end:
            time.sleep(0.05)

    def do(self, name, /, **arguments):
        got = self.q.call(name, **arguments)
        ok('return' in got, f'{name} {got.get("error", {}).get("desc", "")}')
        return got.get('return')

    def event(self, name, device='disk0'):
        e = self.q.event(name)
        data = (e or {}).get('data', {})
        ok(e and data.get('device') == device and 'error' not in data, f'{name} {data}')
        return data

    def chain(self):
        b = self.q.call('query-block')['return'][0]['inserted']['image']
        names = []
        while b:
            names.append(pathlib.Path(b['filename']).name)
            b = b.get('backing-image')
        return names

    def expect_chain(self, *names):
        got = self.chain()
        ok(got == [pathlib.Path(n).name for n in names], f'the chain is {got}')

    def end(self, path):
        """The guest ends; `path` is the disk."""
        self.work()
        self.q.call('block_resize', device='disk1', size=2 * MIB)
        want = self.m.value('want')
        disk = self.m.value('disk')
        if not ok(want and want == disk and 'broken' not in self.m.log, f'disk and memory agree ({self.m.value("rounds")} rounds)'):
            self.m.show()
        ok(self.m.status() == 0, 'the guest powers off')
        check = image('check', path)
        ok(check.returncode == 0, f'qemu-img check: {check.stdout.strip().splitlines()[:1]} {check.stderr.strip()}')
        ok(raw_sum(path) == (want or '').split()[0], 'qemu-img reads the same from the image')


def case_chain():
    g = Guest('chain')
    s1, s2, s3 = (TMP / f'chain.s{i}.qcow2' for i in (1, 2, 3))
    got = g.q.call('blockdev-snapshot-sync', device='disk9', **{'snapshot-file': str(s1)})
    ok(got.get('error', {}).get('class') == 'DeviceNotFound', f'a snapshot of no disk: {got}')
    got = g.q.call('blockdev-snapshot-sync', device='disk0', **{'snapshot-file': '/nowhere/x'})
    ok(got.get('error', {}).get('class') == 'GenericError', f'a snapshot in no folder: {got}')
    got = g.q.call('block-job-cancel', device='disk0')
    ok(got.get('error', {}).get('class') == 'DeviceNotActive', f'no job to cancel: {got}')
    for s in (s1, s2, s3):
        g.do('blockdev-snapshot-sync', device='disk0', **{'snapshot-file': str(s), 'format': 'qcow2'})
        g.work()
    frozen = raw_sum(s2)
    g.expect_chain(s3, s2, s1, g.base)
    g.do('block-commit', device='disk0', top=str(s2), base=str(g.base), **{'job-id': 'c1'})
    g.event('BLOCK_JOB_COMPLETED', 'c1')
    g.expect_chain(s3, g.base)
    ok(raw_sum(g.base) == frozen, 'the base has what the images above it had')
    g.work()
    g.do('blockdev-snapshot-sync', device='disk0', **{'snapshot-file': str(s1), 'format': 'qcow2'})
    g.work()
    g.do('block-stream', device='disk0', speed=16 * MIB)
    job = g.q.call('query-block-jobs')['return']
    ok(len(job) == 1 and job[0]['type'] == 'stream' and job[0]['speed'] == 16 * MIB and job[0]['status'] == 'running',
       f'query-block-jobs {job}')
    got = g.q.call('block-stream', device='disk0')
    ok('is busy: block device is in use by block job: stream' in got.get('error', {}).get('desc', '') or
       'already in use' in got.get('error', {}).get('desc', ''), f'one job for a disk {got}')
    g.do('block-job-pause', device='disk0')
    g.do('block-job-set-speed', device='disk0', speed=0)
    g.do('block-job-resume', device='disk0')
    g.event('BLOCK_JOB_COMPLETED')
    g.expect_chain(s1)
    g.do('blockdev-snapshot-sync', device='disk0', **{'snapshot-file': str(s2), 'format': 'qcow2'})
    g.work()
    g.do('block-stream', device='disk0', speed=MIB, **{'auto-dismiss': False, 'job-id': 'x'})
    g.do('block-job-cancel', device='x')
    g.event('BLOCK_JOB_CANCELLED', 'x')
    jobs = g.q.call('query-jobs')['return']
    ok(len(jobs) == 1 and jobs[0]['status'] == 'concluded' and 'error' in jobs[0], f'query-jobs {jobs}')
    g.do('job-dismiss', id='x')
    ok(g.q.call('query-jobs')['return'] == [], 'job-dismiss')
    g.expect_chain(s2, s1)
    g.end(s2)


def case_mirror():
    """To another file and there, back, into the chain, and not at all."""
    g = Guest('mirror')
    over, away, back = (TMP / f'mirror.{n}.qcow2' for n in ('over', 'away', 'back'))
    g.do('blockdev-snapshot-sync', device='disk0', **{'snapshot-file': str(over), 'format': 'qcow2'})
    g.work()
    g.do('block-commit', device='disk0', **{'job-id': 'c'})
    g.event('BLOCK_JOB_READY', 'c')
    g.work()
    got = g.q.call('query-block-jobs')['return']
    ok(len(got) == 1 and got[0]['ready'] and got[0]['type'] == 'commit', f'a commit of the active image is ready: {got}')
    g.do('block-job-complete', device='c')
    g.event('BLOCK_JOB_COMPLETED', 'c')
    g.expect_chain(g.base)
    g.work()
    for mode, target, name in (('background', away, 'm1'), ('write-blocking', back, 'm2')):
        g.do('drive-mirror', device='disk0', target=str(target), sync='full', format='qcow2',
             **{'job-id': name, 'copy-mode': mode})
        g.event('BLOCK_JOB_READY', name)
        g.work()
        g.do('block-job-complete', device=name)
        g.event('BLOCK_JOB_COMPLETED', name)
        g.expect_chain(target)
        g.work()
    copy = TMP / 'mirror.copy.raw'
    image('create', '-q', '-f', 'raw', copy, str(SIZE))
    g.do('blockdev-add', driver='raw', **{'node-name': 'copy', 'file': {'driver': 'file', 'filename': str(copy)}})
    got = g.q.call('blockdev-mirror', device='disk0', target='nothere', sync='full')
    ok('error' in got, f'no such target: {got}')
    g.do('blockdev-mirror', device='disk0', target='copy', sync='full')
    g.event('BLOCK_JOB_READY')
    g.do('stop')
    want = raw_sum_of(g)
    g.do('block-job-cancel', device='disk0')
    g.event('BLOCK_JOB_COMPLETED')
    g.do('cont')
    g.do('blockdev-del', **{'node-name': 'copy'})
    ok(hashlib.sha256(copy.read_bytes()).hexdigest() == want, 'a mirror that is cancelled when ready is a copy')
    g.expect_chain(back)
    names = [n['node-name'] for n in g.q.call('query-named-block-nodes')['return']]
    ok('copy' not in names, f'query-named-block-nodes {names}')
    g.end(back)


def raw_sum_of(g):
    """What a stopped guest's disk is: a stop flushes."""
    copy = TMP / 'now.qcow2'
    copy.write_bytes(pathlib.Path(g.q.call('query-block')['return'][0]['inserted']['file']).read_bytes())
    return raw_sum(copy)


def case_backup():
    """The disk as it was, while it is written; then only what has changed."""
    g = Guest('backup')
    full, inc, top = (TMP / f'backup.{n}.qcow2' for n in ('full', 'inc', 'top'))
    g.do('block-dirty-bitmap-add', node='disk0', name='b0')
    got = g.q.call('block-dirty-bitmap-add', node='disk0', name='b0')
    ok('already exists' in got.get('error', {}).get('desc', ''), f'a bitmap once only: {got}')
    g.do('stop')
    g.do('block-dirty-bitmap-clear', node='disk0', name='b0')
    want = raw_sum_of(g)
    g.do('drive-backup', device='disk0', target=str(full), sync='full', format='qcow2', speed=8 * MIB, **{'job-id': 'full'})
    g.do('cont')
    g.event('BLOCK_JOB_COMPLETED', 'full')
    ok(raw_sum(full) == want, 'a full backup under load is the disk as it was')
    g.work(2)
    image('create', '-q', '-f', 'qcow2', '-b', full, '-F', 'qcow2', inc)
    g.do('stop')
    want = raw_sum_of(g)
    g.do('blockdev-add', driver='qcow2', backing=None, **{'node-name': 't', 'file': {'driver': 'file', 'filename': str(inc)}})
    g.do('blockdev-backup', device='disk0', target='t', sync='incremental', bitmap='b0', **{'job-id': 'inc'})
    g.do('cont')
    done_ = g.event('BLOCK_JOB_COMPLETED', 'inc')
    ok(0 < done_['len'] < SIZE, f'it copies a part of the disk only ({done_["len"]})')
    g.do('blockdev-del', **{'node-name': 't'})
    ok(raw_sum(inc) == want, 'full and incremental backup together are the disk as it was')
    g.do('block-dirty-bitmap-remove', node='disk0', name='b0')
    g.do('drive-backup', device='disk0', target=str(top), sync='full', format='qcow2', speed=65536, **{'job-id': 'no'})
    g.work(2)
    g.do('block-job-cancel', device='no')
    e = g.q.event('BLOCK_JOB_CANCELLED')
    ok(e and e['data']['device'] == 'no', 'a backup is cancelled')
    g.end(g.base)


CASES = {'chain': case_chain, 'mirror': case_mirror, 'backup': case_backup}
if __name__ == '__main__':
    if kernel('cloud'):
        CASES[sys.argv[1]]()
    else:
        skip(sys.argv[1], 'no kernel package: apt has none in its cache and no network')
    done()
