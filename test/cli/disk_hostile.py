#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2 images made to hurt: `hull disk info`, `check` and `convert` end by themselves, with an error where the image
is beyond sense, and never need 64 MiB of memory in all. Needs qemu-img.

The kernel counts this script's own memory at the exec into a command's peak: it has to stay small itself."""
import os
import resource
import signal
import struct
import subprocess
import time
import zlib
from tap import HULL, TMP, done, ok

MIB = 1 << 20
CLUSTER = 65536
LIMIT = 64 * MIB
EVERY = ('info', 'check', 'convert')


def create(name, *options, size='64M'):
    path = TMP / name
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', *options, str(path), size], check=True, cwd=TMP)
    return path


def patched(name, *patches, options=()):
    """An image with one allocated cluster and the patches (offset, struct format, value)."""
    path = create(name, *options)
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 64k', str(path)], check=True, capture_output=True)
    image = bytearray(path.read_bytes())
    for at, form, value in patches:
        at = at(image) if callable(at) else at
        value = value(image) if callable(value) else value
        struct.pack_into('>' + form, image, at, value)
    path.write_bytes(image)
    return path


def be64(image, at):
    return struct.unpack_from('>Q', image, at)[0]


def l1(image):
    return be64(image, 40)


def l2(image):
    return be64(image, l1(image)) & 0x00fffffffffffe00


def bomb():
    """Each cluster is the same stream, which would become 64 MiB."""
    path = patched('bomb')
    image = bytearray(path.read_bytes())
    z = zlib.compressobj(9, zlib.DEFLATED, -12)
    stream = b''.join(z.compress(bytes(MIB)) for _ in range(64)) + z.flush()
    at = -(-len(image) // CLUSTER) * CLUSTER
    image += bytes(at - len(image)) + stream + bytes(CLUSTER)
    shift = 62 - (16 - 8)
    for i in range(1024):
        struct.pack_into('>Q', image, l2(image) + 8 * i, 1 << 62 | (len(stream) // 512) << shift & (1 << 62) - 1 | at)
    path.write_bytes(image)
    return path


def bitmaps(name, count, size, offset):
    """A bitmaps extension in place of the header's first one."""
    path = patched(name, (88, 'Q', 1))
    image = bytearray(path.read_bytes())
    at = struct.unpack_from('>I', image, 100)[0]
    struct.pack_into('>IIIIQQII', image, at, 0x23852875, 24, count, 0, size, offset, 0, 0)
    path.write_bytes(image)
    return path


def corpus():
    """(name, path, commands that must fail)"""
    for a, b in (('circle-a', 'circle-b'), ('circle-b', 'circle-a'), ('self', 'self')):
        create(a, '-u', '-b', f'./{b}', '-F', 'qcow2')
    yield 'circular backing', TMP / 'circle-a', ('convert',)
    yield 'its own backing', TMP / 'self', ('convert',)
    yield 'huge L1', patched('l1', (36, 'I', 0x7fffffff)), EVERY
    yield 'L1 behind the end', patched('l1-end', (40, 'Q', 1 << 50)), ('check',)
    yield 'unaligned L1', patched('l1-odd', (40, 'Q', 0x30001)), EVERY
    yield 'huge disk', patched('size', (24, 'Q', 1 << 62)), EVERY
    yield 'L1 over the refcount table', patched('overlap', (40, 'Q', lambda i: be64(i, 48))), ('check',)
    yield 'L1 over the header', patched('header', (40, 'Q', 0)), ('check',)
    yield 'L2 is the L1', patched('l2-l1', (l1, 'Q', lambda i: 1 << 63 | l1(i))), ('check',)
    yield 'data is the L2', patched('l2-self', (l2, 'Q', lambda i: 1 << 63 | l2(i))), ('check',)
    yield 'L2 behind the end', patched('l2-end', (l1, 'Q', 1 << 63 | 1 << 50)), ('check',)
    yield 'huge refcount table', patched('refs', (56, 'I', 0xffffffff)), EVERY
    yield 'a refcount block is the table', patched('refs-self', (lambda i: be64(i, 48), 'Q', lambda i: be64(i, 48))), ('check',)
    yield 'many snapshots', patched('snaps', (60, 'I', 0xffffffff)), EVERY
    yield 'huge clusters', patched('bits', (20, 'I', 63)), EVERY
    yield 'huge refcounts', patched('order', (96, 'I', 63)), EVERY
    yield 'huge header', patched('length', (100, 'I', 0xfffffff8)), EVERY
    yield 'unknown feature', patched('feature', (72, 'Q', 1 << 40)), EVERY
    yield 'huge backing name', patched('name', (8, 'Q', 256), (16, 'I', 0xffffffff)), EVERY
    yield 'huge extension', patched('extension', (116, 'I', 0xfffffff0)), EVERY
    yield 'bomb', bomb(), ()
    yield 'many bitmaps', bitmaps('bitmaps', 0xffffffff, 1 << 20, 0x10000), ('check',)
    yield 'huge bitmap directory', bitmaps('directory', 1, 1 << 60, 0x10000), ('check',)
    path = TMP / 'short'
    path.write_bytes(b'QFI\xfb\0\0\0\3')
    yield 'short', path, EVERY


def measure(command, path):
    """Exit status, peak memory and what was said; a run that does not end is killed."""
    args = [HULL, 'disk', command, '-f', 'qcow2', str(path)]
    out = TMP / 'out'
    if command == 'convert':
        args += ['-O', 'raw', str(out)]
    said = TMP / 'said'
    with open(said, 'wb') as f:
        p = subprocess.Popen(list(map(str, args)), stdin=subprocess.DEVNULL, stdout=f, stderr=f, cwd=TMP)
        end = time.monotonic() + 60
        while True:
            pid, status, usage = os.wait4(p.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.kill(p.pid, signal.SIGKILL)
            time.sleep(0.005)
        p.returncode = os.waitstatus_to_exitcode(status)
    out.unlink(missing_ok=True)
    return p.returncode, usage.ru_maxrss * 1024, said.read_text(errors='replace').strip()


def main():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    empty = create('empty')
    base = {}
    for command in EVERY:
        status, base[command], said = measure(command, empty)
        ok(status == 0, f'{command} of an empty image: {base[command] >> 10} KiB {said if status else ""}')
    most = 0
    for name, path, fails in corpus():
        for command in EVERY:
            status, memory, said = measure(command, path)
            most = max(most, memory)
            good = 0 <= status < 100 and memory < LIMIT and (status != 0 or command not in fails)
            line = said.splitlines()[0] if said else ''
            ok(good, f'{command}, {name}: status {status}, peak {memory >> 10} KiB' + ('' if good else f': {line}'))
    print(f'# at most {most >> 10} KiB; empty image at most {max(base.values()) >> 10} KiB')
    done()


main()
