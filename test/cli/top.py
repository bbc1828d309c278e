#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hull top and x-hull-query-jit on a guest that does nothing but loop; the map for perf."""
import json
import subprocess
from tap import *

loop = multiboot_guest(b'\xfa' + b'\x90' * 5 + b'\xeb\xf9') # cli; more: 5 nops; jmp more


def shot(socket_path, *args):
    code, out, err = run('top', '--qmp', socket_path, *args)
    ok(code == 0 and not err, f'hull top {" ".join(args)} ({code} {err.strip()})')
    return out


def start(*args):
    path = TMP / 'qmp'
    hull = subprocess.Popen([HULL, 'run', '--kernel', loop, '--net', 'none', '--serial', 'none', '--qmp', path, *args],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    Qmp(path).socket.close() # it is there
    return hull, path


def test_loop():
    hull, path = start('--engine', 'soft,perf=on')
    pid = children(hull.pid)['hull-vmm']
    perf_map = pathlib.Path(f'/tmp/perf-{pid}.map')
    ok(perf_map.exists() and 'guest-stubs' in perf_map.read_text(), 'perf=on: the map is there and names the stubs')
    d = json.loads(shot(path, '--json'))
    cpu, before = d['now']['cpus'][0], d['before']['cpus'][0]
    ok(cpu['samples'] > before['samples'] and cpu['asked'] > before['asked'], f'samples: {cpu["samples"]} of {cpu["asked"]}')
    top = d['now']['top']
    ok(top and sum(t['samples'] for t in top) <= cpu['samples'], 'the addresses are samples')
    ok(len({t['address'] for t in top}) <= 2 and top[0]['ring'] == 0, f'all of them are in the loop: {top}')
    text = shot(path, '--once', '--interval', '0.3')
    ok(top[0]['address'] in text and 'vCPU' in text and 'share' in text, 'the same in words')
    hull.terminate()
    hull.wait(20)
    perf_map.unlink(missing_ok=True)


def test_refused():
    code, _, err = run('top')
    ok(code == 2 and '--qmp' in err, 'no socket is a usage error')
    code, _, err = run('top', '--qmp', TMP / 'none')
    ok(code == 1 and str(TMP / 'none') in err, 'no machine is an error that names the socket')
    code, _, err = run('top', '--qmp', 'x', '--interval', '0')
    ok(code == 2 and '--interval' in err, 'an interval of 0')
    hull, path = start('--deterministic')
    code, _, err = run('top', '--qmp', path)
    ok(code == 1 and 'deterministic' in err, f'deterministic machines are not sampled ({err.strip()})')
    hull.terminate()
    hull.wait(20)


test_loop()
test_refused()
done()
