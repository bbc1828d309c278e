# SPDX-License-Identifier: MIT
"""How fast machines are saved, restored and cloned."""
import json
import os
import re
import resource
import shutil
import subprocess
import time
from machine import * # pylint: disable=wildcard-import,unused-wildcard-import

# "up", then dots for ever, each when the serial port takes it.
DOTS = b''.join(bytes([0xba, 0xf8, 0x03, 0, 0, 0xb0, c, 0xee]) for c in b'up\n') + bytes.fromhex(
    'bafd030000' 'ec' 'a820' '74f6' 'baf8030000' 'b02e' 'ee' 'ebf0')
CLONES = 100
QEMU = shutil.which('qemu-system-x86_64')


def first_byte(args):
    """Milliseconds from exec to the first byte that the guest says."""
    begin = time.monotonic()
    p = subprocess.Popen(list(map(str, args)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.stdout.read(1)
    took = time.monotonic() - begin
    p.terminate()
    p.communicate()
    return took * 1000


def save_hull(kernel_file, folder, *args):
    qmp = TMP / 'bench.qmp'
    m = Machine('--kernel', kernel_file, '--net', 'none', '--qmp', qmp, *args, name='bench')
    m.find('up|T: idle', 200)
    run('snapshot', '--qmp', qmp, folder, '--stop', timeout=200)
    m.status(30)


def save_qemu(kernel_file, state):
    args = [QEMU, '-M', 'q35', '-m', '1G', '-nographic', '-serial', 'stdio', '-nodefaults', '-kernel', kernel_file]
    monitor = TMP / 'qemu.qmp'
    p = subprocess.Popen([*map(str, args), '-qmp', f'unix:{monitor},server=on,wait=off'], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE)
    p.stdout.readline()
    q = Qmp(monitor)
    q.call('qmp_capabilities')
    q.call('stop')
    q.call('migrate', uri=f'exec:cat>{state}')
    while q.call('query-migrate')['return'].get('status') in ('setup', 'active'):
        time.sleep(0.1)
    p.kill()
    p.communicate()
    # Stopped when it was saved, and so when it is loaded: the loader is told to go on.
    return args


def incoming(args, state):
    """QEMU's counterpart of first_byte: it loads, then cont by QMP, as hull restore does by itself."""
    monitor = TMP / 'qemu-in.qmp'
    begin = time.monotonic()
    p = subprocess.Popen([*map(str, args), '-qmp', f'unix:{monitor},server=on,wait=off', '-incoming', f'exec:cat {state}'],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    q = Qmp(monitor)
    q.call('qmp_capabilities')
    while q.call('query-status')['return']['status'] == 'inmigrate':
        time.sleep(0.0005)
    q.call('cont')
    p.stdout.read(1)
    took = time.monotonic() - begin
    p.kill()
    p.communicate()
    return took * 1000


def with_faults(note, name, place, measure, *args):
    """Page faults are most of a start's work, and steady on a busy host."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    note(name, place, measure(*args), 'ms')
    note(name + '_faults', place, resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before, 'faults')


def bench_restore(o, note):
    guest, folder, state = multiboot_guest(DOTS), TMP / 'dots', TMP / 'dots.qemu'
    save_hull(guest, folder, '--memory', '1G')
    qemu = save_qemu(guest, state) if QEMU else None
    for _ in range(4 * o.runs):
        with_faults(note, 'restore_first_byte', 'hull', first_byte, [HULL, 'restore', folder])
        if qemu:
            with_faults(note, 'restore_first_byte', 'qemu', incoming, qemu, state)


def events(*args):
    p = subprocess.Popen([HULL, 'clone', *map(str, args), '--json'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return p, (json.loads(line) for line in p.stdout)


def bench_clones(note):
    """A process tree of 100 copies of a guest that sleeps: how long one takes, the first left out."""
    folder = TMP / 'sleeper'
    save_hull(multiboot_guest(HELLO), folder, '--memory', '1G')
    p, stream = events(folder, '--count', CLONES)
    at, running = [], 0
    for event in stream:
        if event['event'] == 'running':
            at.append(time.monotonic())
            running += 1
        if running == CLONES:
            break
    note('clone_each', 'hull', 1000 * (at[-1] - at[0]) / (CLONES - 1), 'ms')
    p.terminate()
    p.communicate()


def private_kib(pid):
    text = open(f'/proc/{pid}/smaps_rollup', encoding='ascii').read()
    return int(re.search(r'^Private_Dirty: +(\d+)', text, re.M)[1])


def bench_idle(note, kernel_folder):
    image, folder = TMP / 'idle.cpio', TMP / 'idle'
    initramfs.build(image, kernel_folder, 'echo "T: idle yes"\nsleep 1000\n')
    save_hull(kernel_folder / 'vmlinuz', folder, '--memory', '1G', '--initrd', image, '--append', 'console=ttyS0 quiet')
    p, stream = events(folder, '--count', 4)
    pids, running = [], 0
    for event in stream:
        pids += [event['pid']] if event['event'] == 'forked' else []
        running += event['event'] == 'running'
        if running == 4:
            break
    time.sleep(2)
    for pid in pids:
        note('clone_private', 'hull', private_kib(pid), 'KiB')
    p.terminate()
    p.communicate()


def bench_pause(o, note, kernel_folder):
    """A guest that changes 32 MiB all the time."""
    image, qmp = TMP / 'pause.cpio', TMP / 'pause.qmp'
    initramfs.build(image, kernel_folder, '''
    echo "T: busy yes"
    while :; do dd if=/dev/urandom of=/tmp/blob bs=1M count=32 conv=notrunc 2>/dev/null; done
    ''')
    m = Machine('--kernel', kernel_folder / 'vmlinuz', '--initrd', image, '--append', 'console=ttyS0 quiet', '--memory', '1G',
                '--net', 'none', '--qmp', qmp, name='pause')
    m.value('busy')
    last = None
    for i in range(o.runs + 1):
        time.sleep(1)
        args = ['--base', last] if last else []
        code, out, _ = run('snapshot', '--qmp', qmp, TMP / f'pause{i}', '--progress', 'json', *args, timeout=200)
        if code:
            break
        note('snapshot_pause_partial' if last else 'snapshot_pause', 'hull', json.loads(out.splitlines()[-1])['pause-us'] / 1000, 'ms')
        last = TMP / f'pause{i}'
    m.process.terminate()
    m.status(20)


def bench(o, note, report, kernel_folder):
    bench_restore(o, note)
    report()
    bench_clones(note)
    if kernel_folder:
        bench_pause(o, note, kernel_folder)
        bench_idle(note, kernel_folder)
    report()
