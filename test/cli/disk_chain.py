#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hull disk rebase, commit, snapshot, bitmap: random histories, with qemu-img as the oracle.
Usage: disk_chain.py [HISTORIES [SEED]]"""
import json
import os
import random
import signal
import subprocess
import sys
from tap import *

os.chdir(TMP)
COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 4
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1


def qemu(*args, status=0):
    p = subprocess.run(['qemu-img', *map(str, args)], capture_output=True, text=True, timeout=120, check=False)
    if p.returncode != status:
        print(f'# qemu-img {args}: {p.returncode} {p.stderr.strip()} {p.stdout.strip()}')
    return p


def disk(verb, *args):
    return run('disk', verb, '-f', 'qcow2', *args)  # a guess may not name other files


def good(*args):
    """hull disk does it without a word of complaint."""
    code, _, err = disk(*args)
    if code or err.strip():
        print(f'# hull disk {args}: {code} {err.strip()}')
    return code == 0


def image_info(name):
    return json.loads(qemu('info', '--output=json', name).stdout)


def bitmaps(name):
    return {b['name']: b for b in image_info(name).get('format-specific', {}).get('data', {}).get('bitmaps', [])}


def snapshots(name):
    return [s['name'] for s in image_info(name).get('snapshots', [])]


def io(name, *commands):
    args = ['qemu-io', '-f', 'qcow2']
    for c in commands:
        args += ['-c', c]
    return subprocess.run(args + [name], capture_output=True, timeout=120, check=False).returncode == 0


def write(r, name, size):
    commands = []
    for _ in range(r.randrange(1, 6)):
        n = 512 * r.randrange(1, 600)
        at = 512 * r.randrange(size // 512)
        n = min(n, size - at)
        commands.append(f'write -z {at} {n}' if r.randrange(4) == 0 else f'write -P {r.randrange(1, 255)} {at} {n}')
    return io(name, *commands)


def options(r):
    cluster = r.choice([512, 4096, 16384, 65536, 65536, 1 << 20])
    text = f'cluster_size={cluster}'
    if cluster >= 16384 and r.randrange(3) == 0:
        text += ',extended_l2=on'
    if r.randrange(6) == 0:
        text = 'compat=0.10'
    return text


def equal(a, b):
    """A shorter one may only lack zeroes, as qemu-img compare has it without -s."""
    return qemu('compare', '-f', 'qcow2', '-F', 'raw', a, b).returncode == 0


def content(name, copy):
    return qemu('convert', '-O', 'raw', name, copy).returncode == 0


def step(r, size, marks):
    """One change by hull; the disk `top` is to read as the raw file `want`, or as this makes it."""
    what = r.randrange(9)
    v3 = image_info('top')['format-specific']['data']['compat'] != '0.10'
    if what == 0:
        return 'rebase to other', good('rebase', '-b', 'other', '-F', 'qcow2', 'top')
    if what == 1:
        return 'rebase to base', good('rebase', '-b', 'base', '-F', 'qcow2', 'top')
    if what == 2:
        return 'flatten', good('rebase', '-b', '', 'top')
    if what == 3:
        if 'backing-filename' not in image_info('top') or os.path.basename(image_info('top')['backing-filename']) == 'other':
            return 'no commit', True
        return 'commit', good('commit', '-q', *r.choice([[], ['-d']]), 'top')
    if what == 4 and 's' not in snapshots('top'):
        return 'snapshot', good('snapshot', '-c', 's', 'top') and content('top', 'kept')
    if what == 5 and 's' in snapshots('top') and r.randrange(2):
        return 'back', ('backing-filename' in image_info('top') or good('snapshot', '-a', 's', 'top')) and \
            content('top', 'want')
    if what == 6 and 's' in snapshots('top'):
        return 'forget', good('snapshot', '-d', 's', 'top')
    if what == 7 and v3:
        if 'm' in marks:
            marks.clear()
            return 'no bitmap', good('bitmap', '--remove', 'top', 'm')
        marks.add('m')
        return 'bitmap', good('bitmap', '--add', '-g', str(r.choice([512, 65536])), 'top', 'm')
    return 'write', write(r, 'top', size) and content('top', 'want')


def history(seed):
    r = random.Random(seed)
    size = 512 * r.randrange(200, 8000)
    log, marks = [], set()
    for f in ('base', 'other', 'top', 'want'):
        if os.path.exists(f):
            os.unlink(f)
    ready = all(qemu('create', '-q', '-f', 'qcow2', '-o', options(r), f, s).returncode == 0 and write(r, f, s)
                for f, s in (('base', 512 * r.randrange(200, 8000)), ('other', 512 * r.randrange(200, 8000))))
    ready = ready and good('create', '-q', '-o', options(r), '-b', 'base', '-F', 'qcow2', 'top', str(size))
    fine = ready and content('top', 'want')
    for _ in range(8):
        if not fine:
            break
        name, done = step(r, size, marks)
        log.append(name)
        fine = done and qemu('check', '-q', 'top').returncode == 0 and equal('top', 'want') and \
            set(bitmaps('top')) == marks
    fine = fine and all(qemu('check', '-q', f).returncode == 0 for f in ('base', 'other'))
    if not fine:
        print(f'# seed {seed}: {log}')
    return fine


def test_bitmaps():
    qemu('create', '-q', '-f', 'qcow2', 'd', '8M')
    ok(good('bitmap', '--add', '--granularity', '4K', 'd', 'one') and bitmaps('d') ==
       {'one': {'name': 'one', 'flags': ['auto'], 'granularity': 4096}}, 'bitmap --add')
    ok(good('bitmap', '--add', '--disable', 'd', 'two') and bitmaps('d')['two']['flags'] == [], 'added, disabled')
    ok(io('d', 'write 1M 64k') and good('bitmap', '--merge', 'one', 'd', 'two') and good('bitmap', '--clear', 'd', 'one'),
       'merge and clear')
    qemu('create', '-q', '-f', 'qcow2', 'e', '8M')
    ok(good('bitmap', '--add', '--merge', 'two', '-b', 'd', '-F', 'qcow2', 'e', 'copy') and 'copy' in bitmaps('e'),
       'merged from another image')
    ok(all(qemu('check', f).returncode == 0 for f in ('d', 'e')), 'qemu-img agrees')
    for words, args in ((["'none' not found"], ['--clear', 'd', 'none']), (['already exists'], ['--add', 'd', 'one'])):
        code, _, err = disk('bitmap', *args)
        ok(code == 1 and all(w in err for w in words), err.strip())
    code, _, err = disk('bitmap', 'd', 'one')
    ok(code == 2 and '--add' in err, err.strip())


def test_snapshots():
    qemu('create', '-q', '-f', 'qcow2', 's', '8M')
    ok(good('snapshot', '-c', 'one', 's') and good('snapshot', '--create', 'two', 's') and snapshots('s') == ['one', 'two'],
       'snapshot -c')
    ok(run('disk', 'snapshot', '-l', 's')[1] == qemu('snapshot', '-l', 's').stdout, 'listed as by qemu-img')
    ours, theirs = json.loads(run('disk', 'snapshot', '--json', 's')[1]), image_info('s')['snapshots']
    ok(ours == theirs, 'the same in JSON')
    ok(good('snapshot', '-d', '1', 's') and snapshots('s') == ['two'], 'deleted by its number')
    code, _, err = run('disk', 'snapshot', '-a', 'none', 's')
    ok(code == 1, err.strip())


def test_commit():
    qemu('create', '-q', '-f', 'qcow2', 'a', '4M')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'a', '-F', 'qcow2', 'b')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'b', '-F', 'qcow2', 'c', '6M')
    ok(io('a', 'write -P 1 0 4M') and io('b', 'write -P 2 1M 1M') and io('c', 'write -P 3 5M 64k', 'write -z 0 64k') and
       content('c', 'was'), 'a chain of three')
    ok(good('commit', '-q', '--base', 'a', 'c') and equal('a', 'was') and equal('c', 'was'), 'commit to its base')
    ok(qemu('check', 'a').returncode == 0 and image_info('a')['virtual-size'] == 6 << 20, 'which grew')
    refused = disk('commit', '-b', 'nowhere', 'c')
    ok(refused[0] == 1 and 'not in its chain' in refused[2], refused[2].strip())
    refused = disk('rebase', '-b', 'c', '-F', 'qcow2', 'a')
    ok(refused[0] == 1 and 'meets itself' in refused[2], refused[2].strip())
    ok(good('rebase', '-u', '-b', 'gone', '-F', 'raw', 'c') and image_info('c')['backing-filename'] == 'gone',
       'rebase --unsafe only names')


def test_stopped():
    """Ctrl-C while an image is flattened: it stands on its backing file as before."""
    qemu('create', '-q', '-f', 'qcow2', 'big', '600M')
    io('big', 'write -P 5 0 600M')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'big', '-F', 'qcow2', 'over')
    p = subprocess.Popen([HULL, 'disk', 'rebase', '-f', 'qcow2', '-b', '', '--progress', 'json', 'over'], stdout=subprocess.PIPE, text=True)
    first = p.stdout.readline()
    p.send_signal(signal.SIGINT)
    out = first + p.communicate(timeout=60)[0]
    if p.returncode == 0:
        return ok(True, 'stopped # SKIP it was done before the signal came')
    ok(p.returncode == 130 and '"failed"' in out, f'stopped: {p.returncode}')
    ok(qemu('check', 'over').returncode == 0 and image_info('over')['backing-filename'] == 'big' and
       qemu('compare', 'over', 'big').returncode == 0, 'and it is whole')


def both(*args):
    """hull disk's answer and qemu-img's."""
    ours, theirs = run('disk', *args)[1], qemu(*args).stdout
    if ours != theirs:
        print(f'# {args}: {ours}# not {theirs}')
    return ours, theirs


def test_bitmap_info():
    """info, measure: what qemu-img says of bitmaps; options are done in their order."""
    qemu('create', '-q', '-f', 'qcow2', 'i', '1G')
    qemu('bitmap', '--add', '-g', '4096', '--disable', 'i', 'still')
    qemu('bitmap', '--add', 'i', 'a longer name')
    ours, theirs = both('info', 'i')
    ok(ours == theirs and 'bitmaps:' in ours, 'info lists bitmaps as qemu-img')
    ours, theirs = map(json.loads, both('info', '--output=json', 'i'))
    ok(ours == theirs and len(ours['format-specific']['data']['bitmaps']) == 2, 'info --json too')
    for o in ('cluster_size=64k', 'cluster_size=512', 'cluster_size=2M'):
        ours, theirs = both('measure', '-O', 'qcow2', '-o', o, 'i')
        ok(ours == theirs and 'bitmaps size: ' in ours, f'measure counts bitmaps, {o}')
    ok(good('bitmap', '--disable', '--enable', 'i', 'still') and bitmaps('i')['still']['flags'] == ['auto'] and
       good('bitmap', '--enable', '--disable', 'i', 'still') and bitmaps('i')['still']['flags'] == [], 'the last one holds')
    ok(good('bitmap', '--remove', '--add', '-g', '8k', 'i', 'still') and bitmaps('i')['still']['granularity'] == 8192,
       'removed, then added anew')
    for args in (('commit', 'i'), ('rebase', '-u', '-b', '', 'i'), ('bitmap', '--clear', 'i', 'still')):
        code, out, err = disk(args[0], '--json', *args[1:])
        ok(code == 2 and not out and '--json' in err, f'{args[0]} --json: {err.splitlines()[0]}')


test_bitmaps()
test_bitmap_info()
test_snapshots()
test_commit()
test_stopped()
right = sum(history(SEED + i) for i in range(COUNT))
ok(right == COUNT, f'histories of rebase, commit, snapshots, bitmaps: {right} of {COUNT}')
done()
