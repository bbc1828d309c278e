#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hull disk, with qemu-img as the oracle: what one makes the other reads, and both say the same of it."""
import json
import os
import subprocess
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


test_create()
test_chain()
test_create_refused()
done()
