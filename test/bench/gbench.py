# SPDX-License-Identifier: MIT
"""gbench's results: for each row and place (native, qemu, hull) the samples of all rounds, and what is said of them."""
import math
import pathlib
import statistics
import subprocess

BENCH = pathlib.Path(__file__).resolve().parent


def build(folder):
    program = folder / 'gbench'
    subprocess.run(['cc', '-O2', '-D_GNU_SOURCE', '-static', '-o', program, *sorted(BENCH.glob('gbench*.c'))], check=True)
    return program


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


class Results:
    def __init__(self):
        self.group = {} # row -> group, in order
        self.samples = {} # (row, place) -> nanoseconds, one a round

    def read(self, place, text):
        for line in text.splitlines():
            words = line.split()
            if len(words) == 4 and words[0] == 'gbench':
                self.group[words[1]] = words[2]
                self.samples.setdefault((words[1], place), []).append(float(words[3]))
            elif words[:1] == ['gbench-error']:
                print(f'# {place}: {line}')

    def ratio(self, row, a, b):
        """Of the minima: what else runs on the host only ever adds."""
        if (row, a) in self.samples and (row, b) in self.samples:
            return min(self.samples[row, a]) / min(self.samples[row, b])
        return None

    def table(self, places):
        print(f'{"ns/op, minimum (median)":22}', *(f'{p:>24}' for p in places), '  hull/native  qemu/hull')
        for row in self.group:
            cells = []
            for p in places:
                v = self.samples.get((row, p))
                cells.append(f'{min(v):12.4g} ({statistics.median(v):9.4g})' if v else '-'.rjust(24))
            ratios = [self.ratio(row, 'hull', 'native'), self.ratio(row, 'qemu', 'hull')]
            print(f'{row:22}', *cells, *(f'{r:11.2f}' if r else ' ' * 11 for r in ratios))

    def means(self):
        """Lines as of the other figures. Above 1: hull is slower than native, faster than QEMU."""
        for name, groups in (('compute', ['compute']), ('memory', ['memory']), ('system', ['system']),
                             ('user', ['compute', 'memory']), ('all', ['compute', 'memory', 'system'])):
            rows = [r for r, g in self.group.items() if g in groups]
            for a, b in (('hull', 'native'), ('qemu', 'native'), ('qemu', 'hull')):
                m = mean([x for x in (self.ratio(r, a, b) for r in rows) if x])
                if m:
                    print(f'gbench_{name}_{a}_over_{b} {m:.3g} times')
        behind = {r: x for r in self.group if (x := self.ratio(r, 'qemu', 'hull')) and x < 1}
        if any(place == 'qemu' for _, place in self.samples):
            print(f'gbench_rows_slower_than_qemu {len(behind)} rows', *sorted(behind, key=behind.get))

    def report(self, places):
        self.table(places)
        self.means()
