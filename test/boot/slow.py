#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""kill -9 at random times of hull, hull-vmm or hull-usernet while the guest writes to its disk: nothing stays
behind, the disk opens again at once, and what the guest was told is on the disk is there.

Usage: slow.py [TRIES [SEED]]      (100 tries by default; the seed is printed)
The guest writes 4 KiB blocks in order, each full of its number, and says a number only after fsync."""
import fcntl
import os
import random
import re
import signal
import sys
import time
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

BLOCK, BLOCKS = 4096, 4096
SCRIPT = f'''ifconfig lo up; ifconfig eth0 up
i=1
while [ $i -lt {BLOCKS} ]; do
    yes $(printf %015d $i) 2>/dev/null | dd of=/dev/vda bs={BLOCK} seek=$i count=1 iflag=fullblock conv=fsync,notrunc 2>/dev/null
    echo "T: synced $i"
    i=$((i + 1))
done
echo "T: full"
'''
VICTIMS = ('hull', 'hull-vmm', 'hull-usernet')


def block(number):
    return f'{number:015d}\n'.encode() * (BLOCK // 16)


def promised(log):
    """The last number whose whole line came out."""
    numbers = re.findall(r'^T: synced (\d+)\n', log, re.M)
    return int(numbers[-1]) if numbers else 0


def wrong_blocks(disk, count):
    with open(disk, 'rb') as f:
        return [n for n in range(1, count + 1) if f.seek(n * BLOCK) != n * BLOCK or f.read(BLOCK) != block(n)]


def free(disk):
    """No process holds a lock on the disk, and a machine opens it."""
    with open(disk, 'r+b') as f:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    code, _, err = run('run', '--kernel', multiboot_guest(EXIT_7), '--debug-exit', '--net', 'none', '--disk', disk)
    if code != 7:
        print('#', err.strip())
    return code == 7


def one_try(folder, image, number, random_numbers):
    disk, qmp = TMP / 'kill.disk', TMP / 'kill.qmp'
    with open(disk, 'wb') as f:
        f.truncate(BLOCK * BLOCKS)
    m = Machine('--kernel', folder / 'vmlinux', '--initrd', image, '--append', 'console=ttyS0 quiet', '--disk', disk,
                '--qmp', qmp, '--memory', '128M', name=f'try {number}')
    victim = VICTIMS[number % 3]
    # One in four dies in its first moments, the others while the guest writes.
    if random_numbers.random() < 0.25:
        time.sleep(random_numbers.random() * 0.5)
    elif m.find(r'^T: synced', 120):
        time.sleep(random_numbers.random() * 1.5)
    pids = children(m.process.pid)
    before = promised(m.log)
    target = m.process.pid if victim == 'hull' else pids.get(victim)
    if target:
        os.kill(target, signal.SIGKILL)
    problems = []
    if victim == 'hull-usernet' or not target: # the machine goes on without a network: it must still work
        if before and not m.find(rf'^T: synced {before + 2}\n|^T: full', 60):
            problems.append('the machine stopped with its network')
        os.kill(m.process.pid, signal.SIGTERM)
    m.status(20)
    if not gone([*pids.values(), m.process.pid]):
        problems.append(f'left running: {[n for n, p in pids.items() if alive(p)]}')
    if victim != 'hull' and qmp.exists():
        problems.append('its socket stays')
    synced = promised(m.log)
    wrong = wrong_blocks(disk, synced)
    if wrong:
        problems.append(f'{len(wrong)} of {synced} blocks that were synced are not there: {wrong[:5]}')
    if not free(disk):
        problems.append('the disk is locked')
    ok(not problems, f'kill -9 of {victim}, {synced} blocks synced {problems or ""}')
    if problems:
        m.show(10)


def main():
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    folder = kernel('cloud')
    if not folder:
        skip('kill -9', 'no kernel package: apt has none in its cache and no network')
        done()
    print(f'# seed {seed}')
    random_numbers = random.Random(seed)
    image = TMP / 'kill.cpio'
    initramfs.build(image, folder, SCRIPT)
    for number in range(tries):
        one_try(folder, image, number, random_numbers)
    done()


main()
