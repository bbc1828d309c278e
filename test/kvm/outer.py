# SPDX-License-Identifier: MIT
"""The outer machine of test/kvm: makes its initramfs, boots it, follows its results, ends it when it hangs."""
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / 'test/boot'))
import initramfs  # pylint: disable=wrong-import-position

MODULES = ('virtio_pci', 'virtio_console', 'virtio_blk', 'kvm', 'kvm_amd', 'tun', 'vhost_net', 'vhost_vsock', 'msr')
START_LIMIT = 150  # seconds until the first result; 4 on an idle host
SLACK = 60  # seconds that a case may take beyond its own limit


class Results:
    """What inner.sh writes (its format is described there), read as it grows."""

    def __init__(self, path):
        self.path, self.offset, self.rest = path, 0, b''
        self.log, self.status, self.seconds = {}, {}, {}
        self.running, self.limit, self.since = None, START_LIMIT, time.monotonic()
        self.finished, self.refusal = False, None

    def poll(self):
        with open(self.path, 'rb') as f:
            f.seek(self.offset)
            data = f.read()
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b'\n')
        for line in lines:
            self._line(line.decode(errors='replace').rstrip('\r'))

    def _line(self, line):
        word, _, rest = line.partition(' ')
        if word == '@begin':
            self.running, limit = rest.split()
            self.limit, self.since = int(limit) + SLACK, time.monotonic()
            self.log[self.running] = []
        elif word == '@end':
            name, status, begin, end = rest.split()
            self.status[name], self.seconds[name] = int(status), float(end) - float(begin)
            self.running, self.limit, self.since = None, SLACK, time.monotonic()
        elif word == '@finished':
            self.finished = True
        elif word == '@none':
            self.refusal = rest
        elif self.running:
            self.log[self.running].append(line[1:])

    def overdue(self):
        return time.monotonic() - self.since > self.limit

    def text(self, name):
        return '\n'.join(self.log.get(name, ()))


def command(*args, **kw):
    return subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **kw).stdout


def libraries(program):
    found = re.findall(r'(?:=> )?(/\S+) \(0x', command('ldd', program))
    return {pathlib.Path(f).name: f for f in found}


def take_programs(share, programs):
    """Programs and the libraries that they need, without debugging symbols."""
    for part in ('bin', 'lib'):
        (share / part).mkdir(parents=True, exist_ok=True)
    for program in map(pathlib.Path, programs):
        command('strip', '-o', share / 'bin' / program.name, program)
        for lib, path in libraries(program).items():
            if not (share / 'lib' / lib).exists():
                shutil.copy(path, share / 'lib' / lib)


def make_initramfs(out, kernel_dir, share):
    """The base and the share as two archives in one file, which the kernel takes. Uncompressed: TCG is slow."""
    script = (HERE / 'l1.sh').read_text()
    base = out.with_suffix('.base')
    initramfs.build(base, kernel_dir, script, MODULES)
    cpio = initramfs.Cpio()
    cpio.folder('share')
    for path in sorted(share.rglob('*')):
        name = 'share/' + str(path.relative_to(share))
        if path.is_dir():
            cpio.folder(name)
        else:
            cpio.file(name, path.read_bytes())
    out.write_bytes(base.read_bytes() + cpio.bytes())
    base.unlink()


def arguments(kernel, work, cpus, memory='2G', extra=()):
    return ['qemu-system-x86_64', '-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio', '-monitor', 'none',
            '-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', str(cpus), '-m', memory,
            '-kernel', str(kernel), '-initrd', str(work / 'l1.cpio'), '-append', 'console=ttyS0 loglevel=5 panic=-1', *extra]


def follow(process, results):
    """Until the process ends; None, or why it was ended before."""
    why = None
    while process.poll() is None:
        time.sleep(0.2)
        results.poll()
        if results.finished or results.refusal:
            break
        if results.overdue():
            why = f'{results.running} hangs' if results.running else \
                'it never started the tests' if not results.status else 'it stopped between two tests'
            break
    try:
        process.wait(15 if not why else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    results.poll()
    return why


def run_once(kernel, work, cpus, extra=(), memory='2G'):
    """Boots the outer machine for its tests. Its console is in WORK/l1.log."""
    port = work / 'results'
    port.write_bytes(b'')
    log = work / 'l1.log'
    args = arguments(kernel, work, cpus, memory, extra=[
        '-device', 'virtio-serial-pci', '-chardev', f'file,id=results,path={port}',
        '-device', 'virtserialport,nr=1,chardev=results', *extra])
    results = Results(port)
    with open(log, 'wb') as out:
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            why = follow(process, results)
        finally:
            process.kill()
            process.wait()
    if not why and not results.finished:
        why = results.refusal or f'it ended early, QEMU with status {process.returncode}'
    return results, why


def console_tail(work, lines=25):
    return (work / 'l1.log').read_text(errors='replace').splitlines()[-lines:]


def run(kernel, work, cpus, extra=(), memory='2G'):
    """As run_once; a machine that did not even start its tests gets a second chance, with a word about it."""
    results, why = run_once(kernel, work, cpus, extra, memory)
    if why and not results.log and not results.refusal:
        print(f'# the outer machine: {why}; its console ended with:')
        for line in console_tail(work):
            print(f'#   {line}')
        print('# once more', flush=True)
        shutil.copy(work / 'l1.log', work / 'l1.first.log')
        results, why = run_once(kernel, work, cpus, extra, memory)
    return results, why


def run_direct(share, work, suite):
    """On this host's own /dev/kvm."""
    port = work / 'results'
    port.write_bytes(b'')
    results = Results(port)
    env = {'PATH': f'{share}/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'LD_LIBRARY_PATH': str(share / 'lib')}
    with open(work / 'l1.log', 'wb') as out:
        process = subprocess.Popen(['sh', str(share / 'inner.sh'), str(share), str(port), suite], env=env,
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        why = follow(process, results)
    return results, why or (None if results.finished else results.refusal or 'inner.sh ended early')
