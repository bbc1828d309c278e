#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A machine's life seen from outside: exit statuses, signals, the terminal, QMP, what kill -9 leaves."""
import os
import signal
import subprocess
import termios
import time
from tap import *

exit_7, sleeper, crash, hello, echo, chatter = map(multiboot_guest, (EXIT_7, SLEEP, CRASH, HELLO, ECHO, CHATTER))


def machine(kernel, *args):
    return ['run', '--kernel', kernel, '--net', 'none', '--memory', '16M', *args]


def test_statuses():
    code, _, err = run(*machine(exit_7, '--debug-exit'))
    ok(code == 7, f'the guest chooses its status with --debug-exit ({code} {err})')
    code, _, err = run(*machine(crash))
    ok(code == 3 and 'triple fault' in err, f'a triple fault is status 3 ({code} {err.strip()})')
    begin = time.monotonic()
    code, _, err = run(*machine(sleeper, '--timeout', '1'))
    ok(code == 124 and 0.9 < time.monotonic() - begin < 5, f'--timeout is status 124 ({code} {err.strip()})')
    code, out, err = run(*machine(hello, '--timeout', '1'))
    ok(out == 'up\n', f'serial output reaches stdout ({out!r} {err.strip()})')
    log = TMP / 'serial.log'
    run(*machine(hello, '--timeout', '1', '--serial', f'file:{log}'))
    ok(log.read_text() == 'up\n', 'and a file')


def test_signals():
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        p = subprocess.Popen([HULL, *map(str, machine(hello))], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        p.stdout.readline()
        pids = list(children(p.pid).values())
        p.send_signal(sig)
        ok(p.wait(10) == 128 + sig and gone(pids), f'{sig.name} ends the machine: status {p.returncode}')


def test_stuck_reader():
    p = subprocess.Popen([HULL, *map(str, machine(chatter))], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    p.stdout.read(100)
    time.sleep(1)  # nobody reads any more, and the pipe fills
    pids = list(children(p.pid).values())
    p.send_signal(signal.SIGTERM)
    ok(p.wait(20) == 128 + signal.SIGTERM and gone(pids), f'SIGTERM ends a machine whose output nobody reads: {p.returncode}')
    p.stdout.close()


def test_terminal():
    t = Terminal(*machine(echo))
    before = termios.tcgetattr(t.fd)
    ok(t.wait_for('up'), 'the console is on the terminal')
    ok(termios.tcgetattr(t.fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG) == 0, 'which is raw')
    t.send('hi\x03')
    ok(t.wait_for('hi\x03'), 'keys reach the guest, Ctrl-C too')
    t.send('\x01h')
    ok(t.wait_for('Ctrl-A x'), 'Ctrl-A h helps')
    t.send('\x01x')
    ok(t.status() == 0, 'Ctrl-A x ends the machine')
    t = Terminal(*machine(echo))
    t.wait_for('up')
    for pid in children(t.pid).values():
        os.kill(pid, signal.SIGKILL)
    status = t.status()
    ok(status == 137 and termios.tcgetattr(t.fd)[3] == before[3], f'killed machine: terminal as before ({status})')


def test_qmp():
    path = TMP / 'qmp'
    p = subprocess.Popen([HULL, *map(str, machine(echo, '--qmp', path, '--name', 'box'))], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE)
    p.stdout.readline()
    q = Qmp(path)
    ok('QMP' in q.greeting and 'version' in q.greeting['QMP'], 'greeting')
    ok(q.call('query-status')['error']['class'] == 'CommandNotFound', 'capabilities come first')
    ok(q.call('qmp_capabilities') == {'return': {}, 'id': 7}, 'capabilities')
    ok(q.call('query-status')['return']['status'] == 'running', 'query-status')
    ok(q.call('query-name')['return'] == {'name': 'box'}, 'query-name')
    cpus = q.call('query-cpus-fast')['return']
    ok(len(cpus) == 1 and os.path.exists(f'/proc/{cpus[0]["thread-id"]}'), 'query-cpus-fast names a real thread')
    exits = q.call('x-hull-stats')['return']['cpus'][0]['exits']
    ok({'port', 'mmio', 'msr', 'emulated', 'kick'} <= exits.keys() and exits['emulated'] == 0, f'x-hull-stats counts exits {exits}')
    ok(q.call('query-block')['return'] == [], 'query-block')
    ok('hull' in q.call('query-version')['return']['package'], 'query-version')
    q.call('stop')
    ok(q.event('STOP') and q.call('query-status')['return']['running'] is False, 'stop')
    q.call('cont')
    ok(q.event('RESUME') and q.call('query-status')['return']['running'] is True, 'cont')
    ok('return' in q.call('system_powerdown') and q.event('POWERDOWN'), 'system_powerdown')
    ok('return' in q.call('system_reset') and q.event('RESET'), 'system_reset')
    ok(p.stdout.readline() == b'up\n', 'the guest starts again')
    ok(q.call('no-such')['error']['class'] == 'CommandNotFound', 'unknown command')
    q.file.write('{"execute": 3}\n{broken}\n\n[1]\n')
    q.file.flush()
    answers = [q.read() for _ in range(3)]
    ok(all('error' in a for a in answers), f'junk gets errors, the connection goes on')
    other = Qmp(path)
    ok(other.call('qmp_capabilities') and other.call('query-status')['return']['running'], 'a second client')
    ok('return' in q.call('quit') and q.event('SHUTDOWN'), 'quit')
    ok(p.wait(10) == 0 and not path.exists(), 'which ends the machine; its socket is gone')


def test_killed():
    path = TMP / 'qmp2'
    for victim in ('hull', 'hull-vmm', 'hull-usernet'):
        args = ['run', '--kernel', hello, '--memory', '16M', '--qmp', path]
        p = subprocess.Popen([HULL, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        p.stdout.readline()
        pids = children(p.pid)
        os.kill(p.pid if victim == 'hull' else pids[victim], signal.SIGKILL)
        if victim == 'hull-usernet': # the machine goes on without a network
            time.sleep(0.2)
            p.terminate()
        p.wait(10)
        left = [n for n, i in pids.items() if not gone([i])]
        ok(not left, f'kill -9 of {victim} leaves no process {left}')
        if victim != 'hull':
            ok(not path.exists(), f'kill -9 of {victim} leaves no socket')
    p = subprocess.Popen([HULL, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    ok(p.stdout.readline() == b'up\n', 'the stale socket of a killed hull is replaced')
    p.terminate()
    p.wait(10)


def test_fences():
    p = subprocess.Popen([HULL, *map(str, machine(hello))], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    p.stdout.readline()
    pid = children(p.pid)['hull-vmm']
    status = dict(line.split(':\t', 1) for line in open(f'/proc/{pid}/status').read().splitlines() if ':\t' in line)
    ok(status['Seccomp'] == '2' and status['NoNewPrivs'] == '1', 'seccomp and no-new-privs are on')
    threads = os.listdir(f'/proc/{pid}/task')
    ok(all('Seccomp:\t2' in open(f'/proc/{pid}/task/{t}/status').read() for t in threads), 'in every thread')
    maps = open(f'/proc/{pid}/maps').read()
    ok(not any('x' in line.split()[1] and 'w' in line.split()[1] for line in maps.splitlines()),
       'no mapping is writable and executable')
    p.terminate()
    p.wait(10)
    if os.geteuid() == 0:
        p = subprocess.Popen([HULL, *map(str, machine(hello, '--user', 'nobody'))], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        TMP.chmod(0o755)
        line = p.stdout.readline()
        pids = children(p.pid)
        ok(line == b'up\n' and 'hull-vmm' in pids and os.stat(f'/proc/{pids["hull-vmm"]}').st_uid != 0 or
           'Uid:\t0' not in open(f'/proc/{pids["hull-vmm"]}/status').read(), '--user drops root')
        p.terminate()
        p.wait(10)
    else:
        skip('--user drops root', 'not root')


def start(*args, **more):
    """A machine whose guest has said "up"."""
    p = subprocess.Popen([HULL, *map(str, args)], stdin=more.pop('stdin', subprocess.DEVNULL), stdout=subprocess.PIPE,
                         **more)
    p.stdout.readline()
    return p


def end(p, status=128 + signal.SIGTERM):
    p.terminate()
    try:
        return p.wait(10) == status
    except subprocess.TimeoutExpired:
        p.kill()
        return False


def test_qmp_hostile():
    path = TMP / 'qmp3'
    p = start(*machine(echo, '--qmp', path))
    q = Qmp(path)
    q.call('qmp_capabilities')
    silent = Qmp(path)
    silent.call('qmp_capabilities')
    try:
        silent.socket.sendall(b'{"execute": "query-commands"}' * 20000)
    except OSError:
        pass # dropped
    ok('return' in q.call('query-status'), 'a client that never reads holds nobody up')
    q.file.write('{"execute": "' + 'x' * 63 + chr(233) * 40 + '"}\n')
    q.file.flush()
    ok(q.read()['error']['class'] == 'CommandNotFound', 'a name cut inside a character')
    q.socket.sendall(b'{"execute": "\xff\xfe"}\n' + b'[' * 5000 + b']' * 5000 + b'\n')
    ok([list(q.read()) for _ in range(2)] == [['error']] * 2, 'bytes that are no UTF-8, 5000 brackets')
    more = [Qmp(path)]
    while len(more) < 10 and more[-1].greeting:
        more.append(Qmp(path))
    ok(len(more) in (6, 7), 'eight clients, this one and hull itself among them, are enough')
    more.pop()
    big = more.pop()
    try:
        big.socket.sendall(b'{"execute": "' + b'x' * (2 << 20))
        refused = big.socket.recv(100) == b''
    except OSError:
        refused = True
    ok(refused, 'a request of 2 MiB ends its connection')
    for _ in range(3):
        q.call('stop')
        q.call('system_reset')
        event = q.event('RESET')['data']
    ok(event == {'guest': False, 'reason': 'host-qmp-system-reset'} and
       q.call('query-status')['return']['status'] == 'paused', 'a paused machine is reset and stays paused')
    q.call('cont')
    ok(p.stdout.readline() == b'up\n', 'and starts afresh when it goes on')
    ok(end(p), 'all of which it survived')


def test_sockets():
    precious = TMP / 'precious'
    for option in (('--qmp', precious), ('--serial', f'unix:{precious}'), ('--port', f'a,socket={precious}')):
        precious.write_text('mine')
        code, _, err = run(*machine(hello, *option, '--timeout', '5'))
        ok(code == 1 and precious.read_text() == 'mine', f'{option[0]}: a file is not replaced by a socket: {err}')
    path, sock = TMP / 'qmp4', TMP / 'port'
    p = start(*machine(hello, '--qmp', path, '--port', f'a,socket={sock}', '--console', f'unix:{sock}2'))
    code, _, err = run(*machine(hello, '--qmp', path))
    ok(code == 1 and path.exists() and Qmp(path).greeting, f'a socket in use is refused and stays: {err.strip()}')
    ok(end(p) and not [f for f in (path, sock, TMP / 'port2') if f.exists()], 'all sockets are gone at the end')


def test_input_held():
    """A guest that reads nothing must not keep hull from its signals."""
    r, w = os.pipe()
    p = start(*machine(hello), stdin=r)
    os.close(r)
    os.set_blocking(w, False)
    finish = time.monotonic() + 1.5
    while time.monotonic() < finish:
        try:
            os.write(w, bytes(4096))
        except BlockingIOError:
            time.sleep(0.05)
    ok(end(p), 'a machine whose guest reads no input ends by SIGTERM')
    os.close(w)


def test_inherited():
    r, w = os.pipe()
    os.set_inheritable(w, True)
    p = start(*machine(hello, '--console', f'file:{TMP}/c'), close_fds=False)
    pid = children(p.pid)['hull-vmm']
    mine = os.readlink(f'/proc/self/fd/{w}')
    ok(mine not in [os.readlink(f'/proc/{pid}/fd/{f}') for f in os.listdir(f'/proc/{pid}/fd')],
       'descriptors of whoever started hull do not reach the machine')
    end(p)
    os.close(r)
    os.close(w)


def test_disk_threads():
    disk = TMP / 'disk.img'
    disk.write_bytes(bytes(1 << 20))
    p = start(*machine(hello, '--disk', f'{disk},aio=threads', '--qmp', TMP / 'qmp-disk'))
    q = Qmp(TMP / 'qmp-disk')
    q.call('qmp_capabilities')
    info = q.call('query-block')['return'][0]
    ok(info['io-status'] == 'ok' and info['inserted']['image']['virtual-size'] == 1 << 20 and
       info['inserted']['cache'] == {'writeback': True, 'direct': False, 'no-flush': False} and
       info['inserted']['bps'] == 0, f'query-block says what QEMU says: {info}')
    pid = children(p.pid)['hull-vmm']
    links = [os.readlink(f'/proc/{pid}/fd/{f}') for f in os.listdir(f'/proc/{pid}/fd')]
    ok(not any('io_uring' in link for link in links), 'aio=threads: the machine has no io_uring')
    ok(end(p), 'and ends in order')


def test_jit():
    """Translated code lies in a memfd of its own; without the JIT there is none, and the guest runs all the same."""
    for setting, wanted in (('on', True), ('off', False)):
        p = start(*machine(hello, '--engine', f'soft,jit={setting}'))
        with open(f'/proc/{children(p.pid)["hull-vmm"]}/maps', encoding='utf-8') as maps:
            found = any('memfd:' in line and 'x' in line.split()[1] for line in maps)
        ok(found == wanted, f'--engine soft,jit={setting}: {"with" if wanted else "no"} executable memory of its own')
        ok(end(p), 'and ends in order')


def test_free_port():
    p = start('run', '--kernel', hello, '--memory', '16M', '--net', 'user,forward=tcp:0:22,forward=udp:0:53',
              stderr=subprocess.PIPE)
    ok(end(p), 'host port 0')
    said = p.stderr.read().decode()
    ok('tcp port' in said and 'port 22 of the guest' in said and 'udp port' in said, f'is told: {said.strip()}')


test_statuses()
test_signals()
test_stuck_reader()
test_terminal()
test_qmp()
test_killed()
test_fences()
test_qmp_hostile()
test_sockets()
test_input_held()
test_inherited()
test_disk_threads()
test_jit()
test_free_port()
done()
