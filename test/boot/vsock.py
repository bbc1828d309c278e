#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest and programs of the host talk by vsock over UNIX sockets, both ways; data is compared by checksum.

Usage: vsock.py      (needs HULL_BUILD; about 15 s on an idle host)"""
import hashlib
import os
import socket
import threading
import signal
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
CAT = BUILD / 'test/boot/vsock-cat'
SCRIPT = '''
vsock-cat listen 5000 </bytes >/tmp/in
echo "T: in $(sha256sum </tmp/in)"
vsock-cat connect 6000 </tmp/in >/tmp/back
echo "T: out $? $(sha256sum </tmp/back)"
vsock-cat connect 6001 </dev/null 2>/tmp/err
echo "T: nobody $? $(cat /tmp/err)"
vsock-cat echo 5001 20
echo "T: echoed $?"
t=$(cut -d ' ' -f 1 /proc/uptime)
dd if=/dev/zero bs=64k count=1024 2>/dev/null | vsock-cat connect 6002
echo "T: rate $t $(cut -d ' ' -f 1 /proc/uptime)"
'''


def sha(data):
    return hashlib.sha256(data).hexdigest() + '  -'


def connect(path, port):
    """A connection to the guest's port, past the greeting; None if it refuses."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(120)
    s.connect(str(path))
    s.sendall(f'CONNECT {port}\n'.encode())
    line = b''
    while not line.endswith(b'\n'):
        byte = s.recv(1)
        if not byte:
            s.close()
            return None
        line += byte
    return s if line.startswith(b'OK ') else None


def read_all(s):
    data = bytearray()
    while got := s.recv(1 << 18):
        data += got
    return bytes(data)


def exchange(s, data):
    """Sends data while reading; gives what came back."""
    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    back = read_all(s)
    sender.join(60)
    s.close()
    return back


def serve(path, handle):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    server.settimeout(200)

    def run():
        try:
            with server, server.accept()[0] as c:
                c.settimeout(120)
                handle(c)
        except OSError:
            pass
    threading.Thread(target=run, daemon=True).start()


def echo_many(path, count):
    data = [os.urandom(100000 + i) for i in range(count)]
    good = [False] * count

    def one(i):
        s = connect(path, 5001)
        good[i] = s is not None and exchange(s, data[i]) == data[i]
    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    return sum(good)


def test(folder):
    path, image = TMP / 'v', TMP / 'vsock.cpio'
    to_guest, from_guest, answer, drained = os.urandom(4 * MIB), os.urandom(3 * MIB), os.urandom(MIB), []
    came = []
    serve(f'{path}_6000', lambda c: came.append(exchange(c, answer)))
    serve(f'{path}_6002', lambda c: drained.append(len(read_all(c))))
    initramfs.build(image, folder, SCRIPT, modules=('virtio_pci', 'vmw_vsock_virtio_transport'),
                    files={'bin/vsock-cat': CAT.read_bytes(), 'bytes': from_guest})
    m = Machine('--engine', 'soft', '--kernel', folder / 'vmlinuz', '--initrd', image, '--append', 'console=ttyS0',
                '--net', 'none', '--memory', '256M', '--timeout', '200', '--vsock', f'42,socket={path}', name='vsock')
    if not ok(m.find('^T: listens 5000'), 'the guest listens'):
        m.show()
        return
    ok(connect(path, 9) is None, 'a port where nobody listens is refused')
    s = connect(path, 5000)
    if ok(s, 'the host connects'):
        ok(exchange(s, to_guest) == from_guest, '3 MiB from the guest while 4 MiB go there')
    m.expect('in', sha(to_guest), 'which arrive')
    m.expect('out', f'0 {sha(answer)}', 'the guest connects and is answered')
    ok(came == [to_guest], 'what it sent arrived')
    refused = m.value('nobody') or ''
    ok(refused.startswith('1 connect: Connection reset'), f'where nobody listens it is refused ({refused})')
    if m.find('^T: listens 5001'):
        good = echo_many(path, 20)
        ok(good == 20, f'20 connections at a time ({good} good)')
    m.expect('echoed', '0', 'and the guest saw no error')
    if rate := m.value('rate'):
        begin, end = map(float, rate.split())
        ok(m.status() == 0 and drained == [64 * MIB], 'powers off')
        print(f'# guest to host: {64 / max(end - begin, 0.01):.0f} MiB/s')
    bad = m.complaints()
    ok(not bad, f'a clean serial log {bad[:5] or ""}') or m.show()
    ok(not path.exists(), 'its socket is gone')


def test_killed(folder):
    """kill -9 of the machine leaves no dialer, and the socket can be taken again."""
    path = TMP / 'k'
    m = Machine('--engine', 'soft', '--kernel', folder / 'vmlinuz', '--append', 'console=ttyS0', '--net', 'none',
                '--timeout', '60', '--vsock', f'3,socket={path}', name='killed')
    m.find('Linux version')
    vmm = children(m.process.pid).get('hull-vmm')
    dialer = vmm and children(vmm).get('hull-dialer')
    ok(dialer, 'the machine has a dialer')
    os.kill(vmm, signal.SIGKILL)
    ok(gone([vmm, dialer]), 'which goes with it')
    m.status()
    ok(path.exists(), 'the socket stays')
    m = Machine('--engine', 'soft', '--kernel', folder / 'vmlinuz', '--append', 'console=ttyS0', '--net', 'none',
                '--timeout', '60', '--vsock', f'3,socket={path}', name='again')
    ok(m.find('Linux version'), 'and is taken over')
    other = Machine('--engine', 'soft', '--kernel', folder / 'vmlinuz', '--net', 'none', '--timeout', '20',
                    '--vsock', f'4,socket={path}')
    ok(other.status() == 1 and 'another process listens there' in other.log, 'but not while it is in use')
    m.process.terminate()
    m.status()


cloud = kernel('cloud')
if not cloud:
    skip('vsock', 'no kernel package: apt has none in its cache and no network')
elif not CAT.exists():
    skip('vsock', 'this build has no static programs for guests')
else:
    test(cloud)
    test_killed(cloud)
done()
