#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A running machine's disks as NBD exports, with libnbd's tools and qemu-img as clients; garbage is shown the door.

Usage: nbdexport.py      (needs HULL_BUILD; nbdinfo and nbdcopy)"""
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import
sys.path.insert(0, str(HERE.parent / 'cli'))
from tap import SLEEP # pylint: disable=wrong-import-position

MIB = 1 << 20


def tool(*args):
    p = subprocess.run(list(map(str, args)), capture_output=True, text=True, check=False, timeout=60)
    return p.returncode, p.stdout, p.stderr.strip()


def main():
    disk, sock = TMP / 'd.qcow2', TMP / 'nbd.sock'
    data = os.urandom(3 * MIB) + bytes(5 * MIB) + os.urandom(MIB) + bytes(7 * MIB)
    (TMP / 'd.raw').write_bytes(data)
    subprocess.run(['qemu-img', 'convert', '-O', 'qcow2', TMP / 'd.raw', disk], check=True)
    m = Machine('--kernel', multiboot_guest(SLEEP), '--memory', '64M', '--net', 'none', '--qmp', TMP / 'q', '--nbd',
                '--disk', f'{disk},format=qcow2', '--timeout', '200', '--quiet')
    q = Qmp(TMP / 'q', 30)
    q.call('qmp_capabilities')
    got = q.call('block-export-add', type='nbd', id='e', **{'node-name': 'disk0'})
    ok('not running' in got.get('error', {}).get('desc', ''), f'no export before the server: {got}')
    got = q.call('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(sock)}})
    ok(got.get('return') == {}, f'nbd-server-start {got}')
    got = q.call('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(sock)}})
    ok('already running' in got.get('error', {}).get('desc', ''), 'once only')
    q.call('block-dirty-bitmap-add', node='disk0', **{'name': 'b'})
    got = q.call('block-export-add', type='nbd', id='e', writable=True, bitmaps=['b'], **{'node-name': 'disk0', 'name': 'd'})
    ok(got.get('return') == {}, f'block-export-add {got}')
    uri = f'nbd+unix:///d?socket={sock}'
    code, out, err = tool('nbdinfo', '--json', '--list', f'nbd+unix:///?socket={sock}')
    info = json.loads(out)['exports'][0] if code == 0 else {}
    ok(info.get('export-name') == 'd' and info.get('export-size') == len(data) and not info.get('is_read_only') and
       info.get('can_multi_conn') and 'base:allocation' in info.get('contexts', []) and
       'qemu:dirty-bitmap:b' in info.get('contexts', []), f'nbdinfo --list {err} {info}')
    code, out, err = tool('nbdcopy', uri, TMP / 'copy')
    ok(code == 0 and (TMP / 'copy').read_bytes() == data, f'nbdcopy has the same bytes {err}')
    code, out, err = tool('nbdinfo', '--map', '--json', uri)
    extents = json.loads(out) if code == 0 else []
    zero = sum(e['length'] for e in extents if e['type'] & 2)
    ok(zero == 12 * MIB and sum(e['length'] for e in extents) == len(data), f'nbdinfo --map: {err} {extents}')
    code, out, err = tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', f'nbd+unix:///d?socket={sock}', TMP / 'd.raw')
    ok(code == 0, f'qemu-img compare {out} {err}')
    part = os.urandom(2 * MIB)
    (TMP / 'part').write_bytes(part + bytes(14 * MIB))
    code, out, err = tool('nbdcopy', '--flush', TMP / 'part', uri)
    ok(code == 0, f'nbdcopy writes {err}')
    code, out, err = tool('nbdinfo', '--map=qemu:dirty-bitmap:b', '--json', uri)
    extents = json.loads(out) if code == 0 else []
    ok(code == 0 and extents and extents[0]['type'] == 1 and extents[0]['length'] >= 2 * MIB,
       f'what was written is in the bitmap {err} {extents}')
    for junk in (b'', b'x' * 3000, b'\0\0\0\3' + b'IHAVEOPT' + b'\0\0\0\7\xff\xff\xff\xff', b'\0\0\0\3' + b'IHAVEOPT' +
                 b'\0\0\0\7\0\0\0\6\0\0\xff\xff\0\0', b'\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\1d' + b'\x25\x60\x95\x13\0\0\0\1' + b'\0' * 8 +
                 b'\xff' * 12):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(sock))
            s.recv(18)
            try:
                s.sendall(junk)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass # it hung up first
    code, out, err = tool('nbdinfo', '--size', uri)
    ok(code == 0 and int(out) == len(data), f'garbage changes nothing {err}')
    got = q.call('query-block-exports')['return']
    ok(len(got) == 1 and got[0]['id'] == 'e' and got[0]['type'] == 'nbd', f'query-block-exports {got}')
    ok(q.call('block-export-del', id='e').get('return') == {} and q.event('BLOCK_EXPORT_DELETED'), 'block-export-del')
    ok(tool('nbdinfo', '--size', uri)[0] != 0, 'and it is gone')
    q.call('block-export-add', type='nbd', id='r', **{'node-name': 'disk0', 'name': 'd'})
    ok(tool('nbdcopy', TMP / 'part', uri)[0] != 0, 'an export that is not writable is not written')
    ok(q.call('nbd-server-stop').get('return') == {}, 'nbd-server-stop')
    ok(not sock.exists() or tool('nbdinfo', '--size', uri)[0] != 0, 'nobody answers')
    got = q.call('nbd-server-start', addr={'type': 'inet', 'data': {'host': '127.0.0.1', 'port': str(free_port())}})
    ok(got.get('return') == {}, f'a TCP port {got}')
    q.call('quit')
    m.status(20)
    (TMP / 'now').unlink(missing_ok=True)
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', disk, TMP / 'now'], check=True)
    ok((TMP / 'now').read_bytes() == (TMP / 'part').read_bytes(), 'the image has what the client wrote')


if shutil.which('nbdinfo'):
    main()
else:
    skip('NBD exports', 'no nbdinfo')
done()
