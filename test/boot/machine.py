# SPDX-License-Identifier: MIT
"""A Linux guest under `hull run`, as the tests of whole machines use it: kernels, an initramfs, the serial log.

The guest's script prints lines "T: NAME VALUE"; value() waits for one."""
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'cli'))
from tap import BUILD, EXIT_7, HELLO, HULL, TMP, VMM, alive, children, done, gone, multiboot_guest, ok, run, skip, Qmp # pylint: disable=wrong-import-position
import initramfs # pylint: disable=wrong-import-position

KERNELS = pathlib.Path(os.environ.get('HULL_CACHE', BUILD / 'kernels'))
# Words that a healthy kernel does not say. The allowed lines use them of good news, on every Q35 machine; ours says why KVM does not run it.
BAD = re.compile(r'WARN|\bBUG\b|unhandled|spurious|lockup|call trace', re.I)
ALLOWED = ('use "pci=nocrs" and report a bug', 'This is not a bug.',
           'hull: warning: the soft engine runs this machine')


def kernel(name):
    """The folder with that kernel, or None: say why with skip()."""
    p = subprocess.run([HERE / 'fetch', KERNELS, name], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       check=False)
    if p.returncode:
        print('#', p.stderr.strip(), flush=True)
        return None
    return KERNELS / name


class Machine:
    """hull run, or another command, in the background; everything the guest's serial port says is in .log."""

    def __init__(self, *args, command=None, name='guest'):
        self.name = name
        self.log = ''
        self.args = list(map(str, command or [HULL, 'run', *args]))
        self.begin = time.monotonic()
        self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.changed = threading.Condition()
        self.over = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self.changed:
                self.log += data.decode(errors='replace').replace('\r', '')
                self.changed.notify_all()
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def find(self, pattern, seconds=120):
        """Waits for a match in the log; None when the machine ends or the time is over without one."""
        expression = re.compile(pattern, re.M)
        end = time.monotonic() + seconds
        with self.changed:
            while True:
                match = expression.search(self.log)
                left = end - time.monotonic()
                if match or self.over or left <= 0:
                    return match
                self.changed.wait(left)

    def value(self, name, seconds=120):
        match = self.find(rf'^T: {name} (.*)\n', seconds)
        return match and match[1]

    def status(self, seconds=120):
        """The exit status; a machine that does not end in time is ended, and the status is None."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
            status = None
        with self.changed:
            self.changed.wait_for(lambda: self.over, 5)
        return status

    def complaints(self):
        return [line for line in self.log.splitlines() if BAD.search(line) and not any(a in line for a in ALLOWED)]

    def expect(self, name, expected, what, seconds=120):
        got = self.value(name, seconds)
        return ok(got == expected, f'{self.name}: {what}' + ('' if got == expected else f' ({got!r}, not {expected!r})'))

    def show(self, lines=30):
        """The log's end as TAP comments."""
        for line in self.log.splitlines()[-lines:]:
            print('#', line)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s:
        return s.getsockname()[1]
