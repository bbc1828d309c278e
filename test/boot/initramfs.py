#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes an initramfs for tests: busybox, kernel modules in the order they need each other, a script.

Usage: initramfs.py OUT KERNEL_DIR SCRIPT [--modules a,b] [--file HOST:GUEST]...
KERNEL_DIR is a folder of test/boot/fetch (its modules/ is read); OUT is compressed if it ends in .gz.
The machine runs SCRIPT under sh with proc, sys, dev and tmp mounted, then powers off."""
import argparse
import gzip
import os
import pathlib
import subprocess
import sys

BUSYBOX = '/usr/bin/busybox' if os.path.exists('/usr/bin/busybox') else '/bin/busybox'
# What a virtual machine's devices want; one that the kernel has built in has no file.
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_net', 'virtio_console', 'virtio_rng', 'virtio_balloon', 'button',
           'evdev', 'pvpanic_mmio')
INIT = '''#!/bin/sh
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo "T: init yes"
for m in $(cat /modules/order); do insmod /modules/$m || echo "init: $m does not load"; done
sh /script
sync
poweroff -f
'''


class Cpio:
    """The "newc" format: Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self):
        self.parts = []
        self.inode = 0

    def add(self, name, mode, data=b'', device=(0, 0)):
        self.inode += 1
        name = name.encode() + b'\0'
        numbers = [self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0]
        head = b'070701' + b''.join(b'%08X' % n for n in numbers) + name
        self.parts += [head + b'\0' * (-len(head) % 4), data + b'\0' * (-len(data) % 4)]

    def folder(self, name):
        self.add(name, 0o040755)

    def file(self, name, data, mode=0o100755):
        self.add(name, mode, data)

    def link(self, name, target):
        self.add(name, 0o120777, target.encode())

    def bytes(self):
        self.add('TRAILER!!!', 0)
        data = b''.join(self.parts)
        return data + b'\0' * (-len(data) % 512)


def module_name(path):
    return path.stem.replace('-', '_')


def needs(path):
    """What a module's own .modinfo says: no depmod and no modules.dep needed."""
    data = path.read_bytes()
    at = data.find(b'\0depends=')
    text = data[at + 9:data.index(b'\0', at + 9)].decode() if at >= 0 else ''
    return [name.replace('-', '_') for name in text.split(',') if name]


def in_order(folder, wanted):
    """Files of the modules and of all that they need, those first. Names without a file are built in."""
    files = {module_name(p): p for p in sorted(pathlib.Path(folder).rglob('*.ko'))}
    order = []

    def take(name):
        if name in files and files[name] not in order:
            for other in needs(files[name]):
                take(other)
            order.append(files[name])

    for name in wanted:
        take(name)
    return order


def build(out, kernel_dir, script, modules=MODULES, files=None):
    """files: path in the guest -> bytes."""
    cpio = Cpio()
    for name in ('bin', 'dev', 'proc', 'sys', 'tmp', 'etc', 'modules'):
        cpio.folder(name)
    cpio.add('dev/console', 0o020600, device=(5, 1))
    cpio.file('bin/busybox', pathlib.Path(BUSYBOX).read_bytes())
    applets = subprocess.run([BUSYBOX, '--list'], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        if name != 'busybox':
            cpio.link(f'bin/{name}', 'busybox')
    order = in_order(pathlib.Path(kernel_dir) / 'modules', modules)
    for path in order:
        cpio.file(f'modules/{path.name}', path.read_bytes(), 0o100644)
    cpio.file('modules/order', ''.join(f'{p.name}\n' for p in order).encode(), 0o100644)
    cpio.file('init', INIT.encode())
    cpio.file('script', script.encode())
    for name, data in (files or {}).items():
        cpio.file(name.lstrip('/'), data)
    data = cpio.bytes()
    # The guest unpacks it, and testing is not about inflate: fast compression only.
    pathlib.Path(out).write_bytes(gzip.compress(data, 1) if str(out).endswith('.gz') else data)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('out')
    p.add_argument('kernel_dir')
    p.add_argument('script')
    p.add_argument('--modules', default=','.join(MODULES))
    p.add_argument('--file', action='append', default=[])
    a = p.parse_args()
    files = {guest: pathlib.Path(host).read_bytes() for host, guest in (f.split(':', 1) for f in a.file)}
    build(a.out, a.kernel_dir, pathlib.Path(a.script).read_text(), a.modules.split(','), files)


if __name__ == '__main__':
    sys.exit(main())
