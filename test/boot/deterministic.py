#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""--deterministic: Debian's cloud kernel booted several times is the same run each time.

Usage: deterministic.py RUNS CPUS...
For each number of CPUs: the serial output and a hash of the processor's state after every million nanoseconds of
virtual time (HULL_STATE_LOG) must be equal in all runs."""
import os
import subprocess
import sys

sys.dont_write_bytecode = True
from machine import * # pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import

SCRIPT = '''cat /proc/uptime /proc/interrupts
date
head -c 16 /dev/urandom | od -x
sleep 5; cat /proc/uptime
(for i in 1 2 3 4 5 6; do dd if=/dev/zero bs=64k count=8 2>/dev/null | md5sum & done; wait)
'''


def boot(folder, image, cpus, number):
    log = TMP / f'states-{cpus}-{number}'
    p = subprocess.run([HULL, 'run', '--deterministic', '--engine', 'soft', '--net', 'none', '--cpus', str(cpus), '--kernel',
                        folder / 'vmlinux', '--initrd', image, '--append', 'console=ttyS0', '--timeout', '300'],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                       env={**os.environ, 'HULL_STATE_LOG': f'{log},1000000'})
    return p.returncode, p.stdout, log.read_text() if log.exists() else ''


def first_difference(a, b):
    for x, y in zip(a.splitlines(), b.splitlines()):
        if x != y:
            return f'{x!r} and {y!r}'
    return 'one is longer'


def main():
    runs, counts = int(sys.argv[1]), [int(n) for n in sys.argv[2:]]
    folder = kernel('cloud')
    if not folder:
        skip('no kernel package')
        done()
        return
    image = TMP / 'deterministic.cpio'
    initramfs.build(image, folder, SCRIPT)
    for cpus in counts:
        status, text, states = boot(folder, image, cpus, 0)
        if not ok(status == 0 and len(states.splitlines()) > 100,
                  f'{cpus} CPUs: boots and powers off, {len(states.splitlines())} states'):
            print('#', text[-300:])
        same = True
        for number in range(1, runs):
            _, again, more = boot(folder, image, cpus, number)
            if states != more:
                print('# states:', first_difference(states, more))
            elif text != again:
                print('# serial:', first_difference(text.decode(errors='replace'), again.decode(errors='replace')))
            same &= text == again and states == more
        ok(same, f'{cpus} CPUs: {runs} runs are the same')
    done()


main()
