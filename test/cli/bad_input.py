#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Bad input: one line on stderr that names what was given and the fix, the right status, nothing left."""
import os
import socket
import subprocess
from tap import *

guest = multiboot_guest(EXIT_7)


def refused(name, status, words, *args, **more):
    code, out, err = run('run', *args, timeout=30, **more)
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith('Try: ')]
    good = code == status and all(w in err for w in words) and len(lines) == 1 and out == ''
    ok(good, f'{name}: {err.strip() or out!r} ({code})')


def with_kernel(*args):
    return ['--kernel', guest, '--net', 'none', *args]


def test_kernels():
    missing, short, garbage = TMP / 'missing', TMP / 'short', TMP / 'garbage'
    short.write_bytes(b'MZ')
    garbage.write_bytes(os.urandom(65536))
    refused('missing kernel', 1, [str(missing)], '--kernel', missing, '--net', 'none')
    refused('short kernel', 1, [str(short)], '--kernel', short, '--net', 'none')
    refused('garbage kernel', 1, [str(garbage)], '--kernel', garbage, '--net', 'none')
    refused('a folder as kernel', 1, [str(TMP)], '--kernel', TMP, '--net', 'none')
    big = TMP / 'big'
    with open(big, 'wb') as f:
        f.truncate(64 << 20)
    refused('initrd larger than memory', 1, [str(big), '--memory'], *with_kernel('--initrd', big, '--memory', '32M'))


def test_numbers():
    refused('memory 0', 2, ['--memory', '2M'], *with_kernel('--memory', '0'))
    refused('memory 1M', 2, ['--memory', '2M'], *with_kernel('--memory', '1M'))
    refused('memory with a wrong unit', 2, ['--memory 1Q'], *with_kernel('--memory', '1Q'))
    refused('more memory than the host has', 1, ['--memory', 'host has'], *with_kernel('--memory', '400G'))
    refused('0 cpus', 2, ['--cpus 0', '1 to 64'], *with_kernel('--cpus', '0'))
    refused('1000 cpus', 2, ['--cpus 1000', '64'], *with_kernel('--cpus', '1000'))
    refused('cpus in words', 2, ['--cpus two'], *with_kernel('--cpus', 'two'))
    refused('unknown cpu model', 2, ['x86-64-v2'], *with_kernel('--cpu', 'x86-64-v22'))
    refused('unknown cpu feature', 2, ['avx2'], *with_kernel('--cpu', 'x86-64-v3,-avx22'))


def test_disks():
    missing, odd, disk = TMP / 'no.img', TMP / 'odd.img', TMP / 'disk.img'
    odd.write_bytes(b'x' * 1000)
    disk.write_bytes(b'\0' * 65536)
    refused('missing disk', 1, [str(missing)], *with_kernel('--disk', missing))
    refused('odd-sized disk', 1, [str(odd), '512'], *with_kernel('--disk', odd))
    refused('a folder as disk', 1, [str(TMP)], *with_kernel('--disk', TMP))
    refused('unknown disk key', 2, ['formt', 'format'], *with_kernel('--disk', f'{disk},formt=raw'))
    latin = os.fsencode(TMP / 'disk') + b'\xff.img'
    with open(latin, 'wb') as f:
        f.truncate(65536)
    refused('disk whose name is not UTF-8', 1, ['UTF-8'], *with_kernel('--disk', os.fsdecode(latin)))
    refused('wrong cache', 2, ['writebak', 'writeback'], *with_kernel('--disk', f'{disk},cache=writebak'))
    if os.geteuid():
        disk.chmod(0)
        refused('unreadable disk', 1, [str(disk)], *with_kernel('--disk', disk))
        disk.chmod(0o600)
    else:
        secret = TMP / 'secret.img'
        secret.write_bytes(b'\0' * 512)
        secret.chmod(0)
        TMP.chmod(0o755)
        refused('unreadable disk', 1, [str(secret)], *with_kernel('--disk', secret, '--user', 'nobody'))
    sleeper = multiboot_guest(HELLO)
    holder = subprocess.Popen([HULL, 'run', '--kernel', sleeper, '--net', 'none', '--disk', disk],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    holder.stdout.readline()
    refused('disk in use', 1, [str(disk), 'in use'], *with_kernel('--disk', disk))
    holder.terminate()
    holder.wait()
    code, _, err = run('run', *with_kernel('--disk', disk, '--debug-exit'))
    ok(code == 7, f'free again when its machine ended ({code} {err.strip()})')


def test_words():
    refused('unknown option', 2, ['--kernle', '--kernel'], '--kernle', guest)
    refused('missing value', 2, ['--memory'], '--memory')
    refused('option of later work', 2, ['--firmware', 'not in this version'], '--firmware', 'bios')
    refused('nothing to boot', 2, ['IMAGE'], '--memory', '64M')
    refused('unknown net kind', 2, ['usr', 'user'], '--kernel', guest, '--net', 'usr')
    refused('unknown net key', 2, ['forwrd'], '--kernel', guest, '--net', 'user,forwrd=tcp:1:2')
    refused('bad forward', 2, ['tcp:x:22'], '--kernel', guest, '--net', 'user,forward=tcp:x:22')
    refused('wrong engine', 2, ['--engine turbo'], *with_kernel('--engine', 'turbo'))
    refused('wrong setting of the JIT', 2, ['--engine soft,jit=maybe', 'soft,jit=o'], *with_kernel('--engine', 'soft,jit=maybe'))
    refused('initrd without kernel', 2, ['--kernel'], '--initrd', guest)


def test_host():
    taken = socket.create_server(('127.0.0.1', 0))
    port = taken.getsockname()[1]
    refused('port in use', 1, [str(port), 'in use'], '--kernel', guest, '--net', f'user,forward=tcp:{port}:22')
    taken.close()
    if os.access('/dev/kvm', os.R_OK | os.W_OK):
        skip('--engine kvm without /dev/kvm', 'this host has /dev/kvm')
    else:
        refused('--engine kvm without /dev/kvm', 1, ['/dev/kvm', '--engine soft'], *with_kernel('--engine', 'kvm'))
    refused('qmp in a missing folder', 1, [str(TMP / 'no' / 'q')], *with_kernel('--qmp', TMP / 'no' / 'q'))
    refused('serial file that cannot be made', 1, [str(TMP / 'no' / 's')],
            *with_kernel('--serial', f'file:{TMP}/no/s'))
    refused('a user that is not there', 1, ['nosuchuser'], *with_kernel('--user', 'nosuchuser'))


def test_verbs():
    for args, words in ((['rnu'], 'did you mean run?'), (['list'], 'not in this version'), ([], 'Usage')):
        code, _, err = run(*args)
        ok(code == 2 and words in err, f'hull {" ".join(args)}: {err.splitlines()[0]}')
    for args in (['--help'], ['run', '--help'], ['info', '--help'], ['image', '--help'], ['help', 'run']):
        code, out, _ = run(*args)
        ok(code == 0 and 'Example' in out, f'hull {" ".join(args)} helps with an example')


test_kernels()
test_numbers()
test_disks()
test_words()
test_host()
test_verbs()
done()
