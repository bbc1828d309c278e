#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whole Debian systems under `hull run`: boots with 1, 2 and 8 vCPUs, workloads whose results are checked, and
every way for a machine to end.

The image is built once into HULL_BUILD (minutes). HULL_DEBIAN_IMAGE and HULL_DEBIAN_KEY name another with the same
packages, which is not written to: every machine runs on a copy.
Usage: debian.py [boot] [work] [share] [end]    without arguments: all of them
       debian.py image                          only builds the image, and prints where it and the key are"""
import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

from machine import BUILD, HULL, TMP, Machine, Qmp, children, done, free_port, gone, ok, skip
from tap import Terminal

PACKAGES = 'fio,iperf3,stress-ng,gcc,libc6-dev,openssl'
PASSWORD = 'hull'
BOOT_SECONDS = int(os.environ.get('HULL_BOOT_SECONDS', 600))  # eight vCPUs on two loaded cores


def note(text):
    print('#', text, flush=True)


def image():
    """The image and the key that logs in, built if need be; None when that fails."""
    if 'HULL_DEBIAN_IMAGE' in os.environ:
        return pathlib.Path(os.environ['HULL_DEBIAN_IMAGE']), pathlib.Path(os.environ['HULL_DEBIAN_KEY'])
    path, key = BUILD / 'debian-test.img', BUILD / 'debian_test_key'
    with open(BUILD / 'debian-test.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not key.exists():
            subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], check=True)
        if not path.exists():
            p = subprocess.run([HULL, 'image', 'build', 'debian:12', '-o', path, '--size', '6G', '--packages', PACKAGES,
                                '--ssh-key', f'{key}.pub', '--password', PASSWORD, '--hostname', 'hull'],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               check=False)
            if p.returncode:
                for line in p.stdout.splitlines()[-20:]:
                    note(line)
                return None
    return path, key


def copy(source):
    """A copy of the image and its kernel for one machine."""
    to = TMP / f'{time.monotonic_ns()}.img'
    subprocess.run(['cp', '--sparse=always', '--reflink=auto', source, to], check=True)
    subprocess.run(['cp', '-r', f'{source}.boot', f'{to}.boot'], check=True)
    return to


class Debian(Machine):
    """One machine in the background, with its QMP socket, and commands over ssh."""

    def __init__(self, disk, key, cpus, *more):
        self.port = free_port()
        self.key = key
        base = TMP / f'{time.monotonic_ns()}'
        self.qmp_path, self.control = base.with_suffix('.qmp'), base.with_suffix('.ssh')
        super().__init__(disk, '--memory', '1G', '--cpus', cpus, '--net', f'user,forward=tcp:{self.port}:22', '--qmp',
                         self.qmp_path, *more, name=f'{cpus} vCPU{"s" if cpus > 1 else ""}')

    def wait_login(self, boots=1, seconds=BOOT_SECONDS):
        """Waits for the login prompt of that many boots."""
        return self.find(r'(^hull login: [\s\S]*?){%d}' % boots, seconds)

    def ssh(self, command, seconds=300):
        """Runs a shell command in the guest; (status, output). A dead connection is 255, a hang None."""
        args = ['ssh', '-p', self.port, '-i', self.key, '-o', 'StrictHostKeyChecking=no', '-o', 'BatchMode=yes', '-o',
                'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', '-o', 'ConnectTimeout=60', '-o',
                'ControlMaster=auto', '-o', f'ControlPath={self.control}', '-o', 'ControlPersist=600',
                'debian@127.0.0.1', command]
        with open(TMP / 'ssh.out', 'w+', errors='replace') as out:  # not a pipe: the control master would keep it open
            try:
                p = subprocess.run(list(map(str, args)), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   timeout=seconds, check=False)
            except subprocess.TimeoutExpired:
                return None, ''
            out.seek(0)
            return p.returncode, out.read().strip()

    def sudo(self, command, seconds=300):
        return self.ssh(f'sudo -n sh -c {shlex.quote(command)}', seconds)

    def disconnect(self):
        subprocess.run(['ssh', '-O', 'exit', '-o', f'ControlPath={self.control}', 'guest'], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def all_complaints(self):
        """Those of the log and of dmesg, where more is than on the console."""
        status, dmesg = self.sudo('dmesg')
        with self.changed:
            self.log += dmesg if status == 0 else 'BUG: no dmesg\n'
        return self.complaints()

    def resident(self):
        """What the machine's process keeps in the host's memory, in MiB."""
        pid = children(self.process.pid)['hull-vmm']
        return int(re.search(r'VmRSS:\s+(\d+)', pathlib.Path(f'/proc/{pid}/status').read_text())[1]) // 1024

    def close(self):
        """Ends what is left, ssh's connection and the machine."""
        self.disconnect()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


@contextlib.contextmanager
def machine(source, key, cpus, *more):
    disk = copy(source)
    guest = Debian(disk, key, cpus, *more)
    try:
        yield guest
    finally:
        guest.close()
        disk.unlink()


def check_boot(guest, cpus):
    """Login prompt, every vCPU, no failed unit, no complaint."""
    up = guest.wait_login()
    note(f'{guest.name}: login prompt after {time.monotonic() - guest.begin:.1f} s, host load '
         f'{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs')
    if not ok(up, f'{guest.name}: boots to the login prompt'):
        guest.show()
        note('ssh: %s' % (guest.ssh('uptime; systemctl --failed; systemctl list-jobs', 120),))
        return False
    status, text = guest.ssh('nproc; cat /proc/sys/kernel/tainted')
    if not ok(status == 0 and text.split() == [str(cpus), '0'],
              f'{guest.name}: all are up, the kernel is not tainted ({status} {text})'):
        return status == 0
    status, text = guest.ssh('systemctl is-system-running --wait; systemctl --failed --no-legend --plain')
    ok(status == 0 and text == 'running', f'{guest.name}: no unit has failed ({text})')
    status, text = guest.ssh('systemctl show -P JobRunningTimeoutUSec dev-ttyS0.device')
    ok(text == '15min', f'{guest.name}: systemd waits long enough for devices on a busy host ({text})')
    bad = guest.all_complaints()
    ok(not bad, f'{guest.name}: the kernel has nothing to complain about {bad}')
    note(f'{guest.name}: {guest.resident()} MiB resident')
    return True


def test_boot(source, key):
    for cpus in (1, 8):
        with machine(source, key, cpus) as guest:
            if not check_boot(guest, cpus):
                continue
            if cpus == 1:
                guest.sudo('systemctl poweroff')
                status = guest.status(600)
                ok(status == 0, f'{guest.name}: poweroff from inside ends it with status 0 ({status})')
            else:
                qmp = Qmp(guest.qmp_path)
                qmp.call('qmp_capabilities')
                qmp.call('system_powerdown')
                status = guest.status(600)
                ok(status == 0, f'{guest.name}: the power button ends it with status 0 ({status})')
                ok('Power down' in guest.log and 'Stopped' in guest.log,
                   f'{guest.name}: after an orderly shutdown')


def work_disk(guest, data, scratch):
    """The second disk is read whole, the third written at random and verified; what stays is what the host sees."""
    size = data.stat().st_size
    begin = time.monotonic()
    status, text = guest.sudo('dd if=/dev/vdb bs=1M iflag=direct status=none | sha256sum', 900)
    seconds = time.monotonic() - begin
    with open(data, 'rb') as file:
        expected = hashlib.file_digest(file, 'sha256').hexdigest()
    ok(status == 0 and text.split()[0] == expected,
       f'{size >> 20} MiB read from a disk are what the host wrote ({text})')
    note(f'dd + sha256sum: {size / seconds / 2**20:.1f} MiB/s')
    for name, engine in (('libaio', 'libaio'), ('buffered', 'psync')):
        status, text = guest.sudo(f'fio --name={name} --filename=/dev/vdc --rw=randwrite --bsrange=512-64k --size=64M '
                                  f'--ioengine={engine} --iodepth=16 --direct={int(engine == "libaio")} --randseed=7 '
                                  '--verify=crc32c --do_verify=1 --verify_fatal=1 --end_fsync=1 '
                                  '--output-format=json', 900)
        try:
            job = json.loads(text[text.index('{'):])['jobs'][0]
        except (ValueError, KeyError):
            job = None
        ok(status == 0 and job and job['error'] == 0 and job['read']['total_ios'] > 1000,
           f'fio {name}: random writes verify ({status} {"" if job else text[-500:]})')
        if job:
            note(f'fio {name}: write {job["write"]["iops"]:.0f} IOPS {job["write"]["bw"] / 1024:.1f} MiB/s, verify '
                 f'{job["read"]["iops"]:.0f} IOPS {job["read"]["bw"] / 1024:.1f} MiB/s')
    status, text = guest.sudo('sha256sum /dev/vdc', 900)
    with open(scratch, 'rb') as file:
        ok(status == 0 and text.split()[0] == hashlib.file_digest(file, 'sha256').hexdigest(),
           f'the host sees what the guest wrote ({status})')


def work_network(guest):
    try:
        server = subprocess.Popen(['iperf3', '-s', '-p', str(port := free_port())], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        skip('iperf3 to and from the host', 'no iperf3')
        return
    try:
        for name, flag in (('to', ''), ('from', '-R')):
            status, text = guest.ssh(f'iperf3 -c 10.0.2.2 -p {port} -t 8 -J {flag}')
            try:
                rate = json.loads(text)['end']['sum_received']['bits_per_second'] / 1e6
            except (ValueError, KeyError):
                rate = 0
            ok(status == 0 and rate > 1, f'iperf3 {name} the host: {rate:.0f} Mbit/s ({status} {"" if rate else text})')
    finally:
        server.terminate()
        server.wait()
    status, text = guest.sudo('apt-get update', 600)
    ok(status == 0 and not re.search(r'^(W|E|Err):', text, re.M), f'apt-get update ({status} {text[-300:]})')


PROGRAM = r'''
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static _Atomic long count;
static long plain;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *add(void *arg)
{
    for (int i = 0; i < 200000; i++) {
        atomic_fetch_add(&count, 1);
        pthread_mutex_lock(&lock);
        plain++;
        pthread_mutex_unlock(&lock);
    }
    return arg;
}
int main(void)
{
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, add, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    double sum = 0;
    for (int i = 1; i <= 100000; i++)
        sum += sin(i) / i;
    printf("%ld %ld %.10f\n", count, plain, sum);
}
'''


def work_compiler(guest):
    status, text = guest.ssh(f'cat >a.c <<"END"\n{PROGRAM}END\ngcc -O2 -Wall a.c -o a -lm -lpthread && ./a && ./a', 600)
    answer = f'800000 800000 {sum(math.sin(i) / i for i in range(1, 100001)):.10f}'
    ok(status == 0 and text.splitlines() == [answer] * 2,
       f'gcc compiles a threaded program that gets its sums right ({status} {text})')


SIGN = ('openssl dgst -sha256 -sign k.pem -out s seed; openssl pkey -in k.pem -pubout -out p.pem; '
        'openssl dgst -sha256 -verify p.pem -signature s seed')


def work_openssl(guest, data):
    """The same digests and ciphers in the guest and on the host, with the vector code that each CPU model selects."""
    lines = [f'openssl dgst -r -{d} seed' for d in ('md5', 'sha1', 'sha256', 'sha512', 'sha3-256', 'blake2b512')]
    lines += [f'openssl enc -{c} -K {"00112233445566778899aabbccddeeff" * 2} -iv 0102030405060708090a0b0c0d0e0f10 '
              f'-in seed | openssl dgst -r -sha256' for c in ('aes-256-cbc', 'aes-256-ctr', 'chacha20')]
    lines += ['openssl prime -generate -bits 64 | xargs openssl prime | grep -c "is prime"',
              f'openssl genrsa -out k.pem 1024 2>/dev/null; {SIGN}',
              f'openssl ecparam -name prime256v1 -genkey -out k.pem; {SIGN}',
              'openssl speed -seconds 1 -bytes 1024 sha256 aes-128-cbc 2>/dev/null | tail -2 >&2']
    script = '\n'.join(lines)
    status, text = guest.sudo(f'head -c 2000000 /dev/vdb >/tmp/seed; cd /tmp; ({script}) 2>speed; cat speed', 600)
    (TMP / 'seed').write_bytes(data.read_bytes()[:2000000])
    host = subprocess.run(['sh', '-c', script], cwd=TMP, capture_output=True, text=True, check=False).stdout
    mine = text.splitlines()
    ok(status == 0 and len(host.splitlines()) == 12 and mine[:12] == host.splitlines(),
       f'openssl computes what the host computes ({status} '
       f'{[(a, b) for a, b in zip(mine, host.splitlines()) if a != b]})')
    for line in mine[12:]:
        note('openssl speed: ' + line)


def work_stress(guest):
    status, text = guest.ssh('stress-ng --cpu 2 --vm 1 --vm-bytes 64M --matrix 1 --verify --timeout 60 --metrics-brief',
                             600)
    ok(status == 0 and 'successful run completed' in text and not re.search(r'fail|error', text),
       f'stress-ng --cpu --vm --matrix --verify for a minute ({status} {text[-800:] if status else ""})')
    for line in text.splitlines():
        if 'metrc' in line and 'matrix ops' not in line:
            note(line)


def test_work(source, key):
    data, scratch = TMP / 'data', TMP / 'scratch'
    with open(data, 'wb') as file:
        for _ in range(int(os.environ.get('HULL_DEBIAN_MIB', 1024))):
            file.write(os.urandom(1 << 20))
    with open(scratch, 'wb') as file:
        file.truncate(64 << 20)
    with machine(source, key, 2, '--disk', f'{data},readonly=on', '--disk', scratch) as guest:
        if not check_boot(guest, 2):
            return
        work_disk(guest, data, scratch)
        work_network(guest)
        work_compiler(guest)
        work_openssl(guest, data)
        work_stress(guest)
        bad = guest.all_complaints()
        ok(not bad, f'no complaint of the kernel after all that {bad}')
        note(f'{guest.resident()} MiB resident')
        guest.sudo('systemctl reboot')
        up = guest.wait_login(2)
        guest.disconnect()
        if not ok(up, 'reboot from inside: the login prompt comes again'):
            guest.show()
        status, text = guest.ssh('uptime; systemctl --failed --no-legend --plain')
        ok(status == 0, f'and ssh works again ({status} {text})')
        guest.sudo('poweroff')
        status = guest.status(600)
        ok(status == 0, f'poweroff after a reboot: status 0 ({status})')


# Each program is another one in the same file: a processor that went on with old code would give old results.
PROGRAMS = r'''
cd /mnt/build && for i in $(seq 1 12); do
    printf 'int main(void) { return %d; }' $i >p.c && gcc -o p p.c && ./p
    [ $? = $i ] || echo wrong $i
done'''


def work_share(guest, root):
    """The guest works in a directory of the host, mounted by fstab: trees, mmap, programs compiled and run there."""
    status, text = guest.sudo('echo "work /mnt virtiofs nofail 0 0" >>/etc/fstab && systemctl daemon-reload && mount /mnt && '
                              'mkdir /mnt/build && chown debian /mnt/build && findmnt -n -o FSTYPE /mnt')
    if not ok(status == 0 and text == 'virtiofs', f'the share is mounted by fstab ({status} {text})'):
        return
    status, text = guest.sudo('cp -a /etc /usr/lib/gcc /mnt/ && diff -r --no-dereference /etc /mnt/etc && '
                              'diff -r --no-dereference /usr/lib/gcc /mnt/gcc && find /mnt -type f | wc -l', 900)
    count = sum(path.is_file() and not path.is_symlink() for path in root.rglob('*'))
    ok(status == 0 and text == str(count), f'trees are copied to it: {count} files ({status} {text[-300:]})')
    status, text = guest.ssh(PROGRAMS, 900)
    ok(status == 0 and not text, f'programs are compiled and run there ({status} {text[-300:]})')
    status, text = guest.sudo('fio --name=share --directory=/mnt --rw=randwrite --bsrange=512-64k --size=32M --ioengine=mmap '
                              '--verify=crc32c --do_verify=1 --verify_fatal=1 --end_fsync=1 --output-format=json', 900)
    ok(status == 0 and '"error" : 0' in text, f'fio through mmap verifies ({status} {"" if status == 0 else text[-300:]})')
    status, text = guest.sudo('sha256sum </mnt/share.0.0')
    expected = hashlib.sha256((root / 'share.0.0').read_bytes()).hexdigest()
    ok(text.startswith(expected), 'and is what the host sees')
    status, text = guest.sudo('umount /mnt && mount /mnt && ls /mnt | wc -l')
    ok(status == 0 and text == str(len(list(root.iterdir()))), f'it is mounted again ({status} {text})')


def test_share(source, key):
    if not any(map(os.path.exists, ('/usr/lib/qemu/virtiofsd', '/usr/libexec/virtiofsd'))):
        skip('share', 'no virtiofsd here, and the cloud kernel has no 9p')
        return
    root = TMP / 'share'
    root.mkdir()
    root.chmod(0o755)
    with machine(source, key, 2, '--share', f'{root}:work') as guest:
        if not ok(guest.wait_login(), f'{guest.name}: boots to the login prompt'):
            guest.show()
            return
        work_share(guest, root)
        bad = guest.all_complaints()
        ok(not bad, f'the kernel has nothing to complain about {bad}')
        status, text = guest.sudo('systemctl reboot')
        ok(guest.wait_login(2), f'reboots with the share in fstab ({status} {text})') or guest.show()
        guest.disconnect()
        status, text = guest.sudo('findmnt -n -o FSTYPE /mnt')
        ok(text == 'virtiofs', f'and has it mounted ({status} {text})')
        guest.sudo('poweroff')
        status = guest.status(600)
        ok(status == 0, f'poweroff: status 0 ({status})')


def test_end(source, key):
    """On a terminal: log in with the password, see the prompt, Ctrl-A x."""
    del key
    disk = copy(source)
    t = Terminal('run', disk, '--memory', '1G', '--cpus', '2', '--net', 'none')
    try:
        ok(t.wait_for('hull login: ', BOOT_SECONDS), 'the terminal gets a login prompt')
        t.send('debian\r')
        ok(t.wait_for('Password: ', 120), 'which asks for the password')
        t.send(PASSWORD + '\r')
        ok(t.wait_for('debian@hull:', 120), 'and lets in')
        t.send('echo $((6*7))-$USER\r')
        ok(t.wait_for('42-debian', 60), 'the shell answers')
        pids = list(children(t.pid).values())
        t.send('\x01x')
        status = t.status()
        ok(status == 0 and gone(pids), f'Ctrl-A x ends the machine with status 0 ({status})')
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(t.pid, signal.SIGKILL)
        disk.unlink()


def main():
    found = image()
    if sys.argv[1:] == ['image']:
        print(*found or (), sep='\n')
        sys.exit(not found)
    if not ok(found, 'hull image build makes a Debian disk'):
        done()
    for name in sys.argv[1:] or ('boot', 'work', 'share', 'end'):
        globals()['test_' + name](*found)
    done()


if __name__ == '__main__':
    main()
