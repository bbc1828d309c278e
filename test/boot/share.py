#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest works in a directory of the host: what it makes is there, what the host made it sees, and it gets nowhere else.

Usage: share.py 9p|virtiofs|readonly|readonly-virtiofs|lost|lost-virtiofs      (needs HULL_BUILD; 20 to 40 s on an idle host)"""
import hashlib
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
FILES = 2000
MOUNT = {'9p': 'mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 work /s',
         'virtiofs': 'mount -t virtiofs work /s'}
MODULES = {'9p': ('virtio_pci', '9pnet_virtio', '9p'), 'virtiofs': ('virtio_pci', 'virtiofs')}
# The lines are numbered by what they say: each is looked at below.
SCRIPT = '''
mkdir /s
@MOUNT@
echo "T: mount $?"
cd /s
echo "T: fromhost $(sha256sum <big.in)"
head -c 20000000 /dev/urandom >big.out
echo "T: tohost $(sha256sum <big.out)"
echo one >a; echo two >>a; chmod 640 a; touch -d '2001-02-03 04:05:06' a
mkdir -p d/e/f; mv a d/e/f/b; ln d/e/f/b d/hard; ln -s e/f/b d/soft
echo "T: through $(cat d/soft | tr '\\n' ' ') $(stat -c '%a %h %Y' d/hard)"
cat outside/secret >/tmp/x 2>/dev/null; echo "T: outside $? $(cat /tmp/x)"
echo "T: absolute $(readlink absolute) $(cat absolute)"
ls absolutedir/secret >/dev/null 2>&1; echo "T: absolutedir $?"
ls -a .. | tr '\\n' ' ' >/dev/null
mkfifo pipe; echo "T: fifo $? $(stat -c %F pipe)"
mknod null c 1 3 2>/dev/null; echo "T: device $?"
i=0; mkdir many; while [ $i -lt @FILES@ ]; do echo $i >many/file-$i; i=$((i+1)); done
echo "T: many $(ls many | wc -l) $(cat many/* | sort -n | sha256sum)"
p=deep; i=0; while [ $i -lt 30 ]; do p=$p/directory-number-$i; i=$((i+1)); done; mkdir -p $p; echo bottom >$p/file
echo "T: deep $(cat $p/file) $(find deep | wc -l)"
rm -r many; echo "T: removed $? $(ls many 2>&1 | grep -c 'No such')"
i=0; while [ $i -lt 8 ]; do (j=0; while [ $j -lt 40 ]; do echo $i.$j >par-$i; cat par-$i >/dev/null; mv par-$i par-$i.x; mv par-$i.x par-$i; j=$((j+1)); done) & i=$((i+1)); done; wait
echo "T: parallel $(cat par-* | tr '\\n' ' ')"
exec 3>open; rm open; echo gone >&3; echo "T: unlinked $? $(ls open 2>&1 | grep -c 'No such')"; exec 3>&-
dd if=/dev/zero of=sparse bs=1 count=1 seek=99999999 2>/dev/null; truncate -s 50000000 sparse
echo "T: sparse $(stat -c '%s' sparse)"
echo "T: space $(df -P /s | tail -n 1 | tr -s ' ' | cut -d ' ' -f 6)"
echo "T: names $(find odd | sort | sha256sum)"
sync
echo "T: waiting here"
i=0; while [ ! -e later ] && [ $i -lt 100 ]; do sleep 0.2; i=$((i+1)); done
echo "T: later $(cat later)"
t=$(cut -d ' ' -f 1 /proc/uptime)
find tree -type f | wc -l >/tmp/n
echo "T: find $(cat /tmp/n) $t $(cut -d ' ' -f 1 /proc/uptime)"
t=$(cut -d ' ' -f 1 /proc/uptime)
dd if=big.in of=/dev/null bs=1M 2>/dev/null
echo "T: read $t $(cut -d ' ' -f 1 /proc/uptime)"
t=$(cut -d ' ' -f 1 /proc/uptime)
dd if=/dev/zero of=big.zero bs=1M count=64 2>/dev/null
echo "T: write $t $(cut -d ' ' -f 1 /proc/uptime)"
cd /
umount /s
echo "T: umount $?"
'''
READONLY = '''
mkdir /s
@MOUNT@
echo "T: mount $?"
cd /s
echo "T: read $(cat file)"
for c in 'echo x >>file' 'echo x >new' 'rm file' 'mkdir dir' 'mv file other' 'ln file other' 'ln -s a b' 'chmod 600 file' 'truncate -s 0 file' 'touch file'; do
  sh -c "$c" 2>/dev/null && echo "T: changed $c"
done
echo "T: tried $(cat file)"
'''
LOST = '''
mkdir /s
@MOUNT@
echo "T: mount $?"
sleep 1
echo "T: waiting here"
while cat /s/file >/dev/null 2>/tmp/err; do sleep 0.1; done
echo "T: error $(cat /tmp/err)"
ls /s 2>/dev/null
echo "T: still $?"
'''


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() + '  -'


def guest(kind, script, folder, share, *args, name='share'):
    image = TMP / f'{name}.cpio'
    for key, value in (('MOUNT', MOUNT[kind]), ('FILES', str(FILES))):
        script = script.replace(f'@{key}@', value)
    initramfs.build(image, folder, script, modules=MODULES[kind])
    return Machine('--engine', 'soft', '--kernel', folder / 'vmlinuz', '--initrd', image, '--append', 'console=ttyS0', '--net', 'none',
                   '--memory', '256M', '--timeout', '300', '--share', share, *args, name=name)


def prepare():
    root, other = TMP / 'root', TMP / 'other'
    for path in (root, other, root / 'odd'):
        path.mkdir()
    (other / 'secret').write_text('not for guests')
    (root / 'outside').symlink_to('../other')
    (root / 'absolute').symlink_to('/proc/version')
    (root / 'absolutedir').symlink_to(other)
    for name in ('two words', 'tab\there', 'grün', '-dash', 'x' * 255):
        (root / 'odd' / name).write_text('')
    (root / 'big.in').write_bytes(os.urandom(64 * MIB))
    for i in range(20):
        (root / f'tree/{i}').mkdir(parents=True)
        for j in range(100):
            (root / f'tree/{i}/{j}').write_text('')
    return root


def seconds(m, name):
    begin, end = map(float, m.value(name).split()[-2:])
    return max(end - begin, 0.01)


def work(kind, folder):
    root = prepare()
    m = guest(kind, SCRIPT, folder, f'{root}:work,type={kind}')
    if not m.expect('mount', '0', 'mounts the share'):
        m.show()
        return
    m.expect('fromhost', sha(root / 'big.in'), 'reads 64 MiB of the host\'s')
    to_host = m.value('tohost')
    ok(to_host == sha(root / 'big.out'), 'the host reads 20 MB of the guest\'s')
    m.expect('through', 'one two  640 2 981173106', 'mode, links and time of a file that was moved')
    m.expect('outside', '1 ', 'a symlink that leads out of the share leads nowhere')
    version = m.value('absolute') or ''
    ok(version.startswith('/proc/version Linux version 6.1'), 'an absolute symlink is the guest\'s own')
    m.expect('absolutedir', '1', 'also to a directory that the host has')
    m.expect('fifo', '0 fifo', 'makes a FIFO')
    m.expect('device', '1' if kind == '9p' else '0', 'may not make a device' if kind == '9p' else 'makes a device')
    numbers = ''.join(f'{i}\n' for i in range(FILES)).encode()
    m.expect('many', f'{FILES} {hashlib.sha256(numbers).hexdigest()}  -', f'writes and reads {FILES} files')
    m.expect('deep', 'bottom 32', 'a path of 30 long names')
    m.expect('removed', '0 1', 'removes them')
    m.expect('parallel', ' '.join(f'{i}.39' for i in range(8)) + ' ', '8 programs at a time')
    m.expect('unlinked', '0 1', 'writes to a file that it removed')
    m.expect('sparse', '50000000', 'holes, and truncating')
    m.expect('space', '/s', 'df')
    names = b''.join(sorted([b'odd\n'] + [f'odd/{name}\n'.encode() for name in os.listdir(root / 'odd')]))
    m.expect('names', hashlib.sha256(names).hexdigest() + '  -', 'odd names')
    ok((root / 'd/e/f/b').stat().st_nlink == 2 and (root / 'd/hard').samefile(root / 'd/e/f/b'), 'the hard link is one')
    ok(os.readlink(root / 'd/soft') == 'e/f/b', 'the symlink is as it was written')
    ok(stat.S_ISFIFO((root / 'pipe').stat().st_mode), 'the FIFO is one')
    ok(m.value('waiting') and not (root / 'many').exists(), 'what was removed is gone')
    (root / 'new').write_text('from the host')
    (root / 'new').rename(root / 'later')
    m.expect('later', 'from the host', 'sees what the host makes meanwhile')
    found = m.value('find') or ''
    ok(found.startswith('2000 '), f'find: 2000 files ({found})')
    print(f'# find of 2000 files: {seconds(m, "find"):.2f} s; read {64 / seconds(m, "read"):.0f} MiB/s; '
          f'write {64 / seconds(m, "write"):.0f} MiB/s')
    m.expect('umount', '0', 'unmounts')
    ok(m.status() == 0, 'powers off')
    ok((TMP / 'other/secret').read_text() == 'not for guests' and os.listdir(TMP / 'other') == ['secret'],
       'what is outside was not touched')
    bad = m.complaints()
    ok(not bad, f'a clean serial log {bad[:5] or ""}') or m.show()


def readonly(kind, folder):
    root = TMP / 'root'
    root.mkdir()
    (root / 'file').write_text('kept')
    before = (root / 'file').stat()
    m = guest(kind, READONLY, folder, f'{root}:work,type={kind},readonly=on')
    m.expect('mount', '0', 'mounts a read-only share')
    m.expect('read', 'kept', 'reads')
    m.expect('tried', 'kept', 'nothing is changed')
    ok(m.status() == 0 and 'T: changed' not in m.log, 'every change fails')
    after = (root / 'file').stat()
    ok(os.listdir(root) == ['file'] and (before.st_mtime_ns, before.st_mode) == (after.st_mtime_ns, after.st_mode),
       'the file is as it was')


def lost(kind, folder):
    """The server's end is an error in the guest and a message, not the machine's end; the machine's end is the server's."""
    root = TMP / 'root'
    root.mkdir()
    (root / 'file').write_text('kept')
    m = guest(kind, LOST, folder, f'{root}:work,type={kind}', '--qmp', TMP / 'q')
    name = {'9p': 'hull-9p', 'virtiofs': 'virtiofsd'}[kind]
    m.expect('mount', '0', 'mounts')
    server = children(m.process.pid).get(name)
    ok(server and m.value('waiting'), 'a server runs')
    status, _, output = run('snapshot', '--qmp', TMP / 'q', TMP / 'saved')
    ok(status == 1 and 'a machine with --share cannot be saved' in output, f'a snapshot is refused ({output.strip()})')
    status, _, output = run('run', '--kernel', folder / 'vmlinuz', '--share', '/nowhere')
    ok(status == 1 and '/nowhere: No such file' in output, f'a directory that is not there is said so ({output.strip()})')
    os.kill(server, signal.SIGKILL)
    error = m.value('error') or ''
    ok('Input/output error' in error or 'I/O error' in error, f'the guest gets I/O errors ({error})')
    ok(m.value('still') not in (None, '0'), 'from then on')
    ok(m.status() == 0 and re.search('its (hull-9p|server) has ended', m.log), 'the machine goes on, and says why')
    m = guest(kind, LOST, folder, f'{root}:work,type={kind}', name='again')
    m.expect('mount', '0', 'mounts')
    found = children(m.process.pid)
    os.kill(found['hull-vmm'], signal.SIGKILL)
    ok(gone([found[name]]), 'a machine that is killed takes its server along')
    m.status()


def virtiofsd_works():
    """By itself, without hull: it needs a root of its own, which a chroot or a container may refuse."""
    program = next(filter(os.path.exists, ('/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd')), None)
    if not program:
        return False
    path, source = TMP / 'own.sock', ['-f', f'-osource={TMP}'] if '/qemu/' in program else [f'--shared-dir={TMP}']
    with subprocess.Popen([program, f'--socket-path={path}', *source], stderr=subprocess.DEVNULL) as p:
        with socket.socket(socket.AF_UNIX) as client:
            for _ in range(100):
                if path.exists() and p.poll() is None and client.connect_ex(str(path)) == 0:
                    break
                time.sleep(0.1)
            client.settimeout(10)
            client.sendall(struct.pack('<III', 1, 1, 0)) # VHOST_USER_GET_FEATURES
            try:
                works = len(client.recv(20)) > 0
            except OSError:
                works = False
        p.kill()
    return works


what = sys.argv[1]
kind = 'virtiofs' if what.endswith('virtiofs') else '9p'
linux = kernel('generic' if kind == '9p' else 'cloud')
if not linux:
    skip('share', 'no kernel package: apt has none in its cache and no network')
elif kind == 'virtiofs' and not virtiofsd_works():
    skip('share', 'no virtiofsd here, or not allowed its sandbox')
else:
    {'readonly': readonly, 'lost': lost}.get(what.split('-')[0], work)(kind, linux)
shutil.rmtree(TMP / 'root', ignore_errors=True)
done()
