/* SPDX-License-Identifier: MIT */
/* How late timers are: in HLT, where the processor waits for itself, and while it runs, where the
 * engine's clock interrupts it. The limits are loose (hosts are busy); the figures are what counts.
 */
#include "lib64.h"

#define APIC   0xfee00000ull
#define ROUNDS 200

static volatile unsigned hits;
static volatile uint64_t hit_tsc;

static void apic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(APIC + reg) = v;
}

static bool on_timer(struct frame *f)
{
    if (f->vector != 0x50)
        return false;
    hit_tsc = rdtsc();
    hits++;
    apic_write(0xb0, 0);
    return true;
}

static void arm(uint64_t at)
{
    wrmsr(0x6e0, at);
}

static void sort(uint32_t *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        for (unsigned k = i; k > 0 && v[k - 1] > v[k]; k--) {
            uint32_t t = v[k];

            v[k] = v[k - 1];
            v[k - 1] = t;
        }
}

static void measure(bool halt, uint64_t ahead)
{
    static uint32_t late[ROUNDS];
    unsigned early = 0;

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t at = rdtsc() + ahead;
        unsigned before = hits;

        arm(at);
        if (halt) {
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        } else {
            __asm__ volatile("sti");
            while (hits == before)
                cpu_pause();
            __asm__ volatile("cli");
        }
        early += hit_tsc < at;
        late[i] = (uint32_t)(hit_tsc - at);
    }
    sort(late, ROUNDS);
    ok(hits && !early, "%s: never early", halt ? "HLT" : "running");
    print("# %s: late by %u cycles (median), %u (9 in 10)\n", halt ? "HLT" : "running",
          late[ROUNDS / 2], late[ROUNDS * 9 / 10]);
    ok(late[ROUNDS / 2] < 100000000, "%s: in time", halt ? "HLT" : "running");
}

int main(void)
{
    uint32_t id[4];

    tables_load();
    trap_hook = on_timer;
    cpuid(1, 0, id);
    if (!(id[2] >> 24 & 1)) {
        skip("timers", "no TSC-deadline");
        return done();
    }
    apic_write(0xf0, 0x1ff);
    apic_write(0x320, 0x40050);
    measure(true, 1000000);
    measure(false, 1000000);
    return done();
}
