/* SPDX-License-Identifier: MIT */
/* Opening and closing; entering translated code from the interpreter's blocks and coming back. */
#include "engine/soft/jit/run.h"
#include "engine/soft/jit/jit_int.h"
#include "engine/soft/operand.h"
#include "engine/soft/trace.h"
#include <asm/prctl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define CODE_SIZE  (24 * MiB)
#define COLD_AT    (14 * MiB)
#define POOL_SIZE  (16 * MiB)
#define META_MAX   262144u
#define TRANS_MAX  65536u
#define PAGES_MAX  8192u
#define SLOTS_SIZE (2 * JIT_SLOTS * sizeof(void *))

/* Sanitizers see nothing of translated code: there it is tested only where a test asks for it. */
#ifdef SOFT_LOOP
struct soft_jit_options soft_jit_options = {.threshold = 32};
#else
struct soft_jit_options soft_jit_options = {.on = true, .threshold = 32};
#endif

static bool set_option(struct soft_jit_options *o, const char *word, size_t len)
{
    static const struct {
        const char *name;
        size_t at;
    } flag[] = {{"precise", offsetof(struct soft_jit_options, precise)},
                {"verify", offsetof(struct soft_jit_options, verify)},
                {"count", offsetof(struct soft_jit_options, count)},
                {"perf", offsetof(struct soft_jit_options, perf)},
                {"stats", offsetof(struct soft_jit_options, stats)}};

    if (len == 3 && !memcmp(word, "off", 3)) {
        o->on = false;
        return true;
    }
    o->on = true;
    if (len == 2 && !memcmp(word, "on", 2))
        return true;
    if (len == 5 && !memcmp(word, "force", 5)) {
        o->threshold = 1;
        return true;
    }
    if (len > 4 && len < 8 && !memcmp(word, "hot=", 4)) {
        o->threshold = (unsigned)strtoul(word + 4, NULL, 10);
        return o->threshold >= 1 && o->threshold <= 255;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(flag); i++) {
        if (len == strlen(flag[i].name) && !memcmp(word, flag[i].name, len)) {
            *(bool *)((char *)o + flag[i].at) = true;
            return true;
        }
    }
    return false;
}

bool soft_jit_setup(const char *text, struct err *err)
{
    while (*text) {
        size_t len = strcspn(text, ",");

        if (!set_option(&soft_jit_options, text, len))
            return err_set(err, EINVAL, "'%.*s' is no setting of the JIT", (int)len, text);
        text += len + (text[len] == ',');
    }
    return true;
}

static bool allocate(struct jit *j)
{
    j->pool_size = POOL_SIZE;
    j->pool = mmap(NULL, j->pool_size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (j->pool == MAP_FAILED)
        j->pool = NULL;
    j->metas_max = META_MAX;
    j->transes_max = TRANS_MAX;
    j->pages_max = PAGES_MAX;
    j->meta = calloc(META_MAX, sizeof *j->meta);
    j->trans = calloc(TRANS_MAX, sizeof *j->trans);
    j->page = calloc(PAGES_MAX, sizeof *j->page);
    j->slots = soft_map_near(j->cpu, SLOTS_SIZE);
    for (unsigned i = 0; i < 4; i++) {
        j->used[i / 2][i % 2].slot = calloc(JIT_LIST, sizeof(uint16_t));
        if (j->used[i / 2][i % 2].slot == NULL)
            return false;
    }
    return j->pool && j->meta && j->trans && j->page && j->slots;
}

static void release(struct jit *j)
{
    jit_code_close(j);
    if (j->pool)
        munmap(j->pool, j->pool_size);
    if (j->slots)
        munmap((void *)j->slots, SLOTS_SIZE);
    for (unsigned i = 0; i < 4; i++)
        free(j->used[i / 2][i % 2].slot);
    free(j->meta);
    free(j->trans);
    free(j->page);
    free(j);
}

static bool distance(const void *from, const void *to, int32_t *out)
{
    intptr_t d = (intptr_t)((uintptr_t)to - (uintptr_t)from);

    *out = (int32_t)d;
    return d > INT32_MIN / 2 && d < INT32_MAX / 2;
}

/* The model offers it, and so the host has it; without a model (tests) the host decides. */
static bool has_avx(const struct soft_cpu *cpu)
{
    const struct cpu_model *m = cpu->vm->model;

    return m ? cpu_model_has(m, X86_F_AVX) : __builtin_cpu_supports("avx");
}

#define CHUNK (128 * KiB)

/* All slots lead to the stub for misses. A small file full of that, mapped again and again: a page
 * of the table becomes memory of its own when something is written to it. */
static bool map_slots(const struct jit *j, const void *const *page)
{
    struct iovec part[CHUNK / PAGE_SIZE];
    int fd = memfd_create("hull-jumps", MFD_CLOEXEC);
    bool good;

    for (unsigned i = 0; i < ARRAY_SIZE(part); i++)
        part[i] = (struct iovec){(void *)page, PAGE_SIZE};
    good = fd >= 0 && writev(fd, part, ARRAY_SIZE(part)) == CHUNK;
    for (size_t at = 0; good && at < SLOTS_SIZE; at += CHUNK)
        good = mmap((char *)j->slots + at, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                    fd, 0) != MAP_FAILED;
    if (fd >= 0)
        close(fd);
    return good;
}

static void fill_slots(struct jit *j)
{
    const void *page[PAGE_SIZE / sizeof *j->slots];

    for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
        page[i] = jit_exec(j, j->miss);
    if (map_slots(j, page))
        return;
    for (unsigned i = 0; i < 2 * JIT_SLOTS; i++)
        j->slots[i] = jit_exec(j, j->miss);
}

void soft_jit_open(struct soft_cpu *cpu)
{
    struct jit *j;

    if (!soft_jit_options.on || soft_tracing)
        return;
    j = calloc(1, sizeof *j);
    if (j == NULL)
        return;
    j->cpu = cpu;
    j->opt = soft_jit_options;
    if (cpu->det)
        j->opt.count = j->opt.precise = true;
    if (!allocate(j) || !jit_code_open(j, CODE_SIZE) || !distance(cpu, cpu->tlb, &j->tlb) ||
        !distance(cpu, j->slots, &j->table)) {
        release(j);
        return;
    }
    j->wide = has_avx(cpu);
    j->hot = (struct buf){j->rw, j->rw + COLD_AT};
    j->cold = (struct buf){j->rw + COLD_AT, j->rw + CODE_SIZE};
    jit_map_open(j);
    jit_make_stubs(j);
    j->hot_start = (size_t)(j->hot.p - j->rw);
    j->cold_start = COLD_AT;
    fill_slots(j);
    cpu->jit = j;
}

static void print_counters(struct soft_cpu *cpu)
{
    struct soft_jit_counters n;

    soft_jit_counters(cpu, &n);
    fprintf(stderr,
            "JIT: %llu blocks, %llu instructions, %llu bytes to %llu; killed %llu, flushes %llu, "
            "enters %llu, calls %llu, misses %llu, refused %llu\n",
            (unsigned long long)n.translated, (unsigned long long)n.instructions,
            (unsigned long long)n.guest_bytes, (unsigned long long)n.host_bytes,
            (unsigned long long)n.killed, (unsigned long long)n.flushes,
            (unsigned long long)n.enters, (unsigned long long)n.calls, (unsigned long long)n.misses,
            (unsigned long long)n.refused);
}

void soft_jit_close(struct soft_cpu *cpu)
{
    if (cpu->jit && cpu->jit->opt.stats)
        print_counters(cpu);
    if (cpu->jit)
        release(cpu->jit);
    cpu->jit = NULL;
}

/* GS is ours: neither the C library nor the kernel uses it in user space. */
void soft_jit_thread(struct soft_cpu *cpu)
{
    static _Thread_local struct soft_cpu *current;

    if (cpu->jit == NULL || current == cpu)
        return;
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, cpu) == 0)
        current = cpu;
    else
        cpu->jit_refused = true;
}

/* ---- hot blocks ---- */

bool soft_jit_hot(struct soft_cpu *cpu, struct block *b)
{
    struct jit *j = cpu->jit;
    unsigned aliases = 0;
    struct trans *t;

    if (cpu->mode != X86_MODE_64 || b->page[0] == NULL || b->page[1] || jit_banned(j, b))
        return false;
    for (t = b->jit; t; t = t->alias) {
        if (t->rip == cpu->block_rip)
            return true;
        if (++aliases == JIT_ALIASES && t->alias)
            jit_kill_in_page(j, t->alias);
    }
    t = jit_translate(j, b, cpu->block_rip);
    if (t == NULL || !jit_publish(j, t, b)) {
        j->n.refused++;
        return false;
    }
    soft_block_translated(b);
    return true;
}

static const struct trans *translation(const struct block *b, uint64_t rip)
{
    const struct trans *t = b->jit;

    while (t && t->rip != rip)
        t = t->alias;
    return t;
}

/* ---- in and out ---- */

/* A handler is about to run an instruction of translated code; and it is done. */
static void begin(struct soft_cpu *cpu, const struct jit_meta *m)
{
    cpu->rip = m->rip;
    if (cpu->jit->opt.count)
        cpu->behind = m->left;
}

static void end(struct soft_cpu *cpu, const struct jit_meta *m)
{
    soft_uncount(cpu, &m->insn);
    cpu->rip = cpu->block_rip = cpu->next_rip;
}

/* A branch to an address that is not canonical faults at the branch. */
static void bad_branch(struct soft_cpu *cpu)
{
    struct jit_meta *m = &cpu->jit->meta[cpu->jit_from];

    cpu->reg[4] -= (uint64_t)(int64_t)m->undo;
    begin(cpu, m);
    soft_exec(cpu, &m->insn);
    end(cpu, m);
}

static bool canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

const struct uop *uop_jit(struct soft_cpu *cpu, const struct uop *u)
{
    struct jit *j = cpu->jit;
    struct block *b = soft_block_of(u);
    const struct trans *t = translation(b, cpu->block_rip);

    if (t == NULL || cpu->align_check || cpu->jit_refused || soft_block_changed(b))
        return uop_enter(cpu, u);
    for (;;) {
        struct jit_site *site;
        const struct uop *to;

        if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed) ||
                     cpu->instructions + b->insns > cpu->limit)) {
            cpu->rip = cpu->block_rip;
            return NULL;
        }
        j->n.enters++;
        cpu->jit_from = UINT32_MAX;
        soft_uncounted(cpu);
        site = (struct jit_site *)(uintptr_t)j->enter(cpu, jit_exec(j, t->entry));
        if (unlikely(!canonical(cpu->block_rip)) && cpu->jit_from != UINT32_MAX)
            bad_branch(cpu);
        if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed)))
            return NULL; /* cpu->rip is right */
        j->n.misses += site == NULL;
        to = soft_find(cpu);
        if (to->fn != uop_jit)
            GOTO(to);
        b = soft_block_of(to);
        t = translation(b, cpu->block_rip);
        if (t == NULL || cpu->align_check || soft_block_changed(b))
            return uop_enter(cpu, to);
        if (site)
            jit_link(j, site, (struct trans *)(uintptr_t)t);
        else
            jit_table_set(j, (struct trans *)(uintptr_t)t);
    }
}

uint32_t soft_jit_op(struct soft_cpu *cpu, uint32_t number)
{
    struct jit_meta *m = &cpu->jit->meta[number];

    cpu->jit->n.calls++;
    begin(cpu, m);
    soft_exec(cpu, &m->insn);
    if (likely(!m->ends && cpu->next_rip == m->rip + m->insn.length &&
               atomic_load_explicit(&cpu->pending, memory_order_relaxed) == 0)) {
        cpu->behind = 0;
        return 0;
    }
    end(cpu, m);
    return 1;
}

const void *soft_jit_end(struct soft_cpu *cpu, uint32_t number)
{
    struct jit *j = cpu->jit;
    struct jit_meta *m = &j->meta[number];

    j->n.calls++;
    begin(cpu, m);
    soft_exec(cpu, &m->insn);
    end(cpu, m);
    cpu->jit_from = UINT32_MAX;
    if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed) || cpu->align_check ||
                 cpu->mode != X86_MODE_64))
        return NULL;
    return j->slots[(cpu->cpl == 3 ? JIT_SLOTS : 0) + (cpu->rip & (JIT_SLOTS - 1))];
}

/* ---- for others ---- */

void soft_jit_attach(struct soft_cpu *cpu, struct block *b)
{
    struct jit *j = cpu->jit;

    if (j && b->page[0] && !b->page[1] && jit_attach(j, b))
        soft_block_translated(b);
}

bool soft_jit_active(const struct soft_cpu *cpu)
{
    return cpu->jit && !cpu->jit_refused;
}

void soft_jit_set_threshold(struct soft_cpu *cpu, unsigned entries)
{
    cpu->jit_threshold = cpu->jit ? (uint8_t)entries : 0;
}

bool soft_jit_counters(struct soft_cpu *cpu, struct soft_jit_counters *out)
{
    struct jit *j = cpu->jit;

    memset(out, 0, sizeof *out);
    if (j == NULL)
        return false;
    *out = j->n;
    out->code_used = (uint64_t)(j->hot.p - j->rw) + (uint64_t)(j->cold.p - (j->rw + j->cold_start));
    return true;
}

void soft_jit_each(struct soft_cpu *cpu, void (*f)(void *data, const struct soft_jit_block *b),
                   void *data)
{
    struct jit *j = cpu->jit;

    for (unsigned i = 0; j && i < j->transes; i++) {
        const struct trans *t = &j->trans[i];
        struct soft_jit_block b = {.rip = t->rip,
                                   .phys = t->phys,
                                   .bytes = t->bytes,
                                   .insns = t->insns,
                                   .code = jit_exec(j, t->table_entry),
                                   .code_bytes = t->code_bytes,
                                   .user = t->user};

        if (!t->dead && t->code_bytes)
            f(data, &b);
    }
}
