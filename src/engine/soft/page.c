/* SPDX-License-Identifier: MIT */
/* RAM pages as the engine sees them: code, writers, dirtiness (invariants in page.h), and the
 * requests by which vCPUs make each other drop write entries. */
#include "engine/soft/page.h"
#include "engine/soft/jit/jit.h"
#include "engine/soft/tlb.h"
#include "engine/soft/trace.h"
#include "engine/x86/model.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define BESIDE_MAX     64 /* slow stores until a page's code is forgotten */
#define POPULATE_PAGES 16ull
#define PHYS_BITS      40 /* without a CPU model */

static void *map_zero(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static size_t written_bytes(const struct soft_region *s)
{
    return (s->pages + 63) / 64 * 8;
}

static bool add_region(struct soft_region *s, struct mem_region *r, struct err *err)
{
    s->region = r;
    s->pages = r->size >> PAGE_SHIFT;
    s->page = map_zero(s->pages * sizeof *s->page);
    s->written = map_zero(written_bytes(s));
    if (s->page == NULL || s->written == NULL)
        return err_set(err, ENOMEM, "no memory for the page table of region '%s'", r->name);
    return true;
}

/* Devices write guest memory without the TLB. */
static void device_wrote(struct mem_watcher *w, struct mem_region *r, uint64_t offset, size_t len)
{
    struct soft_vm *soft = container_of(w, struct soft_vm, watcher);

    for (unsigned i = 0; i < soft->count; i++) {
        struct soft_region *s = &soft->region[i];

        if (s->region != r)
            continue;
        while (len > 0) {
            unsigned in_page = offset & ~PAGE_MASK;
            size_t n = min_size(len, PAGE_SIZE - in_page);

            soft_code_written(soft, &s->page[offset >> PAGE_SHIFT], in_page, n, CODE_BY_DEVICE);
            offset += n;
            len -= n;
        }
        return;
    }
}

bool soft_core_open(struct vm *vm, struct soft_vm **out, struct err *err)
{
    struct soft_vm *soft = calloc(1, sizeof *soft);

    *out = soft;
    if (soft == NULL)
        return err_set(err, ENOMEM, "no memory for the soft engine");
    soft->vm = vm;
    soft->phys_bits = vm->model ? vm->model->phys_bits : PHYS_BITS;
    trace_setup();
    if (getenv("HULL_JIT") && !soft_jit_setup(getenv("HULL_JIT"), err))
        return false;
    pthread_mutex_init(&soft->split, NULL);
    pthread_mutex_init(&soft->drop, NULL);
    for (unsigned i = 0; i < vm->mem->count; i++, soft->count++) {
        if (!add_region(&soft->region[i], &vm->mem->region[i], err)) {
            soft->count++;
            return false;
        }
    }
    soft->watcher.written = device_wrote;
    vm->mem->watcher = &soft->watcher;
    return true;
}

void soft_core_close(struct vm *vm, struct soft_vm *soft)
{
    if (soft == NULL)
        return;
    if (vm->mem->watcher == &soft->watcher)
        vm->mem->watcher = NULL;
    for (unsigned i = 0; i < soft->count; i++) {
        struct soft_region *s = &soft->region[i];

        if (s->page)
            munmap(s->page, s->pages * sizeof *s->page);
        if (s->written)
            munmap((void *)s->written, written_bytes(s));
    }
    pthread_mutex_destroy(&soft->split);
    pthread_mutex_destroy(&soft->drop);
    free(soft);
}

bool soft_ram_at(struct soft_vm *soft, uint64_t phys, struct soft_ram *ram)
{
    for (unsigned i = 0; i < soft->count; i++) {
        struct soft_region *s = &soft->region[i];
        uint64_t offset = phys - s->region->base;

        if (offset < s->region->size) {
            ram->region = s->region;
            ram->beside = s;
            ram->index = offset >> PAGE_SHIFT;
            ram->code = &s->page[ram->index];
            ram->host = s->region->host + offset;
            return true;
        }
    }
    return false;
}

/* A page fault of the host costs as much as filling several pages, and guests write memory in
 * order: the first write to 16 untouched pages gets them all. Where the kernel does not know how
 * (before 5.14), nothing happens. */
static void populate(const struct soft_ram *ram, uint64_t written)
{
    uint64_t first = ram->index & ~(uint64_t)(POPULATE_PAGES - 1);

    if (written >> (first % 64) & (BIT(POPULATE_PAGES) - 1))
        return;
    if (first + POPULATE_PAGES <= ram->beside->pages)
        (void)madvise(ram->region->host + (first << PAGE_SHIFT), POPULATE_PAGES << PAGE_SHIFT,
                      MADV_POPULATE_WRITE);
}

static void mark_written(struct soft_ram *ram)
{
    _Atomic uint64_t *word = &ram->beside->written[ram->index / 64];
    uint64_t bit = BIT(ram->index % 64), now = atomic_load_explicit(word, memory_order_relaxed);

    if (now & bit)
        return;
    populate(ram, now);
    atomic_fetch_or(word, bit);
}

/* Translated code does not look at generations: vCPUs that have some are told. */
static void tell_translators(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct soft_cpu *cpu = vm->cpu[i] ? vm->cpu[i]->priv : NULL;

        if (cpu && cpu->jit)
            atomic_fetch_or(&cpu->pending, PEND_CODE);
    }
}

void soft_code_written(struct soft_vm *soft, struct code_page *page, unsigned offset, size_t len,
                       enum code_cause cause)
{
    if (len == 0 || !(atomic_load(&page->lines) & code_lines(offset, len)))
        return;
    atomic_store(&page->lines, 0);
    atomic_fetch_add(&page->generation, 1);
    atomic_fetch_add_explicit(&soft->invalidations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&soft->code_written[cause], 1, memory_order_relaxed);
    tell_translators(soft->vm);
}

/* Stores beside the code of a page are slow. When there are many, the page may hold no code any
 * more (memory is reused), so it is treated as if they had hit: blocks still in use are checked
 * against their bytes, the others forgotten. */
static void store_beside_code(struct soft_cpu *cpu, struct soft_ram *ram)
{
    uint8_t *count = &cpu->tlb->beside[ram->index % ARRAY_SIZE(cpu->tlb->beside)];

    if (atomic_load(&ram->code->lines) == 0 || ++*count < BESIDE_MAX)
        return;
    *count = 0;
    soft_code_written(cpu->soft, ram->code, 0, PAGE_SIZE, CODE_BESIDE);
}

void soft_ram_written(struct soft_cpu *cpu, uint64_t phys, unsigned len)
{
    struct soft_ram ram;

    if (!soft_ram_at(cpu->soft, phys, &ram))
        return;
    mark_written(&ram);
    soft_code_written(cpu->soft, ram.code, phys & ~PAGE_MASK, len, CODE_BY_GUEST);
    store_beside_code(cpu, &ram);
}

bool soft_may_cache_write(struct soft_cpu *cpu, struct soft_ram *ram)
{
    uint64_t me = BIT(cpu->vcpu->id);

    mark_written(ram);
    if (atomic_load(&ram->code->lines) != 0)
        return false;
    if (!(atomic_load(&ram->code->writers) & me))
        atomic_fetch_or(&ram->code->writers, me);
    return atomic_load(&ram->code->lines) == 0;
}

void soft_serve(struct soft_cpu *cpu)
{
    uint32_t ticket;

    atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_REQUEST);
    ticket = atomic_load(&cpu->request);
    soft_tlb_drop_writes(cpu);
    atomic_store(&cpu->request_done, ticket);
}

/* Makes another vCPU drop its write entries, and waits unless it is outside run(): then it does so
 * before it goes on. `self` may be NULL. */
static void drop_writes_of(struct soft_cpu *self, struct soft_cpu *other)
{
    uint32_t ticket = atomic_fetch_add(&other->request, 1) + 1;

    atomic_fetch_or(&other->pending, PEND_REQUEST);
    while ((int32_t)(atomic_load(&other->request_done) - ticket) < 0 &&
           atomic_load(&other->running)) {
        if (self && (atomic_load(&self->pending) & PEND_REQUEST))
            soft_serve(self);
        sched_yield();
    }
}

/* Drops everyone's write entries for one page. Another vCPU that adds code to the same page
 * meanwhile finds no writers left, so it must not conclude that all is done: `dropping` says that
 * it is not. */
static void drop_writers(struct soft_cpu *cpu, struct soft_ram *ram)
{
    struct soft_vm *soft = cpu->soft;
    struct vm *vm = cpu->vm;
    uint64_t writers;

    while (pthread_mutex_trylock(&soft->drop) != 0) {
        if (atomic_load(&cpu->pending) & PEND_REQUEST)
            soft_serve(cpu);
        sched_yield();
    }
    atomic_fetch_add(&soft->dropping, 1);
    writers = atomic_exchange(&ram->code->writers, 0);
    if (writers & BIT(cpu->vcpu->id))
        soft_tlb_drop_page(cpu, ram->host - ((uintptr_t)ram->host & ~PAGE_MASK));
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if ((writers & BIT(i)) && vm->cpu[i] != cpu->vcpu && vm->cpu[i]->priv)
            drop_writes_of(cpu, vm->cpu[i]->priv);
    }
    atomic_fetch_sub(&soft->dropping, 1);
    pthread_mutex_unlock(&soft->drop);
}

void soft_code_added(struct soft_cpu *cpu, struct soft_ram *ram, uint32_t lines)
{
    if ((atomic_load(&ram->code->lines) & lines) != lines)
        atomic_fetch_or(&ram->code->lines, lines);
    if (atomic_load(&ram->code->writers) != 0 || atomic_load(&cpu->soft->dropping) != 0)
        drop_writers(cpu, ram);
}

void soft_dirty(struct vm *vm, struct mem_region *r)
{
    struct soft_vm *soft = ((struct soft_cpu *)vm->cpu[0]->priv)->soft;

    for (unsigned i = 0; i < soft->count; i++) {
        struct soft_region *s = &soft->region[i];

        for (uint64_t w = 0; s->region == r && w < (s->pages + 63) / 64; w++) {
            uint64_t bits = atomic_load(&s->written[w]);

            if (bits == 0)
                continue;
            bits = atomic_exchange(&s->written[w], 0);
            if (r->dirty)
                __atomic_fetch_or(&r->dirty[w], bits, __ATOMIC_SEQ_CST);
        }
    }
    /* From here on a page is reported again as soon as someone writes it. */
    for (unsigned i = 0; i < vm->cpu_count; i++)
        drop_writes_of(NULL, vm->cpu[i]->priv);
}
