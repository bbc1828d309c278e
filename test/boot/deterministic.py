#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""--deterministic: Debian's cloud kernel booted several times is the same run each time, by the JIT and by the
interpreter in turns: their lock-step.

Usage: deterministic.py RUNS CPUS...       the cloud kernel and a small initramfs
       deterministic.py --disk RUNS        a Debian disk to its login prompt
For each number of CPUs: the serial output and a hash of the processor's state after every million nanoseconds of
virtual time (HULL_STATE_LOG) must be equal in all runs. Where they are not, two more runs find the very instruction."""
import os
import subprocess
import sys

sys.dont_write_bytecode = True
from machine import * # pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
import debian # pylint: disable=wrong-import-position

SCRIPT = '''cat /proc/uptime /proc/interrupts
date
head -c 16 /dev/urandom | od -x
sleep 5; cat /proc/uptime
(for i in 1 2 3 4 5 6; do dd if=/dev/zero bs=64k count=8 2>/dev/null | md5sum & done; wait)
'''


def engine(number):
    """Even runs by the JIT, odd ones by the interpreter."""
    return 'soft' if number % 2 == 0 else 'soft,jit=off'


def run_machine(args, number, log, every, first, until=None):
    """(exit status, serial output, states). `until`: ends the machine when its output has that."""
    text = b''
    log.unlink(missing_ok=True)
    with subprocess.Popen([HULL, 'run', '--deterministic', '--engine', engine(number), '--net', 'none', '--timeout', '900', *args],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, 'HULL_STATE_LOG': f'{log},{every},{first}'}) as p:
        while data := os.read(p.stdout.fileno(), 65536):
            text += data
            if until and until in text:
                p.terminate()
                until = None
        status = p.wait()
    return status, text, log.read_text().splitlines() if log.exists() else []


def boot_kernel(folder, image, cpus, number, every=1000000, first=0):
    args = ['--cpus', str(cpus), '--kernel', folder / 'vmlinux', '--initrd', image, '--append', 'console=ttyS0']
    return run_machine(args, number, TMP / f'states-{cpus}-{number % 2}', every, first)


def boot_disk(source, number, every=1000000, first=0):
    """To the login prompt: what comes behind it depends on when we end the machine."""
    disk = debian.copy(source)
    try:
        status, text, states = run_machine([disk, '--memory', '512M'], number, TMP / f'states-disk-{number % 2}', every, first,
                                           b'hull login: ')
    finally:
        disk.unlink()
    return status, text.partition(b'hull login: ')[0], states


def differ(a, b):
    """The number of the first line that differs; logs of machines that were ended may be of different length."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)


def find_instruction(again, number, states, at):
    """Smaller and smaller steps behind the last equal state."""
    for every in (1000, 1):
        first = int(states[at - 1].split()[2]) if at else 1
        a, b = again(0, every, first)[2], again(number, every, first)[2]
        at, states = differ(a, b), a
        if at is None:
            print(f'# not seen with states every {every} ns behind {first}')
            return
        print(f'# every {every} ns, last equal: {a[at - 1] if at else first}')
        print(f'#   {engine(0)}: {a[at]}')
        print(f'#   {engine(number)}: {b[at]}')


def compare(name, again, runs, whole):
    """`again` runs the machine. `whole`: it ends by itself, so that logs are of equal length."""
    _, text, states = again(0)
    good = ok(len(states) > 100, f'{name}: runs, {len(states)} states')
    if not good:
        print('#', text[-300:])
    same = 0
    for number in range(1, runs):
        _, text_again, more = again(number)
        at = differ(states, more)
        equal = at is None and text == text_again and (not whole or len(states) == len(more))
        same += equal
        if at is not None and good:
            print(f'# run {number} ({engine(number)}), states: {states[at]} and {more[at]}')
            find_instruction(again, number, states, at)
        elif not equal:
            print(f'# run {number}: serial output or length differs: {len(states)} and {len(more)} states')
        good &= equal
    ok(same == runs - 1, f'{name}: {same + 1} of {runs} runs are the same, JIT and interpreter in turns')


def kernels(runs, counts):
    folder = kernel('cloud')
    if not folder:
        skip('no kernel package')
        return
    image = TMP / 'deterministic.cpio'
    initramfs.build(image, folder, SCRIPT)
    for cpus in counts:
        compare(f'{cpus} CPUs', lambda *how, n=cpus: boot_kernel(folder, image, n, *how), runs, True)


def disks(runs):
    found = debian.image()
    if not ok(found, 'hull image build makes a Debian disk'):
        return
    compare('Debian disk', lambda *how: boot_disk(found[0], *how), runs, False)


def main():
    if sys.argv[1] == '--disk':
        disks(int(sys.argv[2]))
    else:
        kernels(int(sys.argv[1]), [int(n) for n in sys.argv[2:]])
    done()


main()
