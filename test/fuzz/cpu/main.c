/* SPDX-License-Identifier: MIT */
/* fuzz-cpu: options, worker processes, totals. doc/fuzz-cpu.md says how to read its reports. */
#include "compare.h"
#include "generate.h"
#include "tap.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct options {
    uint64_t seed, count;
    double seconds;
    unsigned jobs, show;
    const char *form;
    bool one_case, tap, programs;
};

struct totals { /* shared with the workers, one each */
    uint64_t cases, dropped, skipped, stuck, differing, programs, translated;
    uint64_t by_side[SIDES]; /* cases compared there */
    uint32_t *by_form, *differing_by_form;
};

struct fuzzer {
    struct options o;
    struct totals *t;
    int forms[4096]; /* those that --form names */
    unsigned form_count;
    uint8_t golden[FUZZ_PAGES * 4096];
    struct fuzz_case c;
    unsigned stale_from, stale_to; /* code bytes of the case before */
    unsigned shown;
    uint32_t *shown_by_form;
};

static struct fuzzer fuzzer;

/* ---- memory of all sides ---- */

static void put_code(struct fuzzer *f)
{
    struct fuzz_case *c = &f->c;
    unsigned from = c->code_from, to = c->code_to;

    if (f->stale_to) {
        from = from < f->stale_from ? from : f->stale_from;
        to = to > f->stale_to ? to : f->stale_to;
    }
    memcpy(native_memory() + PAGE_CODE * 4096 + from, c->code + from, to - from);
    for (unsigned i = 0; i < SIDES; i++) {
        memcpy(guest_memory(i) + PAGE_CODE * 4096 + from, c->code + from, to - from);
        guest_code_written(i, from, to - from);
    }
    f->stale_from = c->code_from;
    f->stale_to = c->code_to;
}

static void put_patch(struct fuzzer *f, const uint8_t *bytes)
{
    unsigned at = f->c.patch_at;

    if (at < PAGE_DATA * 4096 || at + 64 > FUZZ_PAGES * 4096 || !fuzz_perm[at / 4096])
        return;
    memcpy(native_memory() + at, bytes, 64);
    for (unsigned i = 0; i < SIDES; i++)
        memcpy(guest_memory(i) + at, bytes, 64);
}

/* All sides back to what every case starts from. */
static void restore(struct fuzzer *f)
{
    for (unsigned i = PAGE_DATA; i < FUZZ_PAGES; i++) {
        unsigned at = i * 4096;

        if (!fuzz_perm[i])
            continue;
        if (memcmp(native_memory() + at, f->golden + at, 4096))
            memcpy(native_memory() + at, f->golden + at, 4096);
        for (unsigned s = 0; s < SIDES; s++)
            if (memcmp(guest_memory(s) + at, f->golden + at, 4096))
                memcpy(guest_memory(s) + at, f->golden + at, 4096);
    }
}

/* ---- one case ---- */

static void print_registers(const struct fuzz_case *c)
{
    for (unsigned i = 0; i < 16; i++)
        printf("%s%2u:%016llx%s", i % 4 ? " " : "#   r", i, (unsigned long long)c->start.reg[i],
               i % 4 == 3 ? "\n" : "");
    printf("#   rip %llx rflags %llx fcw %04x fsw %04x ftw %02x mxcsr %04x patch %x\n",
           (unsigned long long)c->start.rip, (unsigned long long)c->start.rflags,
           c->start.xsave[0] | c->start.xsave[1] << 8, c->start.xsave[2] | c->start.xsave[3] << 8,
           c->start.xsave[4], c->start.xsave[24] | c->start.xsave[25] << 8, c->patch_at);
}

static void print_case(const struct fuzz_case *c, int form, const char *side,
                       const char *differences, bool registers)
{
    uint64_t rip = c->base + PAGE_CODE * 4096 + c->code_from;

    printf("# case %llu", (unsigned long long)c->seed);
    if (form >= 0)
        printf(" --form '#%d'", form);
    if (c->program)
        printf(" --programs");
    printf(" (%s%s%s):", c->mode == X86_MODE_64 ? "64-bit" : "32-bit", *side ? ", in " : "", side);
    for (unsigned i = c->code_from; i < c->code_to; i++)
        printf(" %02x", c->code[i]);
    printf("%s\n", c->broken ? "  (no instruction)" : "");
    for (unsigned i = 0; i < c->insns; i++) {
        char text[128];

        x86_format(&c->insn[i], rip, text, sizeof text);
        if (c->program)
            printf("#   %5llx: %s\n", (unsigned long long)rip & 0xffff, text);
        else
            printf("#     %s   [form %u]\n", text, c->insn[i].form);
        rip += c->insn[i].length;
    }
    if (registers)
        print_registers(c);
    printf("%s", differences);
    fflush(stdout);
}

/* One side against the host. Differences, or -1: nothing to compare. */
static int run_side(struct fuzzer *f, enum side side, const struct fuzz_state *host, char *text,
                    size_t size)
{
    const struct fuzz_case *c = &f->c;
    struct fuzz_state soft = {0};

    if (host->vector < FUZZ_TIMEOUT)
        guest_run(side, c, &soft);
    if (fuzz_incomparable(c, host, &soft) ||
        (side != SIDE_INTERPRETER && fuzz_calls_nowhere(c, host)))
        return -1;
    return (int)fuzz_compare(c, host, &soft, side == SIDE_JIT, native_memory(), guest_memory(side),
                             text, size);
}

/* Runs all sides from the same start, until one differs: that is *side. */
static int run_once(struct fuzzer *f, struct fuzz_state *host, enum side *side, char *text,
                    size_t size)
{
    int differences = -1;

    *host = (struct fuzz_state){0};
    put_patch(f, f->c.patch);
    native_run(&f->c, host);
    for (unsigned i = 0; i < SIDES && differences <= 0; i++) {
        int n;

        if (!guest_works(i) || (i != SIDE_INTERPRETER && f->c.mode != X86_MODE_64))
            continue;
        n = run_side(f, i, host, text, size);
        *side = i;
        differences = n > differences ? n : differences;
        f->t->by_side[i] += n >= 0;
    }
    restore(f);
    return differences;
}

static void run_case(struct fuzzer *f, uint64_t seed, int form)
{
    struct fuzz_case *c = &f->c;
    struct fuzz_state host;
    enum side side = SIDE_INTERPRETER;
    char text[4096] = "";
    unsigned counted;
    int differences;

    c->seed = seed;
    if (!(f->o.programs ? fuzz_program(c) : fuzz_generate(c, form))) {
        f->t->dropped++;
        return;
    }
    put_code(f);
    differences = run_once(f, &host, &side, text, sizeof text);
    /* A hypervisor below may have emulated the instruction, and not well: only what stays counts.
     */
    for (unsigned again = 0; differences > 0 && again < 2; again++)
        differences = run_once(f, &host, &side, text, sizeof text);
    counted = c->broken ? x86_form_count : c->insn[c->insns - 1].form; /* last: no instruction */
    f->t->cases++;
    f->t->by_form[counted]++;
    f->t->skipped += differences < 0;
    f->t->stuck += host.vector == FUZZ_TIMEOUT;
    f->t->differing += differences > 0;
    f->t->differing_by_form[counted] += differences > 0;
    if (f->o.one_case || (differences > 0 && f->shown < f->o.show &&
                          f->shown_by_form[counted]++ < (counted < x86_form_count ? 1 : 10))) {
        f->shown++;
        print_case(c, form, differences > 0 ? fuzz_side_name[side] : "", text, f->o.one_case);
        if (f->o.one_case)
            printf("#   host: vector %u error %x cr2 %llx rip %llx\n", host.vector, host.error,
                   (unsigned long long)host.cr2, (unsigned long long)host.rip);
    }
}

/* ---- workers ---- */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool open_sides(struct fuzzer *f)
{
    struct err err;

    bool good = native_open(&err);

    for (unsigned i = 0; good && i < SIDES; i++)
        good = guest_open(i, native_cs32(), &err);
    if (!good) {
        fprintf(stderr, "fuzz-cpu: %s\n", err.text);
        return false;
    }
    fuzz_golden(f->golden);
    memcpy(native_memory() + PAGE_CODE * 4096, f->golden + PAGE_CODE * 4096, 2 * 4096);
    for (unsigned i = 0; i < SIDES; i++) {
        memcpy(guest_memory(i) + PAGE_CODE * 4096, f->golden + PAGE_CODE * 4096, 2 * 4096);
        guest_code_written(i, 0, 2 * 4096);
    }
    memset(f->c.code, 0xcc, sizeof f->c.code);
    restore(f);
    f->shown_by_form = calloc(x86_form_count + 1, sizeof *f->shown_by_form);
    return f->shown_by_form != NULL;
}

/* Worker `number` runs the cases seed + number, seed + number + jobs, ... */
static int work(struct fuzzer *f, unsigned number)
{
    double until = f->o.seconds > 0 ? now() + f->o.seconds : 0;

    if (!open_sides(f))
        return 2;
    for (uint64_t i = number; i < f->o.count; i += f->o.jobs) {
        int form = f->form_count ? f->forms[i % f->form_count] : -1;

        if (until > 0 && i / f->o.jobs % 256 == 0 && now() > until)
            break;
        run_case(f, f->o.seed + i, form);
    }
    for (unsigned i = 0; i < SIDES; i++)
        f->t->translated += guest_translated(i);
    native_close();
    guest_close();
    return f->t->differing != 0;
}

static void print_totals(const struct fuzzer *f, struct totals *all, double seconds)
{
    struct totals sum = {0};
    unsigned covered = 0, runnable = 0;

    for (unsigned j = 0; j < f->o.jobs; j++) {
        sum.cases += all[j].cases, sum.dropped += all[j].dropped, sum.skipped += all[j].skipped;
        sum.differing += all[j].differing, sum.stuck += all[j].stuck;
        sum.translated += all[j].translated;
        for (unsigned i = 0; i < SIDES; i++)
            sum.by_side[i] += all[j].by_side[i];
    }
    for (unsigned i = 0; i <= x86_form_count; i++) {
        uint64_t n = 0, bad = 0;

        for (unsigned j = 0; j < f->o.jobs; j++)
            n += all[j].by_form[i], bad += all[j].differing_by_form[i];
        if (bad && i == x86_form_count)
            printf("# differs: invalid or cut  %llu of %llu\n", (unsigned long long)bad,
                   (unsigned long long)n);
        if (i == x86_form_count)
            break;
        covered += n != 0;
        runnable += !fuzz_excluded(i) &&
                    (x86_form[i].modes & (1u << X86_MODE_64 | (native_cs32() ? 2u : 0)));
        if (bad)
            printf("# differs: %-12s form %-5u %llu of %llu\n", x86_op_name[x86_form[i].op], i,
                   (unsigned long long)bad, (unsigned long long)n);
    }
    printf("# %llu cases, %llu differ, %llu skipped (%llu looped), %llu not generated; %u of %u "
           "forms (%u in the table); "
           "%.1f s, %.0f cases/s\n",
           (unsigned long long)sum.cases, (unsigned long long)sum.differing,
           (unsigned long long)sum.skipped, (unsigned long long)sum.stuck,
           (unsigned long long)sum.dropped, covered, runnable, x86_form_count, seconds,
           (double)sum.cases / seconds);
    printf("# compared:");
    for (unsigned i = 0; i < SIDES; i++)
        printf(" %llu in %s,", (unsigned long long)sum.by_side[i], fuzz_side_name[i]);
    printf(" %llu instructions translated\n", (unsigned long long)sum.translated);
}

/* For the test suite: one check per instruction set. */
static void print_tap(const struct fuzzer *f, const struct totals *all)
{
    static const char *const sets[] = {"integer and system", "x87", "MMX", "SSE", "AVX"};
    uint64_t translated = 0;

    for (unsigned s = 0; s < ARRAY_SIZE(sets); s++) {
        uint64_t n = 0, bad = 0;

        for (unsigned i = 0; i < x86_form_count; i++) {
            unsigned gate = x86_form[i].gate;
            unsigned set = gate == X86_GATE_X87 || gate == X86_GATE_FN || gate == X86_GATE_FWAIT ? 1
                           : gate == X86_GATE_MMX                                                ? 2
                           : gate == X86_GATE_SSE                                                ? 3
                           : gate == X86_GATE_AVX                                                ? 4
                                                  : 0;

            for (unsigned j = 0; set == s && j < f->o.jobs; j++)
                n += all[j].by_form[i], bad += all[j].differing_by_form[i];
        }
        ok(n && !bad, "%s: %llu cases like the host", sets[s], (unsigned long long)n);
    }
    for (unsigned j = 0; j < f->o.jobs; j++)
        translated += all[j].translated;
    if (all[0].by_side[SIDE_JIT])
        ok(translated, "%llu instructions were translated", (unsigned long long)translated);
    tap_done();
}

static int run_jobs(struct fuzzer *f)
{
    size_t per_job = sizeof(struct totals) + 2 * sizeof(uint32_t) * (x86_form_count + 1);
    uint8_t *shared =
        mmap(NULL, per_job * f->o.jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct totals *all = (struct totals *)(void *)shared;
    uint32_t *counts = (uint32_t *)(void *)(shared + sizeof *all * f->o.jobs);
    double begin = now();
    int result = 0;

    if (shared == MAP_FAILED)
        return 2;
    for (unsigned j = 0; j < f->o.jobs; j++) {
        pid_t pid;

        all[j].by_form = counts + 2 * (x86_form_count + 1) * j;
        all[j].differing_by_form = all[j].by_form + x86_form_count + 1;
        f->t = &all[j];
        fflush(stdout);
        pid = fork();
        if (pid < 0)
            return 2;
        if (pid == 0)
            exit(work(f, j));
    }
    for (unsigned j = 0; j < f->o.jobs; j++) {
        int status;

        if (wait(&status) < 0 || !WIFEXITED(status)) {
            printf("a worker died: signal %d\n", WTERMSIG(status));
            result = 2;
        } else if (WEXITSTATUS(status) > result) {
            result = WEXITSTATUS(status);
        }
    }
    print_totals(f, all, now() - begin);
    if (f->o.tap)
        print_tap(f, all);
    return result;
}

/* ---- options ---- */

static const char usage[] =
    "usage: fuzz-cpu [options]\n"
    "Runs random instructions on this CPU and in the soft engine, by its interpreter and its JIT,\n"
    "and compares everything.\n"
    "  --seed N      first case (default: 1)\n"
    "  --count N     cases (default: 100000)\n"
    "  --seconds N   stop after this time\n"
    "  --jobs N      worker processes (default: 1)\n"
    "  --form NAME   only this mnemonic, or '#N': this row of the opcode table\n"
    "  --case N      run one case and print it, with the same --form as when it was found\n"
    "  --show N      differing cases to print per worker, at most one per form (default: 20)\n"
    "  --programs    small programs with branches, loops and calls instead\n"
    "  --tap         totals as TAP, one check per instruction set\n"
    "  --list        the forms that are never run, and why\n"
    "exit status: 0 no difference, 1 differences, 2 trouble\n";

static bool choose_forms(struct fuzzer *f)
{
    const char *name = f->o.form;

    if (!name)
        return true;
    for (unsigned i = 0; i < x86_form_count && f->form_count < 4096; i++)
        if (name[0] == '#' ? (unsigned)atoi(name + 1) == i
                           : !strcmp(name, x86_op_name[x86_form[i].op]))
            f->forms[f->form_count++] = (int)i;
    if (!f->form_count)
        fprintf(stderr, "fuzz-cpu: the opcode table has no %s\n", name);
    return f->form_count;
}

static int list_excluded(void)
{
    for (unsigned i = 0; i < x86_form_count; i++)
        if (fuzz_excluded(i))
            printf("%-12s form %-5u %s\n", x86_op_name[x86_form[i].op], i, fuzz_excluded(i));
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", 1, NULL, 's'},     {"count", 1, NULL, 'n'}, {"seconds", 1, NULL, 't'},
        {"jobs", 1, NULL, 'j'},     {"form", 1, NULL, 'f'},  {"case", 1, NULL, 'c'},
        {"show", 1, NULL, 'v'},     {"list", 0, NULL, 'l'},  {"tap", 0, NULL, 'T'},
        {"programs", 0, NULL, 'p'}, {"help", 0, NULL, 'h'},  {0}};
    struct options *o = &fuzzer.o;
    int opt;

    unsetenv("HULL_JIT"); /* each side has its own settings */
    *o = (struct options){.seed = 1, .count = 100000, .jobs = 1, .show = 20};
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (opt) {
        case 's': o->seed = strtoull(optarg, NULL, 0); break;
        case 'n': o->count = strtoull(optarg, NULL, 0); break;
        case 't':
            o->seconds = atof(optarg);
            o->count = UINT64_MAX / 2;
            break;
        case 'j': o->jobs = (unsigned)atoi(optarg); break;
        case 'f': o->form = optarg; break;
        case 'c':
            o->seed = strtoull(optarg, NULL, 0);
            o->count = 1;
            o->one_case = true;
            break;
        case 'v': o->show = (unsigned)atoi(optarg); break;
        case 'p': o->programs = true; break;
        case 'T': o->tap = true; break;
        case 'l': return list_excluded();
        case 'h': fputs(usage, stdout); return 0;
        default: fputs(usage, stderr); return 2;
        }
    }
    if (o->jobs < 1 || o->jobs > 64 || !choose_forms(&fuzzer))
        return 2;
    return run_jobs(&fuzzer);
}
