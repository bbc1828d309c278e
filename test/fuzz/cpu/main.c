/* SPDX-License-Identifier: MIT */
/* fuzz-cpu: options, worker processes, totals. doc/fuzz-cpu.md says how to read its reports. */
#include "batch.h"
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
    struct fuzz_batch batch;
    unsigned shown;
    uint32_t *shown_by_form;
};

static struct fuzzer fuzzer;

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

/* Counts and shows what came out. */
static void report(struct fuzzer *f, const struct fuzz_item *it)
{
    const struct fuzz_case *c = &it->c;
    unsigned form = c->broken ? x86_form_count : c->insn[c->insns - 1].form; /* the last */
    bool differs = it->differences > 0;

    f->t->cases++;
    f->t->by_form[form]++;
    f->t->skipped += it->differences < 0;
    f->t->stuck += it->host.vector == FUZZ_TIMEOUT;
    f->t->differing += differs;
    f->t->differing_by_form[form] += differs;
    if (f->o.one_case || (differs && f->shown < f->o.show &&
                          f->shown_by_form[form]++ < (form < x86_form_count ? 1 : 10))) {
        f->shown++;
        print_case(c, it->form, differs ? fuzz_side_name[it->side] : "", differs ? it->text : "",
                   f->o.one_case);
        if (f->o.one_case)
            printf("#   host: vector %u error %x cr2 %llx rip %llx\n", it->host.vector,
                   it->host.error, (unsigned long long)it->host.cr2,
                   (unsigned long long)it->host.rip);
    }
}

static void run_batch(struct fuzzer *f)
{
    struct fuzz_batch *b = &f->batch;

    fuzz_batch_run(b);
    for (unsigned i = 0; i < b->count; i++) {
        if (b->item[i].differences > 0)
            fuzz_batch_again(b, i);
        report(f, &b->item[i]);
    }
    b->count = b->saves = 0;
}

/* Makes one more case, and runs them all when there are enough. */
static void add_case(struct fuzzer *f, uint64_t seed, int form)
{
    struct fuzz_item *it = &f->batch.item[f->batch.count];

    it->c.seed = seed;
    it->form = form;
    it->text[0] = 0;
    if (f->o.programs ? fuzz_program(&it->c) : fuzz_generate(&it->c, form))
        f->batch.count++;
    else
        f->t->dropped++;
    if (f->batch.count == FUZZ_BATCH)
        run_batch(f);
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

    if (!fuzz_batch_open(&f->batch, &err)) {
        fprintf(stderr, "fuzz-cpu: %s\n", err.text);
        return false;
    }
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
        add_case(f, f->o.seed + i, form);
    }
    run_batch(f);
    for (unsigned i = 0; i < SIDES; i++) {
        f->t->by_side[i] = f->batch.compared[i];
        f->t->translated += guest_translated(i);
    }
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
