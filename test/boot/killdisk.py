#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""kill -9 of a machine whose disk is a qcow2 image, while its guest writes and a block job may be under way: the image
opens, qemu-img finds no corruption (leaks are allowed), and every block that the guest had flushed is there.

Usage: killdisk.py [TRIES [SEED]]      (5 tries by default; needs HULL_BUILD and qemu-img)
The guest writes 4 KiB blocks all over the disk, each full of its number, and says a number only after fsync."""
import os
import random
import re
import signal
import subprocess
import sys
import time
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
BLOCK, BLOCKS, STEP = 4096, 16384, 7919
SCRIPT = f'''
i=1
while [ $i -lt {BLOCKS} ]; do
    yes $(printf %015d $i) 2>/dev/null | dd of=/dev/vda bs={BLOCK} seek=$((i * {STEP} % {BLOCKS})) count=1 iflag=fullblock conv=fsync,notrunc 2>/dev/null && echo "T: synced $i"
    i=$((i + 1))
done
'''
KINDS = ('plain', 'overlay', 'mirror', 'commit', 'stream')


def image(*args):
    return subprocess.run(['qemu-img', *map(str, args)], capture_output=True, text=True, check=False)


def make(kind):
    """The disk's image; a job finds 16 MiB to copy."""
    base, over, raw = TMP / 'base.qcow2', TMP / 'over.qcow2', TMP / 'base.raw'
    for old in TMP.glob('*.qcow2'):
        old.unlink()
    raw.write_bytes(os.urandom(16 * MIB))
    os.truncate(raw, BLOCK * BLOCKS)
    image('convert', '-O', 'qcow2', raw, base)
    if kind != 'overlay':
        return base
    image('create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', over)
    return over


def start_job(q, kind, disk):
    """Starts the job; the image that the disk then is, or None. The job's speed lets it meet the kill."""
    top = disk
    if kind in ('commit', 'stream'):
        top = TMP / 'top.qcow2'
        if 'return' not in q.call('blockdev-snapshot-sync', device='disk0', format='qcow2', **{'snapshot-file': str(top)}):
            return None
    if kind == 'mirror':
        got = q.call('drive-mirror', device='disk0', target=str(TMP / 'copy.qcow2'), format='qcow2', sync='full', speed=4 * MIB)
    elif kind == 'commit':
        time.sleep(1)
        got = q.call('block-commit', device='disk0', speed=MIB // 4)
    else:
        got = q.call('block-stream', device='disk0', speed=4 * MIB)
    return top if 'return' in got else None


def problems_of(disk, synced):
    check = image('check', disk)
    if check.returncode not in (0, 3): # 3: leaks only
        return [f'qemu-img check: {check.returncode} {check.stdout.strip()[:200]} {check.stderr.strip()[:200]}']
    raw = TMP / 'after.raw'
    read = image('convert', '-O', 'raw', disk, raw)
    if read.returncode:
        return [f'unreadable: {read.stderr.strip()}']
    wrong = []
    with open(raw, 'rb') as f:
        for n in range(1, synced + 1):
            f.seek(n * STEP % BLOCKS * BLOCK)
            if f.read(BLOCK) != f'{n:015d}\n'.encode() * (BLOCK // 16):
                wrong.append(n)
    return [f'{len(wrong)} of {synced} blocks are not there: {wrong[:5]}'] if wrong else []


def one_try(folder, initrd, kind, random_numbers):
    disk, qmp = make(kind), TMP / 'kill.qmp'
    qmp.unlink(missing_ok=True)
    m = Machine('--kernel', folder / 'vmlinuz', '--initrd', initrd, '--append', 'console=ttyS0 quiet', '--net', 'none',
                '--memory', '128M', '--qmp', qmp, '--image-dir', TMP, '--disk', f'{disk},format=qcow2', name=kind)
    problems = []
    q = None
    if not m.find(r'^T: synced', 120):
        problems.append('the guest does not write')
    elif kind not in ('plain', 'overlay'):
        q = Qmp(qmp, 60)
        q.call('qmp_capabilities')
        top = start_job(q, kind, disk)
        disk = top or disk
        if not top:
            problems.append(f'no {kind} job')
    time.sleep(random_numbers.random() * 2)
    pids = children(m.process.pid)
    if 'hull-vmm' in pids:
        os.kill(pids['hull-vmm'], signal.SIGKILL)
    else:
        problems.append('the machine ended before')
    m.status(20)
    numbers = re.findall(r'^T: synced (\d+)\n', m.log, re.M)
    synced = int(numbers[-1]) if numbers else 0
    problems += problems_of(disk, synced)
    if not ok(not problems, f'kill -9, {kind}: {synced} blocks synced {problems or ""}'):
        m.show(10)


def main():
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    folder = kernel('cloud')
    if not folder:
        skip('kill -9', 'no kernel package: apt has none in its cache and no network')
        done()
    print(f'# seed {seed}')
    random_numbers = random.Random(seed)
    initrd = TMP / 'kill.cpio'
    initramfs.build(initrd, folder, SCRIPT)
    for number in range(tries):
        one_try(folder, initrd, KINDS[number % len(KINDS)], random_numbers)
    done()


main()
