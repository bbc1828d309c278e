# SPDX-License-Identifier: MIT
"""How fast images are made, copied, checked and compared: hull disk beside qemu-img, in turns."""
import os
import random
import shutil
import subprocess
import time
from machine import * # pylint: disable=wildcard-import,unused-wildcard-import

SIZE, DATA = 4 << 30, 512 << 20
QEMU_IMG = shutil.which('qemu-img')


def make_disk(path):
    """A disk with some data here and there: a third noise, the rest words, as file systems hold."""
    rng = random.Random(5)
    words = [rng.randbytes(rng.randrange(3, 9)).hex().encode() for _ in range(4000)]
    with open(path, 'wb') as f:
        f.truncate(SIZE)
        done = 0
        while done < DATA:
            length = rng.choice([64, 256, 1024, 4096]) << 10
            f.seek(rng.randrange(SIZE - length) & ~4095)
            text = b' '.join(rng.choices(words, k=length // 8))[:length]
            f.write(rng.randbytes(length) if rng.random() < 0.3 else text)
            done += length


def timed(args, clean):
    clean.unlink(missing_ok=True)
    begin, before = time.monotonic(), os.times()
    subprocess.run(list(map(str, args)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    return (time.monotonic() - begin) * 1000, (after.children_user + after.children_system -
                                               before.children_user - before.children_system) * 1000


def bench(options, note, report):
    folder = TMP / 'diskbench'
    folder.mkdir()
    raw = folder / 'disk.raw'
    make_disk(raw)
    out = folder / 'disk.out'
    packed = ['-o', 'compression_type=zlib'], ['-o', 'compression_type=zstd']

    def pair(name, args, keep=None):
        for _ in range(options.runs):
            for who, program in (('hull', [HULL, 'disk']), ('qemu', [QEMU_IMG])):
                if program[0]:
                    wall, cpu = timed([*program, *args], out)
                    note(f'disk_{name}', who, wall, 'ms')
                    note(f'disk_{name}_cpu', who, cpu, 'ms')
        if keep:
            os.replace(out, keep)
        report()

    pair('create', ['create', '-f', 'qcow2', out, '4G'])
    pair('raw_to_qcow2', ['convert', '-f', 'raw', '-O', 'qcow2', raw, out], folder / 'q')
    pair('qcow2_to_raw', ['convert', '-f', 'qcow2', '-O', 'raw', folder / 'q', out])
    pair('check', ['check', '-f', 'qcow2', folder / 'q'])
    pair('compare', ['compare', '-f', 'raw', '-F', 'qcow2', raw, folder / 'q'])
    for how in packed:
        kind = how[1].split('=')[1]
        pair(f'raw_to_{kind}', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', *how, raw, out], folder / kind)
        pair(f'{kind}_to_raw', ['convert', '-f', 'qcow2', '-O', 'raw', folder / kind, out])
    shutil.rmtree(folder)
