#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hull disk, with qemu-img as the oracle: what one makes the other reads, and both say the same of it."""
import json
import os
import pathlib
import random
import signal
import subprocess
import time
from tap import *

os.chdir(TMP)


def qemu(*args, status=0):
    p = subprocess.run(['qemu-img', *map(str, args)], capture_output=True, text=True, timeout=120, check=False)
    if status is not None and p.returncode != status:
        print(f'# qemu-img {args}: {p.returncode} {p.stderr.strip()}')
    return p


def disk(*args, **more):
    return run('disk', *args, **more)


def same(name, *args):
    """hull and qemu-img give the same JSON."""
    code, out, err = disk(*args, '--output=json')
    p = qemu(*args, '--output=json', status=code)
    try:
        ours, theirs = json.loads(out), json.loads(p.stdout)
    except json.JSONDecodeError:
        return ok(False, f'{name}: {out!r} {err!r} {p.stdout!r} {p.stderr!r}')
    good = ours == theirs and code == p.returncode
    return ok(good, name if good else f'{name}: hull {ours} ({code}) qemu-img {theirs} ({p.returncode})')


def refused(name, status, words, *args):
    code, out, err = disk(*args)
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith('Try: ')]
    good = code == status and all(w in err for w in words) and len(lines) == 1 and out == ''
    ok(good, f'{name}: {err.strip() or out!r} ({code})')


def virtual_size(name):
    return json.loads(qemu('info', '--output=json', name).stdout)['virtual-size']


# ---- create and info ----

CREATES = [
    ('plain', []),
    ('small clusters', ['-o', 'cluster_size=512']),
    ('large clusters', ['-o', 'cluster_size=2M']),
    ('version 2', ['-o', 'compat=0.10']),
    ('v3 lazy zstd', ['-o', 'compat=v3,lazy_refcounts=on', '-o', 'compression_type=zstd']),
    ('subclusters', ['-oextended_l2=on,cluster_size=128k']),
    ('narrow refcounts', ['-o', 'refcount_bits=1']),
    ('wide refcounts', ['-o', 'refcount_bits=64']),
]


def test_create():
    for name, options in CREATES:
        code, _, err = disk('create', '-f', 'qcow2', *options, 'h.qcow2', '100M')
        ok(code == 0 and qemu('check', 'h.qcow2').returncode == 0 and virtual_size('h.qcow2') == 100 << 20,
           f'create {name}: {err.strip()}')
        same(f'info of it: {name}', 'info', 'h.qcow2')
        qemu('create', '-f', 'qcow2', *options, 'q.qcow2', '100M')
        same(f"info of qemu-img's: {name}", 'info', 'q.qcow2')
    disk('create', 'by-name.qcow2', '1G')
    same('the format comes from the name', 'info', 'by-name.qcow2')
    code, _, _ = disk('create', '-fraw', 'r.img', '1000')
    ok(code == 0 and os.path.getsize('r.img') == 1024, 'sizes are rounded up to sectors, as by qemu-img')
    same('info of a raw image', 'info', '-f', 'raw', 'r.img')
    code, _, err = disk('create', '-f', 'qcow2', '-o', 'data_file=ext.raw,data_file_raw=on', 'ext.qcow2', '8M')
    ok(code == 0, f'an external data file {err.strip()}')
    same('info of it', 'info', 'ext.qcow2')


def test_chain():
    qemu('create', '-f', 'qcow2', 'base.qcow2', '64M')
    os.makedirs('sub', exist_ok=True)
    code, _, err = disk('create', '-b', '../base.qcow2', '-F', 'qcow2', 'sub/mid.qcow2')
    ok(code == 0 and virtual_size('sub/mid.qcow2') == 64 << 20, f'an overlay has its backing file\'s size {err}')
    code, _, err = disk('create', '--backing', 'sub/mid.qcow2', 'top.qcow2', '128M')
    ok(code == 0, f'long options {err}')
    qemu('snapshot', '-c', 'one', 'top.qcow2')
    same('info', 'info', 'top.qcow2')
    same('info --backing-chain', 'info', '--backing-chain', 'top.qcow2')
    ok(disk('info', 'top.qcow2')[1] == qemu('info', 'top.qcow2').stdout, 'info in words is the same too')
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'loop2.qcow2', '-F', 'qcow2', 'loop1.qcow2', '1M')
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'loop1.qcow2', '-F', 'qcow2', 'loop2.qcow2', '1M')
    refused('a chain in a circle', 1, ['loop1.qcow2', 'meets itself'], 'info', '--json', '--backing-chain',
            'loop1.qcow2')
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'gone.qcow2', '-F', 'qcow2', 'orphan.qcow2', '1M')
    same('info of an image without its backing file', 'info', 'orphan.qcow2')


def test_create_refused():
    refused('no size', 2, ['x.img', 'size'], 'create', 'x.img')
    refused('no such verb', 2, ['crate', 'create'], 'crate')
    refused('no such option', 2, ['--formt', '--format'], 'create', '--formt', 'raw', 'x.img', '1M')
    refused('no such key', 2, ['cluster_siz', 'cluster_size'], 'create', '-f', 'qcow2', '-o', 'cluster_siz=4k', 'x', '1M')
    refused('a size in words', 2, ['much'], 'create', 'x.img', 'much')
    refused('a cluster size of 100', 1, ['x.qcow2', '100', 'power of two'], 'create', '-o', 'cluster_size=100', 'x.qcow2', '1M')
    refused('a missing backing file', 1, ['x.qcow2', 'none.qcow2'], 'create', '-b', 'none.qcow2', '-F', 'qcow2', 'x.qcow2')
    refused('a folder that is not there', 1, ['no/x.qcow2'], 'create', 'no/x.qcow2', '1M')
    refused('an unknown format', 2, ['vmdk'], 'create', '-f', 'vmdk', 'x', '1M')
    refused('no file', 1, ['nothing.img'], 'info', 'nothing.img')
    ok(not any(os.path.exists(f) for f in ('x', 'x.img', 'x.qcow2')), 'and nothing is left behind')


# ---- preallocation, resize ----

def test_preallocation():
    for mode in ('metadata', 'falloc', 'full'):
        for extra in ('', ',cluster_size=4k', ',extended_l2=on', ',compat=0.10'):
            code, _, err = disk('create', '-f', 'qcow2', '-o', f'preallocation={mode}{extra}', 'p.qcow2', '10M')
            ok(code == 0 and qemu('check', 'p.qcow2').returncode == 0, f'preallocation={mode}{extra} {err.strip()}')
            qemu('create', '-f', 'qcow2', '-o', f'preallocation={mode}{extra}', 'q.qcow2', '10M')
            ok(qemu('compare', 'p.qcow2', 'q.qcow2').returncode == 0, 'and it reads as zeroes')
            used, theirs = os.stat('p.qcow2').st_blocks, os.stat('q.qcow2').st_blocks
            ok(used >= 20480 if mode != 'metadata' else used < 4096, f'it takes {used} sectors (qemu-img: {theirs})')
    code, _, _ = disk('create', '--preallocation', 'falloc', 'p.raw', '5M')
    ok(code == 0 and os.stat('p.raw').st_blocks >= 10240, 'a raw image too')


def test_resize():
    qemu('create', '-f', 'qcow2', 'r.qcow2', '64M')
    subprocess.run(['qemu-io', '-c', 'write -P 7 0 64M', 'r.qcow2'], check=True, capture_output=True)
    code, out, err = disk('resize', 'r.qcow2', '+36M')
    ok(code == 0 and virtual_size('r.qcow2') == 100 << 20, f'grown {out}{err}')
    refused('shrinking needs a word', 1, ['r.qcow2', '--shrink'], 'resize', 'r.qcow2', '50M')
    code, _, err = disk('resize', '--shrink', 'r.qcow2', '-70M')
    ok(code == 0 and virtual_size('r.qcow2') == 30 << 20 and qemu('check', 'r.qcow2').returncode == 0, f'shrunk {err}')
    code, _, err = disk('resize', '-f', 'qcow2', '--preallocation=full', 'r.qcow2', '40M')
    ok(code == 0 and os.stat('r.qcow2').st_blocks >= 80 << 10 and qemu('check', 'r.qcow2').returncode == 0,
       f'grown with preallocation {err}')
    p = subprocess.run(['qemu-io', '-r', '-c', 'read -P 7 0 30M', '-c', 'read -P 0 30M 10M', 'r.qcow2'],
                       capture_output=True, text=True, check=False)
    ok(p.returncode == 0 and 'verification failed' not in p.stdout, f'and what was kept is there: {p.stdout!r}')
    disk('create', 'r.raw', '1M')
    code, _, _ = disk('resize', '-f', 'raw', 'r.raw', '3M')
    ok(code == 0 and os.path.getsize('r.raw') == 3 << 20, 'a raw image')
    refused('a size in words', 2, ['lots'], 'resize', 'r.raw', 'lots')
    refused('less than nothing', 2, ['-9G'], 'resize', '--shrink', 'r.raw', '-9G')


# ---- convert, compare, map, measure ----

def make_source(name, mib, rng):
    """Data, text, zeroes and holes at all kinds of offsets."""
    with open(name, 'wb') as f:
        f.truncate(mib << 20)
        for _ in range(60):
            length = rng.choice([512, 4096, 5000, 65536, 300000])
            f.seek(rng.randrange((mib << 20) - length) & ~511)
            f.write(rng.choice([rng.randbytes(length), b'\0' * length, (b'hull %d ' % rng.randrange(99)) * (length // 8)]))


TARGETS = [
    ('raw', []), ('qcow2', []), ('qcow2', ['-c']), ('qcow2', ['-c', '-o', 'compression_type=zstd']),
    ('qcow2', ['-o', 'cluster_size=512']), ('qcow2', ['-c', '-o', 'cluster_size=4k,refcount_bits=1']),
    ('qcow2', ['-o', 'extended_l2=on']), ('qcow2', ['-c', '-o', 'extended_l2=on,cluster_size=2M']),
    ('qcow2', ['-o', 'compat=0.10,cluster_size=1M']), ('qcow2', ['-o', 'data_file=cv.data']),
    ('qcow2', ['-o', 'preallocation=metadata']), ('qcow2', ['-o', 'preallocation=falloc,extended_l2=on']),
    ('raw', ['-S', '0']), ('qcow2', ['-S0']), ('raw', ['-S', '64k', '-m', '1']), ('raw', ['-o', 'preallocation=full']),
]


def test_convert():
    rng = random.Random(11)
    make_source('src.raw', 20, rng)
    with open('src.raw', 'ab') as f: # no whole number of clusters
        f.write(b'the end'.ljust(1536, b'.'))
    source = 'src.raw'
    for number, (fmt, options) in enumerate(TARGETS):
        name = f'cv{number}.{fmt}'
        code, _, err = disk('convert', '-O', fmt, *options, source, name)
        good = code == 0 and qemu('compare', source, name).returncode == 0
        good = good and (fmt == 'raw' or qemu('check', name).returncode == 0)
        ok(good, f'{source} to {fmt} {options} {err.strip()}')
        code, out, err = disk('compare', source, name)
        ok(code == 0 and out == 'Images are identical.\n', f'hull compares them too {out}{err}')
        if fmt == 'qcow2' and 'data_file' not in str(options):
            same('check of it', 'check', name)
            if '=metadata' not in str(options): # qemu-img looks for holes below those
                same('map of it', 'map', name)
            source = name # the next copy is from this one
    for number, (fmt, options) in enumerate(TARGETS[:10]):
        qemu('convert', '-O', fmt, *options, 'src.raw', 'theirs')
        code, _, err = disk('convert', '-f', fmt, '-O', 'raw', 'theirs', 'back.raw')
        ok(code == 0 and pathlib.Path('back.raw').read_bytes() == pathlib.Path('src.raw').read_bytes(),
           f"from qemu-img's {fmt} {options} {err.strip()}")
    ok(not [f for f in os.listdir('.') if f.endswith('.part')], 'no .part is left')
    disk('convert', 'src.raw', 'one.qcow2')
    disk('convert', '-m', '7', 'src.raw', 'two.qcow2')
    for f in pathlib.Path('.').glob('cv*'):
        f.unlink()
    ok(pathlib.Path('one.qcow2').read_bytes() == pathlib.Path('two.qcow2').read_bytes(), 'the same disk gives the same image')


def write(name, pattern, *ranges):
    commands = [x for r in ranges for x in ('-c', f'write -P {pattern} {r}')]
    subprocess.run(['qemu-io', '-f', 'qcow2', *commands, name], check=True, capture_output=True)


def test_convert_chain():
    qemu('create', '-f', 'qcow2', 'b0.qcow2', '16M')
    write('b0.qcow2', 1, '0 8M')
    qemu('create', '-f', 'qcow2', '-b', 'b0.qcow2', '-F', 'qcow2', '-o', 'cluster_size=4k', 'b1.qcow2', '20M')
    write('b1.qcow2', 2, '1M 4k', '3M 100k', '17M 1M')
    subprocess.run(['qemu-io', '-c', 'write -z 5M 1M', 'b1.qcow2'], check=True, capture_output=True)
    qemu('snapshot', '-c', 'old', 'b1.qcow2')
    write('b1.qcow2', 3, '2M 64k')
    same('map through a chain', 'map', 'b1.qcow2')
    ok(disk('map', 'b1.qcow2')[1] == qemu('map', 'b1.qcow2').stdout, 'map in words')
    same('measure', 'measure', '-O', 'qcow2', 'b1.qcow2')
    for options in ([], ['-c'], ['-B', 'b0.qcow2', '-F', 'qcow2'], ['-c', '-B', 'b0.qcow2', '-F', 'qcow2'],
                    ['--backing', 'b0.qcow2', '-o', 'extended_l2=on']):
        code, _, err = disk('convert', '-f', 'qcow2', '-O', 'qcow2', *options, 'b1.qcow2', 'flat.qcow2')
        ok(code == 0 and qemu('compare', 'b1.qcow2', 'flat.qcow2').returncode == 0 and
           qemu('check', 'flat.qcow2').returncode == 0, f'a chain to {options} {err.strip()}')
        if '-B' in options:
            ok(os.path.getsize('flat.qcow2') < 4 << 20, 'and only what differs is in it')
    qemu('create', '-f', 'qcow2', 'other.qcow2', '20M')
    write('other.qcow2', 9, '0 20M')
    code, _, _ = disk('convert', '-B', 'other.qcow2', '-F', 'qcow2', 'b1.qcow2', 'over.qcow2')
    ok(code == 0 and qemu('compare', 'b1.qcow2', 'over.qcow2').returncode == 0, 'over another backing file it is right too')
    code, _, err = disk('convert', '-l', 'old', 'b1.qcow2', 'old.raw')
    qemu('convert', '-l', 'old', '-O', 'raw', 'b1.qcow2', 'theirs.raw')
    ok(code == 0 and pathlib.Path('old.raw').read_bytes() == pathlib.Path('theirs.raw').read_bytes(), f'an internal snapshot {err}')
    disk('create', 'into.qcow2', '20M')
    write('into.qcow2', 5, '0 20M')
    code, _, err = disk('convert', '-n', '-O', 'qcow2', 'b1.qcow2', 'into.qcow2')
    ok(code == 0 and qemu('compare', 'b1.qcow2', 'into.qcow2').returncode == 0 and qemu('check', 'into.qcow2').returncode == 0,
       f'into an image that is there {err.strip()}')


def test_compare():
    disk('convert', 'src.raw', 'd.qcow2')
    write('d.qcow2', 77, '3000832 512')
    for one, two in (('src.raw', 'd.qcow2'), ('d.qcow2', 'src.raw')):
        code, out, _ = disk('compare', one, two)
        ok(code == 1 and '3000832' in out and code == qemu('compare', one, two).returncode, f'a difference: {out.strip()}')
    disk('convert', 'src.raw', 'long.raw')
    with open('long.raw', 'ab') as f:
        f.truncate(30 << 20)
    for flags in ([], ['-s'], ['-q']):
        code, _, _ = disk('compare', *flags, 'src.raw', 'long.raw')
        ok(code == qemu('compare', *flags, 'src.raw', 'long.raw').returncode, f'different sizes {flags}: {code}')
    disk('convert', 'src.raw', 's.qcow2')
    code, out, _ = disk('compare', '-s', 'src.raw', 's.qcow2')
    p = qemu('compare', '-s', 'src.raw', 's.qcow2', status=1)
    ok(code == p.returncode and out == p.stdout, f'strict: {out.strip()} / {p.stdout.strip()}')
    ok(disk('compare', 'src.raw', 'nothing')[0] == 2, 'status 2: could not be opened')
    same('measure for raw', 'measure', '-O', 'raw', 'd.qcow2')
    same('measure a size', 'measure', '-O', 'qcow2', '-o', 'cluster_size=4k,extended_l2=off', '--size', '7G')
    same('measure a raw image', 'measure', '-O', 'qcow2', 'src.raw')
    same('measure subclusters', 'measure', '-O', 'qcow2', '-o', 'extended_l2=on,refcount_bits=64', '--size', '1T')


# ---- check ----

def test_check():
    disk('convert', 'src.raw', 'c.qcow2')
    same('a whole image', 'check', 'c.qcow2')
    with open('c.qcow2', 'r+b') as f: # the last refcount: of a cluster behind all others
        f.seek(48)
        table = int.from_bytes(f.read(8), 'big')
        f.seek(table)
        block = int.from_bytes(f.read(8), 'big')
        f.seek(0, 2)
        cluster = f.tell() >> 16
        f.write(bytes(65536))
        f.seek(block + cluster * 2)
        f.write(b'\0\1')
    code, out, _ = disk('check', 'c.qcow2')
    ok(code == 3 and 'leaks' in out and qemu('check', 'c.qcow2', status=3).returncode == 3, 'status 3: leaks')
    same('leaks in JSON', 'check', 'c.qcow2')
    code, out, _ = disk('check', '--repair', 'leaks', 'c.qcow2')
    ok(code == 0 and qemu('check', 'c.qcow2').returncode == 0, f'repaired: {out.splitlines()[:2]}')
    with open('c.qcow2', 'r+b') as f: # data that nothing counts
        f.seek(block + (cluster - 1) * 2)
        f.write(b'\0\0')
    code, out, _ = disk('check', '--json', 'c.qcow2')
    ok(code == 2 and json.loads(out)['corruptions'] >= 1 and qemu('check', 'c.qcow2', status=2).returncode == 2, 'status 2: damage')
    code, _, _ = disk('check', '-r', 'all', 'c.qcow2')
    ok(code == 0 and qemu('check', 'c.qcow2').returncode == 0 and qemu('compare', 'src.raw', 'c.qcow2').returncode == 0,
       'all is repaired, and no data are lost')
    ok(disk('check', '-f', 'raw', 'src.raw')[0] == 63, 'status 63: raw has nothing to check')
    ok(disk('check', 'nothing.qcow2')[0] == 1, 'status 1: could not be checked')
    ok(disk('check', '--repair', 'most', 'c.qcow2')[0] == 1, 'wrong usage is no status that means damage')


# ---- what goes wrong ----

def test_convert_refused():
    refused('onto itself', 1, ['src.raw', 'to be copied'], 'convert', 'src.raw', 'src.raw')
    refused('onto its backing file', 1, ['b0.qcow2', 'to be copied'], 'convert', '-f', 'qcow2', 'b1.qcow2', 'b0.qcow2')
    refused('no source', 1, ['none.img'], 'convert', 'none.img', 'x.qcow2')
    refused('packed raw', 2, ['--compress', 'raw'], 'convert', '-c', 'src.raw', 'x.raw')
    refused('no folder', 1, ['no/where.qcow2'], 'convert', 'src.raw', 'no/where.qcow2')
    refused('a target that is too small', 1, ['r.raw', 'needed'], 'convert', '-n', '-O', 'raw', 'b1.qcow2', 'r.raw')
    pathlib.Path('bad.qcow2').write_bytes(b'QFI\xfb\0\0\0\3' + os.urandom(4096))
    refused('a broken source', 1, ['bad.qcow2'], 'convert', '-f', 'qcow2', 'bad.qcow2', 'x.raw')
    ok(not [f for f in os.listdir('.') if f.startswith('x.') or f.endswith('.part')], 'and nothing is left behind')


def test_full_disk():
    os.makedirs('tiny', exist_ok=True)
    p = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', 'tiny'], capture_output=True, check=False)
    if p.returncode:
        return skip('a full file system', 'no right to mount')
    try:
        for name, options in (('x.raw', ['-S', '0']), ('x.qcow2', []), ('x.qcow2', ['-o', 'preallocation=full'])):
            code, out, err = disk('convert', *options, 'big.raw', f'tiny/{name}')
            ok(code == 1 and len(err.splitlines()) == 1 and f'tiny/{name}' in err and 'No space' in err and
               not os.listdir('tiny'), f'a full file system: {err.strip()} {out} {os.listdir("tiny")}')
        pathlib.Path('tiny/x.qcow2').write_bytes(b'precious')
        code, _, _ = disk('convert', 'big.raw', 'tiny/x.qcow2')
        ok(code == 1 and pathlib.Path('tiny/x.qcow2').read_bytes() == b'precious', 'what was there stays as it was')
        code, _, err = disk('create', '-o', 'preallocation=falloc', 'tiny/y.qcow2', '50M')
        ok(code == 1 and not os.path.exists('tiny/y.qcow2'), f'create: {err.strip()}')
    finally:
        subprocess.run(['umount', 'tiny'], check=False)
    return None


def test_stopped():
    before = pathlib.Path('big.raw').stat().st_mtime_ns
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        p = subprocess.Popen([HULL, 'disk', 'convert', '--progress', 'json', '-c', '-m', '1', 'big.raw', 'stopped.qcow2'],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = json.loads(p.stdout.readline())
        time.sleep(0.1)
        p.send_signal(number)
        out, err = p.communicate(timeout=60)
        ok(p.returncode == status and first['status'] == 'running' and '"failed"' in out and not err,
           f'stopped by {number.name}: {p.returncode} {first} {err}')
    ok(not [f for f in os.listdir('.') if f.startswith('stopped')], 'no half-made target')
    ok(pathlib.Path('big.raw').stat().st_mtime_ns == before, 'the source is untouched')


def test_progress():
    code, out, _ = disk('convert', '--progress=json', 'big.raw', 'bar.qcow2')
    last = json.loads(out.splitlines()[-1])
    ok(code == 0 and last == {'status': 'concluded', 'percent': 100.0}, f'--progress json: {last}')
    code, out, _ = disk('convert', '-p', 'big.raw', 'bar.qcow2')
    ok(code == 0 and '(100.00/100%)' in out, '-p as qemu-img prints it')
    t = Terminal('disk', 'convert', '-c', 'big.raw', 'bar.qcow2')
    ok(t.wait_for('%') and t.status() == 0 and 'bar.qcow2 [' in t.text, 'a bar on a terminal')


test_create()
test_chain()
test_create_refused()
test_preallocation()
test_resize()
test_convert()
test_convert_chain()
test_compare()
test_check()
with open('big.raw', 'wb') as big:
    for _ in range(24):
        big.write(bytes(random.randbytes(1 << 19)) + bytes(range(256)) * 2048)
test_convert_refused()
test_full_disk()
test_stopped()
test_progress()
done()
