#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest is saved in the middle of its work, and goes on wherever it is restored.

Usage: state.py work|layers|refuse|clone|again|qcow2|golden      (needs HULL_BUILD)"""
import json
import os
import shutil
import signal
import socket
import sys
import tarfile
import threading
from machine import * # pylint: disable=unused-wildcard-import,wildcard-import

MIB = 1 << 20
DHCP = '''#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet
route add default gw $router
'''
# A round: memory is changed and checked, the disk is written through and read back, the host is asked over TCP.
WORK = '''
for i in lo eth0; do ifconfig $i up; done
udhcpc -i eth0 -n -q -f -s /dhcp >/dev/null 2>&1
dd if=/dev/urandom of=/tmp/blob bs=1M count=4 2>/dev/null
sum=$(sha256sum </tmp/blob)
(while :; do [ "$(sha256sum </tmp/blob)" = "$sum" ] || echo "T: broken memory"; usleep 100000; done) &
n=0
while :; do
    n=$((n + 1))
    dd if=/tmp/blob of=/dev/vda bs=64k seek=$((n % 64)) skip=$((n % 60)) count=1 conv=notrunc,fsync 2>/dev/null
    echo 1 >/proc/sys/vm/drop_caches
    a=$(dd if=/tmp/blob bs=64k skip=$((n % 60)) count=1 2>/dev/null | sha256sum)
    b=$(dd if=/dev/vda bs=64k skip=$((n % 64)) count=1 2>/dev/null | sha256sum)
    [ "$a" = "$b" ] || echo "T: broken disk"
    c=$(nc 10.0.2.2 $port </dev/null)
    [ "$c" = hello ] || c=$(nc 10.0.2.2 $port </dev/null) # one that was open when the machine was saved is lost
    [ "$c" = hello ] || echo "T: broken net $c"
    read up rest </proc/uptime
    echo "T: tick $n $up"
    usleep 50000
done
'''


class Greeter:
    """Says hello to everybody who connects."""

    def __init__(self):
        self.server = socket.create_server(('127.0.0.1', 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            c = self.server.accept()[0]
            with c:
                c.sendall(b'hello')


def ticks(m):
    return [(int(n), float(up)) for n, up in re.findall(r'^T: tick (\d+) ([\d.]+)\n', m.log, re.M)]


def wait_ticks(m, more, seconds=120):
    """Waits for that many more rounds; the number of the last one."""
    have = len(ticks(m))
    m.find(r'(T: tick \d+ [\d.]+\n(?:.*\n)*?){%d}' % (have + more), seconds)
    got = ticks(m)
    return got[-1][0] if len(got) >= have + more else None


def healthy(m, what):
    bad = m.complaints() + [line for line in m.log.splitlines() if 'broken' in line]
    if not ok(not bad, f'{m.name}: {what} {bad[:3] or ""}'):
        m.show()


def start(name, folder, cpus, greeter, *args):
    image, disk = TMP / f'{name}.cpio', TMP / f'{name}.disk'
    disk.write_bytes(os.urandom(8 * MIB))
    initramfs.build(image, folder, f'port={greeter.port}\n' + WORK, files={'dhcp': DHCP.encode()})
    return Machine('--kernel', folder / 'vmlinuz', '--initrd', image, '--cpus', cpus, '--memory', '256M', '--disk', disk,
                   '--append', 'console=ttyS0', '--net', 'user', '--qmp', TMP / f'{name}.qmp', *args, name=name)


def restore(name, folder, *args):
    return Machine(command=[HULL, 'restore', folder, '--quiet', *args], name=name)


def end(m):
    m.process.terminate()
    m.status(20)


def goes_on(m, last, rounds=3):
    """A restored machine's first round follows the last one before it was saved."""
    wait_ticks(m, rounds)
    got = ticks(m)
    ok(len(got) >= rounds and last < got[0][0] <= last + 2, f'{m.name}: goes on after round {last} ({got[:3]})')
    ok(all(b > a for (_, a), (_, b) in zip(got, got[1:])), f'{m.name}: its clock goes forward')
    healthy(m, 'no error in its log')


def save(name, folder, *args):
    code, _, err = run('snapshot', '--qmp', TMP / f'{name}.qmp', folder, *args, timeout=120)
    return ok(code == 0, f'{name}: saved to {folder.name} {err.strip()}')


def last_round(m, before):
    """The last round that the guest can have finished when it was saved: `before` was seen before that."""
    return max(n for n, _ in ticks(m)) if ticks(m) else before


def test_work():
    folder, greeter = kernel('cloud'), Greeter()
    if not folder:
        skip('snapshot of a working guest', "no kernel package: apt has none in its cache and no network")
        return
    for cpus in (2, 1):
        name = f'work{cpus}'
        m = start(name, folder, cpus, greeter)
        if not ok(wait_ticks(m, 3), f'{name}: the guest works'):
            m.show()
        before = ticks(m)[-1][0]
        save(name, TMP / f'{name}.s1', '--copy-disks')
        after = ticks(m)[-1][0] + 1
        ok(wait_ticks(m, 3), f'{name}: and goes on')
        healthy(m, 'no error in its log')
        q = Qmp(TMP / f'{name}.qmp')
        q.call('qmp_capabilities')
        q.call('stop') # this host may be slow
        for i in range(2):
            r = restore(f'{name}-again{i}', TMP / f'{name}.s1', '--temporary')
            wait_ticks(r, 3)
            got = ticks(r)
            ok(len(got) >= 3 and before < got[0][0] <= after, f'{r.name}: goes on after round {before} ({got[:3]})')
            ok(all(b > a for (_, a), (_, b) in zip(got, got[1:])), f'{r.name}: its clock goes forward')
            healthy(r, 'no error in its log')
            end(r)
        q.call('cont')
        ok(wait_ticks(m, 2), f'{name}: the first machine goes on after a stop')
        save(name, TMP / f'{name}.s2', '--stop')
        ok(m.status(20) == 0, f'{name}: --stop ends the machine')
        last = ticks(m)[-1][0]
        r = restore(f'{name}-last', TMP / f'{name}.s2')
        goes_on(r, last)
        end(r)
        code, _, err = run('restore', TMP / f'{name}.s2')
        ok(code == 1 and 'has changed since' in err, f'{name}: a snapshot whose disk has moved on is refused ({err.strip()})')


def sections(folder):
    """What `state` holds, by name: src/machine/state.h."""
    data = (folder / 'state').read_bytes()
    at, found = 24, {}
    while at < len(data):
        name = data[at + 1:at + 1 + data[at]].decode()
        at += 1 + data[at] + 2
        length = int.from_bytes(data[at:at + 8], 'little')
        found[name] = data[at + 8:at + 8 + length]
        at += 8 + length
    return found


def regions(folder):
    """(pages, offset in the file) of each region, from the table in section "memory"."""
    data = sections(folder)['memory']
    at = data.index(b'ram-') # name, base, size and offset of each, as field_save writes them
    found = []
    while at >= 0:
        name_end = at + int.from_bytes(data[at - 4:at], 'little')
        numbers = [int.from_bytes(data[name_end + 13 * i + 5:name_end + 13 * i + 13], 'little') for i in range(3)]
        found.append((numbers[1] // 4096, numbers[2]))
        at = data.find(b'ram-', name_end)
    return found


def lay_over(below, folder):
    """The memory below with the pages of a partial snapshot in it; how many those are."""
    bits, count, memory = sections(folder)['pages'], 0, (folder / 'memory').read_bytes()
    result = bytearray(below)
    at = 0
    for pages, offset in regions(folder):
        for page in range(pages):
            if bits[at + page // 8] >> page % 8 & 1:
                place = offset + page * 4096
                result[place:place + 4096] = memory[place:place + 4096]
                count += 1
        at += (pages + 63) // 64 * 8
    return bytes(result), count


def differing(a, b):
    return sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))


def check_same_state(name, a, b, what):
    one, two = sections(a), sections(b)
    other = [k for k in one if k.startswith('device/') and one[k] != two.get(k)]
    cpus = [differing(one[k], two[k]) for k in one if k.startswith('cpu/')]
    ok(not other, f'{name}: {what}: every device as it was {other}')
    ok(max(cpus) <= 16, f'{name}: {what}: every vCPU but for its clock {cpus}')


def test_layers():
    """Partial snapshots, and that nothing is lost on the way to a file and back."""
    folder, greeter = kernel('cloud'), Greeter()
    if not folder:
        skip('partial snapshots', "no kernel package: apt has none in its cache and no network")
        return
    name = 'layers'
    s = [TMP / f'{name}.s{i}' for i in range(4)]
    m = start(name, folder, 2, greeter)
    wait_ticks(m, 2)
    save(name, s[0], '--copy-disks')
    wait_ticks(m, 2)
    save(name, s[1], '--copy-disks', '--base', s[0])
    wait_ticks(m, 2)
    q = Qmp(TMP / f'{name}.qmp')
    q.call('qmp_capabilities')
    q.call('stop')
    save(name, s[2], '--copy-disks', '--base', s[1])
    save(name, s[3], '--copy-disks')
    memory, first = lay_over((s[0] / 'memory').read_bytes(), s[1])
    memory, second = lay_over(memory, s[2])
    ok(first and second, f'{name}: {first} and {second} pages had changed')
    full = (s[3] / 'memory').read_bytes()
    wrong = [i // 4096 for i in range(0, len(full), 4096) if memory[i:i + 4096] != full[i:i + 4096]]
    ok(not wrong, f'{name}: whole memory is what the layers make {wrong[:5]}')
    check_same_state(name, s[2], s[3], 'saved twice')
    code, _, err = run('snapshot', '--qmp', TMP / f'{name}.qmp', TMP / 'never', '--base', s[0], '--copy-disks')
    ok(code == 1 and 'not the machine' in err and not (TMP / 'never').exists(), f'{name}: an old base is refused ({err.strip()})')
    q.call('quit')
    m.status(20)
    last = ticks(m)[-1][0]

    code, out, err = run('snapshot', '--verify', s[2], timeout=60)
    ok(code == 0, f'{name}: checksums fit through all layers {(out + err).strip()}')
    flat = TMP / f'{name}.flat'
    code, _, err = run('snapshot', '--flatten', s[2], flat, timeout=120)
    ok(code == 0 and (flat / 'memory').read_bytes() == full, f'{name}: flattened, memory is that of the whole one {err.strip()}')
    check_same_state(name, s[2], flat, 'flattened')
    r = restore(f'{name}-paused', s[2], '--temporary', '--paused', '--qmp', TMP / f'{name}-paused.qmp')
    Qmp(TMP / f'{name}-paused.qmp')
    save(f'{name}-paused', TMP / f'{name}.again', '--copy-disks')
    check_same_state(r.name, s[2], TMP / f'{name}.again', 'saved, restored, saved')
    again = (TMP / f'{name}.again' / 'memory').read_bytes()
    wrong = [i // 4096 for i in range(0, len(full), 4096) if again[i:i + 4096] != full[i:i + 4096]]
    ok(len(wrong) <= 4, f'{r.name}: memory too, but for the pages of its clock {wrong[:6]}')
    end(r)
    r = restore(f'{name}-on', s[2], '--temporary')
    goes_on(r, last)
    end(r)
    shutil.rmtree(s[0])
    r = restore(f'{name}-flat', flat, '--temporary', '--verify')
    goes_on(r, last)
    end(r)
    code, _, err = run('restore', s[2], '--temporary')
    ok(code == 1 and 'needs its base' in err, f'{name}: without its base it is refused ({err.strip()})')


def test_refuse():
    """What is not a whole snapshot, or not of this machine, is refused with its reason."""
    guest = multiboot_guest(HELLO)
    m = Machine('--kernel', guest, '--net', 'none', '--memory', '16M', '--qmp', TMP / 'r.qmp', name='refuse')
    m.find('up')
    good = TMP / 'r.s'
    save('r', good)
    end(m)

    def refused(what, word, change, *args):
        bad = TMP / 'bad'
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        change(bad)
        code, _, err = run('restore', bad, *args)
        ok(code in (1, 2) and word in err, f'{what}: {err.strip().splitlines()[0] if err else code}')

    def flip(path, at):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    refused('cut state', 'cut short', lambda d: os.truncate(d / 'state', 1000))
    refused('empty state', 'not a saved', lambda d: os.truncate(d / 'state', 0))
    refused('altered state', 'altered', lambda d: flip(d / 'state', 5000))
    refused('newer state', 'newer', lambda d: (flip(d / 'state', 9)))
    refused('cut memory', 'cut', lambda d: os.truncate(d / 'memory', 4096))
    refused('no memory', 'No such file', lambda d: (d / 'memory').unlink())
    refused('no state', 'not a whole one', lambda d: (d / 'state').unlink())
    refused('another size', 'cannot change', lambda d: None, '--memory', '32M')
    refused('another CPU', 'cannot change', lambda d: None, '--cpu', 'x86-64-v3')
    refused('more networks', 'give as many', lambda d: None, '--net', 'none', '--net', 'none')
    refused('no such option', 'did you mean', lambda d: None, '--seriel', 'none')
    def verify(what, word, change=None, args=('snapshot', '--verify'), expected=1):
        bad = TMP / 'bad'
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        if change:
            change(bad)
        code, out, err = run(*args, bad)
        ok(code == expected and word in out + err, f'{what}: {(out + err).strip()}')

    verify('what was saved is whole', 'as it was saved', expected=0)
    verify('altered memory', 'altered within the MiB at 3 MiB', lambda d: flip(d / 'memory', 3 * MIB + 77))
    verify('its last byte', 'altered within the MiB', lambda d: flip(d / 'memory', -1))
    verify('altered memory is not restored', 'altered within', lambda d: flip(d / 'memory', 5), ('restore', '--verify'))
    verify('altered checksums', 'altered', lambda d: flip(d / 'memory.sums', 40))
    verify('cut checksums', 'cut', lambda d: os.truncate(d / 'memory.sums', 40))
    verify('no checksums', 'earlier hull', lambda d: (d / 'memory.sums').unlink())
    code, _, err = run('snapshot', '--verify', good, '--stop')
    ok(code == 2 and 'no other option' in err, f'--verify with --stop: {err.strip().splitlines()[0]}')
    code, _, err = run('restore', TMP / 'nothing')
    ok(code == 1 and 'no snapshot' in err, f'no such folder: {err.strip()}')


def memory_of(pid):
    text = open(f'/proc/{pid}/smaps_rollup').read()
    return {k: int(re.search(rf'^{k}: +(\d+)', text, re.M)[1]) for k in ('Rss', 'Pss', 'Private_Dirty', 'Private_Clean')}


def test_clone():
    """Copies of one guest: each goes on by itself, with random numbers of its own."""
    folder = kernel('generic')
    if not folder:
        skip('clones', "no kernel package: apt has none in its cache and no network")
        return
    count = 4
    image, disk = TMP / 'clone.cpio', TMP / 'clone.disk'
    disk.write_bytes(b'D' * MIB)
    script = '''
    echo "T: ready yes"
    read line
    dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync 2>/dev/null
    echo "T: random $(dd if=/dev/urandom bs=16 count=1 2>/dev/null | od -An -tx8 | tr -d ' ')"
    echo "T: reseeded $(dmesg | grep -c 'crng reseeded due to virtual machine fork')"
    read line
    '''
    initramfs.build(image, folder, script)
    m = Machine('--kernel', folder / 'vmlinuz', '--initrd', image, '--memory', '256M', '--disk', disk, '--append',
                'console=ttyS0', '--net', 'user', '--qmp', TMP / 'clone.qmp', name='clone')
    if not m.expect('ready', 'yes', 'a guest waits'):
        m.show()
    save('clone', TMP / 'clone.s', '--stop')
    m.status(20)
    p = subprocess.Popen([HULL, 'clone', TMP / 'clone.s', '--count', str(count), '--json', '--serial',
                          f'unix:{TMP}/c%d.serial', '--qmp', f'{TMP}/c%d.qmp', '--net', 'user'], stdout=subprocess.PIPE, text=True)
    pids = {}
    running = 0
    while running < count:
        event = json.loads(p.stdout.readline())
        running += event['event'] == 'running'
        if event['event'] == 'forked':
            pids[event['clone']] = event['pid']
    ok(len(pids) == count, f'clone: {count} copies run')
    time.sleep(1)
    for number, pid in sorted(pids.items()):
        print('#', number, memory_of(pid))
    if os.environ.get('SMAPS'):
        open('/tmp/snap/smaps','w').write(open(f'/proc/{pid}/smaps').read())
    randoms, logs = [], []
    for number in range(count):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(f'{TMP}/c{number}.serial')
            s.sendall(b'go\n')
            log = ''
            while not re.search(r'T: reseeded .*\n', log) and (got := s.recv(4096)):
                log += got.decode(errors='replace')
            logs.append(log)
            randoms.append((re.search(r'T: random (\w+)', log) or ['', ''])[1])
    ok(len(set(randoms)) == count and '' not in randoms, f'clone: each has its own random numbers {randoms}')
    ok(all('T: reseeded 1' in log for log in logs), 'clone: because its kernel knows what it is')
    ok(disk.read_bytes() == b'D' * MIB, 'clone: what they write to the disk stays theirs')
    p.terminate()
    ok(p.wait(20) == 128 + signal.SIGTERM and gone(pids.values()), 'clone: a signal ends them all')


def test_again():
    """A restored machine's first snapshot may be partial: what it wrote since is known from its page tables."""
    folder, greeter = kernel('cloud'), Greeter()
    if not folder:
        skip('partial snapshots of a restored machine', "no kernel package: apt has none in its cache and no network")
        return
    name, s = 'again', [TMP / f'again.s{i}' for i in range(4)]
    m = start(name, folder, 2, greeter)
    wait_ticks(m, 2)
    save(name, s[0], '--stop')
    m.status(20)
    r = restore('again-on', s[0], '--temporary', '--qmp', TMP / 'again-on.qmp')
    wait_ticks(r, 3)
    q = Qmp(TMP / 'again-on.qmp')
    q.call('qmp_capabilities')
    q.call('stop')
    last = ticks(r)[-1][0]
    code, _, err = run('snapshot', '--qmp', TMP / 'again-on.qmp', s[1], '--base', s[0], '--copy-disks', timeout=120)
    if not ok(code == 0, f'again: partial, on top of the one it was restored from {err.strip()}'):
        end(r)
        return
    save('again-on', s[2], '--copy-disks')
    memory, changed = lay_over((s[0] / 'memory').read_bytes(), s[1])
    full = (s[2] / 'memory').read_bytes()
    wrong = [i // 4096 for i in range(0, len(full), 4096) if memory[i:i + 4096] != full[i:i + 4096]]
    ok(not wrong, f'again: with it, memory is that of a whole one {wrong[:5]}')
    whole = sum(pages for pages, _ in regions(s[0]))
    ok(0 < changed < whole / 2, f'again: {changed} of {whole} pages')
    code, _, err = run('snapshot', '--qmp', TMP / 'again-on.qmp', TMP / 'never', '--base', s[0], '--copy-disks')
    ok(code == 1 and 'last snapshot' in err, f'again: afterwards the old base is refused ({err.strip()})')
    end(r)
    r = restore('again-last', s[1], '--temporary')
    goes_on(r, last)
    end(r)


SERVE = '''
for i in lo eth0; do ifconfig $i up; done
udhcpc -i eth0 -n -q -f -s /dhcp >/dev/null 2>&1
(while :; do cat /tmp/mark 2>/dev/null | nc -l -p 2222; done) &
echo "T: ready $(dd if=/dev/vda bs=4 count=1 2>/dev/null)"
while :; do
    mark=$(od -An -tx8 -N8 /dev/urandom | tr -d ' ')
    echo $mark | dd of=/dev/vda bs=64k seek=3 conv=notrunc,fsync 2>/dev/null
    echo 1 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=64k skip=3 count=1 2>/dev/null | head -c 16 >/tmp/mark.new
    [ "$(cat /tmp/mark.new)" = "$mark" ] || echo "T: broken disk"
    mv /tmp/mark.new /tmp/mark
    usleep 300000
done
'''


def ask(port, seconds=60):
    """What the guest behind the forward says."""
    until = time.time() + seconds
    while time.time() < until:
        try:
            with socket.create_connection(('127.0.0.1', port), timeout=5) as c:
                if got := c.recv(100):
                    return got.decode().strip()
        except OSError:
            pass
        time.sleep(0.2)
    return None


def descriptors(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def test_qcow2():
    """An overlay on a qcow2 base without the host's cache: restored often, copied, and neither image is touched."""
    folder = kernel('cloud')
    if not folder:
        skip('snapshots on qcow2', "no kernel package: apt has none in its cache and no network")
        return
    restores, copies = int(os.environ.get('HULL_RESTORES', 10)), min(int(os.environ.get('HULL_CLONES', 8)), 10)
    image, raw, base, top = (TMP / f'q.{s}' for s in ('cpio', 'raw', 'base', 'top'))
    raw.write_bytes(b'BASE' + os.urandom(8 * MIB - 4))
    for args in (('convert', '-O', 'qcow2', raw, base), ('create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)):
        code, _, err = run('disk', *args, timeout=60)
        ok(code == 0, f'qcow2: hull disk {args[0]} {err.strip()}')
    initramfs.build(image, folder, SERVE, files={'dhcp': DHCP.encode()})
    m = Machine('--kernel', folder / 'vmlinuz', '--initrd', image, '--memory', '256M', '--disk', f'{top},format=qcow2,cache=none',
                '--append', 'console=ttyS0', '--net', 'user', '--qmp', TMP / 'q.qmp', name='q')
    if not m.expect('ready', 'BASE', 'qcow2: the guest reads through the overlay'):
        m.show()
    time.sleep(2)
    save('q', TMP / 'q.s', '--stop')
    m.status(20)
    healthy(m, 'no error in its log')
    before = base.read_bytes(), top.read_bytes()
    files, own = sorted(os.listdir(TMP)), descriptors(os.getpid())
    answered = 0
    for i in range(restores):
        port = free_port()
        r = restore(f'q{i}', TMP / 'q.s', '--temporary', '--net', f'user,forward=tcp:{port}:2222')
        answered += ask(port) is not None
        pid = r.process.pid
        if r.complaints() or 'broken' in r.log:
            r.show()
            ok(False, f'{r.name}: an error in its log')
        end(r)
        if not gone([pid]):
            ok(False, f'{r.name}: its process is still there')
    ok(answered == restores, f'qcow2: {answered} of {restores} restored machines answer')
    ok(sorted(os.listdir(TMP)) == files, f'qcow2: no file is left behind {set(os.listdir(TMP)) - set(files)}')
    ok(descriptors(os.getpid()) < own + 3, f'qcow2: no descriptor either {own} {descriptors(os.getpid())}')
    prefix = 1000 + os.getpid() % 2200 # five digits with the copy's number, below the ports that the host hands out
    p = subprocess.Popen([HULL, 'clone', TMP / 'q.s', '--count', str(copies), '--json', '--net', f'user,forward=tcp:{prefix}%d:2222'],
                         stdout=subprocess.PIPE, text=True)
    pids = {}
    running = 0
    while running < copies and (line := p.stdout.readline()):
        event = json.loads(line)
        running += event['event'] == 'running'
        if event['event'] == 'forked':
            pids[event['clone']] = event['pid']
    ok(running == copies, f'qcow2: {running} of {copies} copies run')
    time.sleep(2)
    for _ in range(3): # the first answer was read before the machine was saved
        answers = [ask(int(f'{prefix}{n}'), 120) for n in range(copies)]
        time.sleep(1)
    ok(None not in answers and len(set(answers)) == copies, f'qcow2: each answers with what only its disk holds {answers}')
    print('# PSS in KiB', [memory_of(pid)['Pss'] for pid in pids.values()])
    p.terminate()
    ok(p.wait(30) == 128 + signal.SIGTERM and gone(pids.values()), 'qcow2: a signal ends them all')
    ok((base.read_bytes(), top.read_bytes()) == before, 'qcow2: overlay and base are as they were')
    code, out, err = run('disk', 'check', top)
    ok(code == 0, f'qcow2: and clean {(out + err).strip()}')


def test_golden():
    """Snapshots that earlier versions saved stay readable: test/golden/snapshot-VERSION.tar.xz, a guest that prints dots."""
    for archive in sorted((HERE.parent / 'golden').glob('snapshot-*.tar.xz')):
        version = archive.name[len('snapshot-'):-len('.tar.xz')]
        with tarfile.open(archive) as tar:
            tar.extractall(TMP / 'golden')
        saved, again, qmp = TMP / 'golden' / version, TMP / f'golden-{version}', TMP / 'golden.qmp'
        code, out, err = run('snapshot', '--verify', saved)
        ok(code == 0, f'{version}: whole {(out + err).strip()}')
        r = restore(version, saved, '--engine', 'soft', '--qmp', qmp)
        if not ok(r.find(r'\.{20}', 60), f'{version}: goes on'):
            r.show()
        save('golden', again, '--stop')
        r.status(20)
        r = restore(f'{version}-again', again, '--engine', 'soft')
        if not ok(r.find(r'\.{20}', 60), f'{version}: saved by this version, goes on again'):
            r.show()
        end(r)


CASES = {'work': test_work, 'layers': test_layers, 'refuse': test_refuse, 'clone': test_clone, 'again': test_again,
         'qcow2': test_qcow2, 'golden': test_golden}

for case in sys.argv[1:] or CASES:
    CASES[case]()
done()
