# SPDX-License-Identifier: MIT
"""What the command-line tests share: TAP lines, running hull, small guests, waiting for text."""
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(os.environ.get('HULL_BUILD', 'build')).resolve()
HULL = str(BUILD / 'cmd/hull/hull')
VMM = str(BUILD / 'cmd/hull-vmm/hull-vmm')

_count = _failed = 0
_dir = tempfile.TemporaryDirectory(prefix='hull-test-')
TMP = pathlib.Path(_dir.name)


def ok(good, name):
    global _count, _failed
    _count += 1
    _failed += not good
    name = name.replace('\n', ' | ')  # one line, whatever a program said
    print(f'{"ok" if good else "not ok"} {_count} - {name}', flush=True)
    return bool(good)


def skip(name, why):
    global _count
    _count += 1
    print(f'ok {_count} - {name} # SKIP {why}', flush=True)


def done():
    _dir.cleanup()
    print(f'1..{_count}')
    sys.exit(_failed != 0)


def run(*args, timeout=60, **more):
    """Runs hull; returns (status, stdout, stderr)."""
    p = subprocess.run([HULL, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                       check=False, **more)
    return p.returncode, p.stdout.decode(errors='replace'), p.stderr.decode(errors='replace')


def children(pid):
    """Process ids of hull's helpers and machine."""
    text = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return {pathlib.Path(f'/proc/{c}/comm').read_text().strip(): int(c) for c in text.split()}


def gone(pids, seconds=5):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(p) for p in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


class Terminal:
    """hull on a pseudo-terminal of its own."""

    def __init__(self, *args):
        self.text = ''
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(HULL, [HULL, *map(str, args)])

    def wait_for(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.text:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return False
            try:
                got = os.read(self.fd, 65536)
            except OSError:
                got = b''
            if not got:
                return text in self.text
            self.text += got.decode(errors='replace')
        return True

    def send(self, text):
        os.write(self.fd, text.encode())

    def status(self, seconds=20):
        """Waits for the end: exit status, or -signal."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.wait_for('\0never', 0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None


class Qmp:
    """A plain QMP client on a UNIX socket."""

    def __init__(self, path, seconds=10):
        end = time.monotonic() + seconds
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.file = self.socket.makefile('rw')
        self.events = []
        self.greeting = self.read()

    def read(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def call(self, name, /, **arguments):
        request = {'execute': name, 'id': 7}
        if arguments:
            request['arguments'] = arguments
        self.file.write(json.dumps(request) + '\n')
        self.file.flush()
        while True:
            answer = self.read()
            if answer is None or 'event' not in answer:
                return answer
            self.events.append(answer)

    def event(self, name):
        """Waits for an event of that name."""
        while True:
            for event in self.events:
                if event['event'] == name:
                    self.events.remove(event)
                    return event
            answer = self.read()
            if answer is None:
                return None
            self.events.append(answer)


def multiboot_guest(code):
    """A Multiboot kernel of a few bytes: `code` runs in 32-bit protected mode at 1 MiB + 48."""
    base = 0x100000
    flags = 1 << 16
    header = [0x1BADB002, flags, (-0x1BADB002 - flags) & 0xffffffff, base, base, 0, 0, base + 48]
    image = b''.join(x.to_bytes(4, 'little') for x in header).ljust(48, b'\0') + code
    path = TMP / f'guest-{abs(hash(code))}.elf'
    path.write_bytes(image.ljust(4096, b'\0'))
    return path


# mov $0xf4, %edx; mov $7, %al; out %al, (%dx); hlt
EXIT_7 = bytes.fromhex('baf4000000b007eef4')
# cli; hlt; jmp .-1: sleeps for ever
SLEEP = bytes.fromhex('faf4ebfd')
# lidt of an empty table, then int3: triple fault. sub $8,%esp? the stack is not set: use 0x7000
CRASH = bytes.fromhex('bc00700000' '6a00' '6a00' '0f011c24' 'cc')
# prints "up\n" on COM1 (0x3f8), then sleeps
HELLO = b''.join(bytes([0xba, 0xf8, 0x03, 0, 0, 0xb0, c, 0xee]) for c in b'up\n') + SLEEP
# prints "x" on COM1 without end
CHATTER = bytes.fromhex('baf8030000' 'b078' 'ee' 'ebfd')
# echoes COM1's input for ever: poll LSR (0x3fd) bit 0, read, write
ECHO = b''.join(bytes([0xba, 0xf8, 0x03, 0, 0, 0xb0, c, 0xee]) for c in b'up\n') + bytes.fromhex(
    'bafd030000' 'ec' 'a801' '74f6' 'baf8030000' 'ec' 'ee' 'ebed')
