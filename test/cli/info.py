#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hull info: what it says for people and for programs, and what a machine says about its engine."""
import json
import os
from tap import *

exit_7 = multiboot_guest(EXIT_7)
ENV = {**os.environ, 'XDG_CACHE_HOME': str(TMP)}


def info(*args):
    code, out, err = run('info', *args, env=ENV)
    ok(code == 0 and not err, f'hull info {" ".join(args)} ({code} {err.strip()})')
    return out


def test_host():
    d = json.loads(info('--json'))
    keys = {'version', 'kernel', 'engine', 'reason', 'cpus', 'memory', 'kvm_device', 'io_uring', 'tap', 'vhost_net',
            'vhost_vsock', 'virtiofsd', 'landlock', 'cpu_models', 'kvm', 'processor', 'huge_pages', 'mitigations', 'limits'}
    ok(set(d) == keys, f'its keys are those of the man page ({set(d) ^ keys})')
    ok(d['engine'] in ('kvm', 'soft') and d['reason'], f'engine: {d["engine"]}')
    kvm = d['kvm']
    ok(kvm['usable'] == (kvm['problem'] is None) and kvm['usable'] == ('mips' in kvm), 'KVM is usable, or why not')
    ok(kvm['usable'] or not kvm['problem'] is None, f'problem: {kvm["problem"]}')
    hardware = kvm['usable'] and kvm['hardware']
    ok((d['engine'] == 'kvm') == hardware, 'auto takes KVM exactly where it is hardware')
    ok(all(c['name'] and c['about'] and c['get'] and c['value'] >= 0 for c in kvm['capabilities']), 'capabilities')
    ok(d['kvm_device'] == os.path.exists('/dev/kvm'), '/dev/kvm')
    ok('sse2' in d['processor']['flags'] and d['processor']['tsc_khz'] > 100000, 'the processor')
    folder = '/sys/devices/system/cpu/vulnerabilities'
    ok(set(d['mitigations']) == set(os.listdir(folder) if os.path.isdir(folder) else []), 'mitigations')
    ok(all(set(l) == {'what', 'fix'} and l['what'] and l['fix'] for l in d['limits']), 'each limit has a way out')
    ok((d['engine'] == 'soft') == any('soft engine' in l['what'] for l in d['limits']), 'the soft engine is one')
    text = info()
    ok(d['engine'] in text and d['reason'] in text and all(l['fix'] in text for l in d['limits']), 'the same in words')


def test_cpu():
    d = json.loads(info('--cpu', '--json'))
    names = [m['name'] for m in d['models']]
    ok(names[:3] == ['x86-64-v2', 'x86-64-v3', 'host'], f'models: {names}')
    ok(all(m['soft']['offered'] == (not m['soft']['lacks']) for m in d['models']), 'a model is offered, or lacks something')
    ok(d['features']['sse2']['soft'] == 'yes' and d['features']['pcid']['soft'] == 'on request' and
       d['features']['svm']['soft'] == 'no', 'features on the soft engine')
    text = info('--cpu')
    ok(all(n in text for n in names) and 'kvmclock' in text, 'the same in words')
    for model in d['models']:
        code, _, err = run(*machine('--engine', 'soft', '--cpu', model['name']))
        if model['soft']['offered']:
            ok(code == 7 and not err, f'{model["name"]} runs ({code} {err.strip()})')
        else:
            ok(code == 1 and all(f in err for f in model['soft']['lacks'][:3]), f'{model["name"]}: {err.strip()}')


def machine(*args):
    return ['run', '--kernel', exit_7, '--net', 'none', '--debug-exit', *args]


def test_engine():
    auto = json.loads(info('--json'))
    code, _, err = run(*machine(), env=ENV)
    told = [l for l in err.splitlines() if 'soft engine' in l]
    ok(code == 7 and (auto['engine'] == 'kvm') == (not told), f'auto says why it is not KVM: {err.strip()}')
    ok(not told or (len(told) == 1 and auto['reason'] in told[0] and '--quiet' in told[0]), 'in one line, with the reason')
    code, _, err = run(*machine('--quiet'), env=ENV)
    ok(code == 7 and not err, f'--quiet: nothing ({err.strip()})')
    code, _, err = run(*machine('--engine', 'soft'), env=ENV)
    ok(code == 7 and not err, f'--engine soft: nothing ({err.strip()})')
    code, _, err = run(*machine('--engine', 'soft', '--cpu', 'host,+svm'))
    ok(code == 1 and 'svm' in err and '--engine kvm' in err, f'nested on soft is an error: {err.strip()}')


test_host()
test_cpu()
test_engine()
done()
