#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares two outputs of guest-states: cases that end differently, and in what.

Usage: states.py ONE OTHER"""
import fnmatch
import re
import sys

# Registers of the LAPIC (offset) that follow time: the timer's current count.
LAPIC_TIME = (0x390,)
# What follows time, or the moment at which the main thread stopped vCPUs that had nothing more to do.
TIMES = (r'cpu\d+ (tsc|lapic\.timer_left_ns|lapic\.tsc_deadline|kvm_\w+)', r'pit .*(_ns|start|next|load_at|at)', r'pm (seen|.*_ns)',
         r'rtc (.*(_ns|base|at|offset|second)|cmos)', r'hpet (counter|.*_ns)')


class Case:
    def __init__(self, name):
        self.name, self.fields = name, {}


def read(text):
    """name -> {(section, field): value}; and the @ lines that are not cases."""
    cases, others, now, section = {}, [], None, ''
    for line in text.splitlines():
        if line.startswith('@case '):
            now = cases.setdefault(line[6:], {})
            section = ''
        elif line.startswith('@'):
            others.append(line)
            now = None
        elif line.startswith('['):
            section = line[1:-1]
        elif now is not None:
            field, _, value = line.partition(': ')
            now[f'{section} {field}'.strip()] = value
    return cases, others


# Of the extended state: the mask of MXCSR's bits is the processor's; XSTATE_BV may or may not count initial parts.
XSAVE_CPU = (28, 0x200)


def words(value, what, step, but):
    """Bytes as one field for each register."""
    data = bytes.fromhex(value)
    return {f'{what}[{at:#x}]': f"{int.from_bytes(data[at:at + 4], 'little'):#x}" for at in range(0, len(data), step)
            if at not in but and any(data[at:at + 4])}


def plain(fields):
    """Without what may differ: times, and where in its last loop a vCPU was."""
    out = {}
    for key, value in fields.items():
        if any(re.fullmatch(t, key) for t in TIMES):
            continue
        if key.endswith('lapic.regs'):
            out.update(words(value, key, 16, LAPIC_TIME))
        elif key.endswith(' xsave'):
            out.update(words(value, key, 4, XSAVE_CPU))
        elif key.endswith(' rip'):
            out[key] = f'{int(value, 0) & ~31:#x}'
        elif re.fullmatch(r'cpu\d+ (seg\[\d\]|ldt|tr)\.(attr|limit|base)', key):
            present = int(fields.get(key.rpartition('.')[0] + '.attr', '0'), 0) & 0x80
            if present:  # the rest of one that is not present is the maker's affair
                out[key] = value
        elif not re.fullmatch(r'cpu\d+ (run|shadow_\w+)', key):
            out[key] = value
    return out


def rules(path):
    """Known differences, "CASE | FIELD | why", the first two as shell patterns."""
    lines = [line.split(' | ', 2) for line in open(path, encoding='utf-8') if line.strip() and not line.startswith('#')]
    return [(case.strip(), field.strip(), why.strip()) for case, field, why in lines]


def explain(name, found, known):
    """Splits differences into unknown ones and the reasons of the known."""
    unknown, reasons = [], []
    for line in found:
        field = line.partition(': ')[0]
        why = next((w for case, f, w in known if fnmatch.fnmatchcase(name, case) and fnmatch.fnmatchcase(field, f)), None)
        if why is None:
            unknown.append(line)
        elif why not in reasons:
            reasons.append(why)
    return unknown, reasons


def differences(one, other):
    """Lines "FIELD: ONE | OTHER"."""
    a, b = plain(one), plain(other)
    return [f'{k}: {a.get(k, 0)} | {b.get(k, 0)}' for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


def main():
    (a, others), (b, _) = (read(open(p, errors='replace').read()) for p in sys.argv[1:3])
    wrong = 0
    for name in a.keys() | b.keys():
        found = ['missing'] if name not in a or name not in b else differences(a[name], b[name])
        wrong += bool(found)
        for line in found[:12]:
            print(f'{name}: {line[:300]}')
    print(f'{len(a)} cases, {wrong} differ')
    print('\n'.join(others))
    return wrong != 0


if __name__ == '__main__':
    sys.exit(main())
