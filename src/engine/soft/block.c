/* SPDX-License-Identifier: MIT */
/* The block cache: finding, making and checking blocks; the jump cache. See block.h. */
#include "engine/soft/block.h"
#include "engine/soft/jit/run.h"
#include "engine/soft/jump.h"
#include "engine/soft/operand.h"
#include "engine/soft/profile.h"
#include "engine/soft/tlb.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define ARENA_SIZE (8 * MiB)
#define HASH_SIZE  8192u
#define CONTEXTS   16u
#define BLOCK_MAX                                                                                  \
    (sizeof(struct block) + SOFT_UOPS_MAX * sizeof(struct uop) +                                   \
     BLOCK_INSNS * sizeof(struct insn) + 64)

struct context { /* what a jump cache entry depends on beyond RIP */
    uint64_t base;
    uint32_t limit, key;
};

struct soft_blocks {
    struct block *hash[HASH_SIZE];
    struct jump jump[JUMP_SIZE];
    struct context context[CONTEXTS];
    unsigned contexts;
    uint64_t epoch; /* of the jump cache; and since when entries of each address half are good */
    uint64_t half_epoch[2];
    uint8_t *arena;
    size_t used;
    _Atomic uint32_t constant; /* generation of code that is not in RAM */
    struct soft_counters counters;
};

bool soft_cpu_open(struct soft_cpu *cpu, struct err *err)
{
    struct soft_blocks *b;

    cpu->a20_mask = cpu->a20_mask ? cpu->a20_mask : ~0ULL;
    cpu->apic_page = cpu->apic_page ? cpu->apic_page : 1;
    cpu->limit = cpu->det ? 0 : UINT64_MAX;          /* 0: det_look says more */
    cpu->tlb = soft_map_near(cpu, sizeof *cpu->tlb); /* translated code reaches it from cpu */
    if (cpu->tlb == NULL) { /* no room there (sanitizers): the JIT will do without this vCPU */
        void *any = mmap(NULL, sizeof *cpu->tlb, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        cpu->tlb = any == MAP_FAILED ? NULL : any;
    }
    if (cpu->tlb == NULL)
        return err_set(err, ENOMEM, "no memory for a vCPU's TLB");
    soft_tlb_init(cpu->tlb);
    b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cpu->blocks = b == MAP_FAILED ? NULL : b;
    if (cpu->blocks == NULL)
        return err_set(err, ENOMEM, "no memory for a vCPU's blocks");
    b->epoch = b->half_epoch[0] = b->half_epoch[1] = 1;
    cpu->jump = b->jump;
    b->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->arena == MAP_FAILED) {
        b->arena = NULL;
        return err_set(err, ENOMEM, "no memory for a vCPU's code cache");
    }
    soft_mode_changed(cpu);
    if (!cpu->soft->stepper) {
        cpu->profile = calloc(1, sizeof *cpu->profile); /* NULL: none is kept */
        soft_jit_open(cpu);
    }
    if (cpu->jit)
        soft_jit_set_threshold(cpu, soft_jit_options.threshold);
    return true;
}

void soft_cpu_close(struct soft_cpu *cpu)
{
    soft_jit_close(cpu);
    if (cpu->blocks && cpu->blocks->arena)
        munmap(cpu->blocks->arena, ARENA_SIZE);
    if (cpu->blocks)
        munmap(cpu->blocks, sizeof *cpu->blocks);
    if (cpu->tlb)
        munmap(cpu->tlb, sizeof *cpu->tlb);
    free(cpu->profile);
    cpu->profile = NULL;
    cpu->blocks = NULL;
    cpu->tlb = NULL;
}

void soft_counters(struct soft_cpu *cpu, struct soft_counters *out)
{
    *out = cpu->blocks->counters;
    out->slow = cpu->slow;
    out->tlb_misses = cpu->tlb->misses;
    out->tlb_flushes = cpu->tlb->flushes;
    out->invalidations = cpu->soft->invalidations;
}

/* ---- mode ---- */

static bool flat(const struct x86_seg *s, bool write)
{
    unsigned type = s->attr & SEG_TYPE;

    return s->base == 0 && s->limit == 0xffffffff && (s->attr & SEG_P) &&
           (!write || (type & 0xe) == 2);
}

static uint32_t current_key(const struct soft_cpu *cpu)
{
    const struct x86_seg *s = cpu->seg;
    uint32_t key = cpu->mode | (cpu->cpl == 3 ? KEY_USER : 0);

    if (cpu->mode == X86_MODE_64)
        return key | KEY_FLAT | KEY_WIDE;
    if (s[SEG_SS].attr & SEG_DB)
        key |= KEY_SS32;
    if (flat(&s[SEG_CS], false) && flat(&s[SEG_DS], true) && flat(&s[SEG_ES], true) &&
        flat(&s[SEG_SS], true))
        key |= KEY_FLAT;
    if (s[SEG_CS].limit >= (cpu->mode == X86_MODE_16 ? 0xffff : 0xffffffff))
        key |= KEY_WIDE;
    return key;
}

static unsigned context_of(struct soft_blocks *b, const struct context *c)
{
    for (unsigned i = 0; i < b->contexts; i++) {
        if (memcmp(&b->context[i], c, sizeof *c) == 0)
            return i;
    }
    if (b->contexts == CONTEXTS) { /* translated code knows no contexts: it is 64-bit code's */
        b->contexts = 0;
        b->epoch++;
        b->half_epoch[0] = b->half_epoch[1] = b->epoch;
    }
    b->context[b->contexts] = *c;
    return b->contexts++;
}

static void set_tags(struct soft_cpu *cpu)
{
    for (unsigned half = 0; half < 2; half++)
        cpu->jump_tag[half] = cpu->blocks->half_epoch[half] << 8 | cpu->jump_context;
}

/* No entry of the jump cache is good any more. */
static void forget_all(struct soft_cpu *cpu)
{
    cpu->blocks->epoch++;
    cpu->blocks->half_epoch[0] = cpu->blocks->half_epoch[1] = cpu->blocks->epoch;
    set_tags(cpu);
    soft_jit_forget_jumps(cpu, 0);
    soft_jit_forget_jumps(cpu, 1);
}

void soft_mode_changed(struct soft_cpu *cpu)
{
    const struct x86_seg *cs = &cpu->seg[SEG_CS];
    struct context c = {0};
    bool long_code = (cpu->efer & 0x400) && (cs->attr & SEG_L);

    cpu->mode = long_code ? X86_MODE_64 : cs->attr & SEG_DB ? X86_MODE_32 : X86_MODE_16;
    if (!(cpu->cr0 & 1))
        cpu->cpl = 0;
    else if (cpu->rflags & FL_VM)
        cpu->cpl = 3;
    soft_tlb_class(cpu);
    cpu->key = current_key(cpu);
    c.key = cpu->key;
    if (!long_code) {
        c.base = cs->base;
        c.limit = cs->limit;
    }
    cpu->jump_context = context_of(cpu->blocks, &c);
    set_tags(cpu);
}

void soft_blocks_forget_jumps(struct soft_cpu *cpu, unsigned half)
{
    cpu->blocks->epoch++;
    cpu->blocks->half_epoch[half] = cpu->blocks->epoch;
    set_tags(cpu);
    soft_jit_forget_jumps(cpu, half);
}

/* ---- fetching ---- */

static uint64_t code_linear(const struct soft_cpu *cpu, uint64_t rip)
{
    return cpu->mode == X86_MODE_64 ? rip : (uint32_t)(cpu->seg[SEG_CS].base + rip);
}

/* Bytes of code at one linear address: up to the page's end. */
struct code {
    struct soft_ram ram;
    bool is_ram;
    uint64_t phys;
    size_t len;
};

static void code_at(struct soft_cpu *cpu, uint64_t linear, struct code *c)
{
    c->phys = soft_fetch_page(cpu, linear) | (linear & ~PAGE_MASK);
    c->len = PAGE_SIZE - (linear & ~PAGE_MASK);
    c->is_ram = soft_ram_at(cpu->soft, c->phys, &c->ram);
}

static void code_copy(struct soft_cpu *cpu, const struct code *c, size_t from, uint8_t *to,
                      size_t len)
{
    if (c->is_ram) {
        memcpy(to, c->ram.host + from, len);
        return;
    }
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)bus_read(cpu->vm->mmio, c->phys + from + i, 1);
}

_Noreturn static void decode_fault(struct soft_cpu *cpu, enum x86_decode_result r)
{
    if (r == X86_INVALID)
        soft_ud(cpu);
    soft_gp(cpu, 0);
}

/* RIP itself must be reachable: canonical, inside the segment. */
static void check_rip(struct soft_cpu *cpu, uint64_t rip, unsigned len)
{
    if (cpu->mode == X86_MODE_64) {
        if ((uint64_t)((int64_t)(rip << 16) >> 16) != rip)
            soft_gp(cpu, 0);
    } else if (rip + len - 1 > cpu->seg[SEG_CS].limit) {
        soft_gp(cpu, 0);
    }
}

/* One instruction at `linear`, perhaps from two pages. Returns how many bytes the first page gave.
 */
static size_t fetch_insn(struct soft_cpu *cpu, uint64_t linear, struct insn *in,
                         uint8_t bytes[X86_INSN_MAX], struct code c[2])
{
    enum x86_decode_result r;
    size_t first, len;

    code_at(cpu, linear, &c[0]);
    first = len = min_size(X86_INSN_MAX, c[0].len);
    code_copy(cpu, &c[0], 0, bytes, first);
    r = x86_decode(in, bytes, first, cpu->mode);
    if (r == X86_NEED_MORE && first < X86_INSN_MAX) {
        uint64_t next = linear + first;

        code_at(cpu, cpu->mode == X86_MODE_64 ? next : (uint32_t)next, &c[1]);
        len = X86_INSN_MAX;
        code_copy(cpu, &c[1], 0, bytes + first, len - first);
        r = x86_decode(in, bytes, len, cpu->mode);
    }
    if (r != X86_DECODED)
        decode_fault(cpu, r);
    return first;
}

void soft_fetch(struct soft_cpu *cpu, struct insn *in)
{
    uint8_t bytes[X86_INSN_MAX];
    struct code c[2];

    check_rip(cpu, cpu->rip, 1);
    fetch_insn(cpu, code_linear(cpu, cpu->rip), in, bytes, c);
    check_rip(cpu, cpu->rip, in->length);
}

/* ---- making blocks ---- */

static uint32_t block_hash(uint64_t phys, uint32_t key)
{
    return (uint32_t)((phys ^ phys >> 13 ^ key * 0x9e5u) & (HASH_SIZE - 1));
}

static void reset_arena(struct soft_cpu *cpu)
{
    struct soft_blocks *b = cpu->blocks;

    memset(b->hash, 0, sizeof b->hash);
    b->used = 0;
    b->counters.arena_resets++;
    soft_jit_detach_all(cpu);
    forget_all(cpu);
}

struct draft { /* a block before it has a place */
    struct insn insn[BLOCK_INSNS];
    uint8_t bytes[BLOCK_INSNS * X86_INSN_MAX];
    struct code code[2];
    unsigned insns;
    size_t len, first; /* bytes; of them in the first page */
    struct lowering low;
};

/* Decodes on from the first instruction to the end of the block. */
static void decode_rest(struct soft_cpu *cpu, struct draft *d)
{
    uint64_t room = cpu->mode == X86_MODE_64 ? ~0ULL : cpu->seg[SEG_CS].limit - cpu->block_rip;

    while (d->insns < BLOCK_INSNS && !soft_ends_block(&d->insn[d->insns - 1]) &&
           d->len < d->code[0].len) {
        size_t left = min_size(X86_INSN_MAX, d->code[0].len - d->len);
        struct insn *in = &d->insn[d->insns];

        code_copy(cpu, &d->code[0], d->len, d->bytes + d->len, left);
        if (x86_decode(in, d->bytes + d->len, left, cpu->mode) != X86_DECODED)
            return; /* straddles or faults: the next block begins with it */
        if (d->len + in->length - 1 > room)
            return;
        d->len += in->length;
        d->insns++;
    }
    d->first = d->len;
}

static void make_draft(struct soft_cpu *cpu, uint64_t linear, struct draft *d)
{
    d->first = fetch_insn(cpu, linear, &d->insn[0], d->bytes, d->code);
    check_rip(cpu, cpu->rip, d->insn[0].length);
    d->insns = 1;
    d->len = d->insn[0].length;
    if (d->len <= d->first) {
        d->first = d->len;
        if (d->code[0].is_ram)
            decode_rest(cpu, d);
        d->first = d->len;
    }
}

static uint32_t now(struct code_page *p)
{
    return p ? atomic_load(&p->generation) : 0;
}

/* Marks the lines as code and reads the pages' generations; what was read before must be compared
 * again. */
static void protect(struct soft_cpu *cpu, struct block *b)
{
    struct soft_ram ram;

    for (unsigned i = 0; i < 2 && b->page[i]; i++) {
        size_t len = i == 0 ? b->first : b->bytes - b->first;

        ram.code = b->page[i];
        ram.host = (uint8_t *)(uintptr_t)b->host[i];
        soft_code_added(cpu, &ram, code_lines((uintptr_t)b->host[i] & ~PAGE_MASK, len));
        b->generation[i] = now(b->page[i]);
    }
}

static bool same_bytes(const struct block *b)
{
    return memcmp(b->host[0], b->copy, b->first) == 0 &&
           (b->page[1] == NULL || memcmp(b->host[1], b->copy + b->first, b->bytes - b->first) == 0);
}

static struct uop *block_uops(const struct block *b)
{
    size_t head = offsetof(struct block, copy) + b->bytes;

    return (struct uop *)((char *)(uintptr_t)b + align_up(head, 32));
}

static void set_entry(struct soft_cpu *cpu, struct block *b)
{
    struct uop *u = block_uops(b);

    u->fn = b->page[1] ? uop_enter2 : b->jit ? uop_jit : uop_enter;
    u->imm = b->page[1]
                 ? (uintptr_t)b
                 : (uintptr_t)(b->page[0] ? &b->page[0]->generation : &cpu->blocks->constant);
    u->disp = (int32_t)b->generation[0];
    u->at = b->insns;
    u->n = 0;
    u->insn = (uint16_t)((char *)u - (char *)b);
    u->dst =
        b->page[0] && b->first == b->bytes; /* may be linked to: depends on its own page alone */
}

void soft_block_translated(struct block *b)
{
    block_uops(b)->fn = uop_jit;
}

void soft_block_plain(struct soft_cpu *cpu, struct block *b)
{
    struct uop *u = block_uops(b);

    (void)cpu;
    if (u->fn == uop_jit) {
        u->fn = uop_enter;
        u->length = 0;
    }
}

static struct block *place_block(struct soft_cpu *cpu, const struct draft *d)
{
    struct soft_blocks *s = cpu->blocks;
    struct block *b;
    struct uop *u;
    struct insn *in;
    unsigned n;

    if (s->used + BLOCK_MAX > ARENA_SIZE)
        reset_arena(cpu);
    b = (struct block *)(s->arena + s->used);
    memset(b, 0, offsetof(struct block, copy));
    b->phys = d->code[0].phys;
    b->key = cpu->key;
    b->bytes = (uint16_t)d->len;
    b->insns = (uint16_t)d->insns;
    b->first = (uint16_t)d->first;
    memcpy(b->copy, d->bytes, d->len);
    if (d->code[0].is_ram) {
        b->page[0] = d->code[0].ram.code;
        b->host[0] = d->code[0].ram.host;
        if (d->first < d->len && d->code[1].is_ram) {
            b->page[1] = d->code[1].ram.code;
            b->host[1] = d->code[1].ram.host;
        }
    }
    u = block_uops(b);
    n = soft_lower(&d->low, u + 1) + 1;
    in = (struct insn *)(u + n);
    b->insn = in;
    memcpy(in, d->insn, d->insns * sizeof *in);
    for (unsigned i = 1; i < n; i++) { /* lowering put the instruction's number + 1 in `insn` */
        u[i].n = (uint8_t)i;
        if (u[i].insn)
            u[i].insn = (uint16_t)((char *)&in[u[i].insn - 1] - (char *)&u[i]);
    }
    s->used = align_up((size_t)((uint8_t *)(in + d->insns) - s->arena), 64);
    return b;
}

static struct block *make_block(struct soft_cpu *cpu, uint64_t linear)
{
    struct soft_blocks *s = cpu->blocks;
    struct block *b;
    struct draft d;
    uint32_t h;

    do {
        make_draft(cpu, linear, &d);
        d.low = (struct lowering){.cpu = cpu,
                                  .insn = d.insn,
                                  .insns = d.insns,
                                  .key = cpu->key,
                                  .page_offset = linear & ~PAGE_MASK};
        b = place_block(cpu, &d);
        protect(cpu, b);
    } while (b->page[0] && !same_bytes(b)); /* another vCPU writes there: read again */
    set_entry(cpu, b);
    s->counters.built++;
    if (b->page[0] == NULL || (d.first < d.len && b->page[1] == NULL))
        return b; /* not RAM: used once, since nobody says when it changes */
    h = block_hash(b->phys, b->key);
    b->next = s->hash[h];
    s->hash[h] = b;
    soft_jit_attach(cpu, b);
    return b;
}

/* True if the block may run: its pages did not change, or not in its bytes. */
static bool block_valid(struct soft_cpu *cpu, struct block *b)
{
    if (b->generation[0] == now(b->page[0]) && b->generation[1] == now(b->page[1]))
        return true;
    protect(cpu, b);
    if (!same_bytes(b)) {
        b->generation[0]--; /* stays stale until it is replaced */
        return false;
    }
    set_entry(cpu, b);
    cpu->blocks->counters.revalidated++;
    return true;
}

/* A straddling block also depends on where its second page is now. */
static bool second_page_same(struct soft_cpu *cpu, const struct block *b, uint64_t linear)
{
    struct code c;

    if (b->page[1] == NULL)
        return true;
    linear = (linear & PAGE_MASK) + PAGE_SIZE;
    code_at(cpu, cpu->mode == X86_MODE_64 ? linear : (uint32_t)linear, &c);
    return c.is_ram && c.ram.code == b->page[1];
}

/* Other blocks may still be linked to the old one: it passes them on. */
static struct block *replace_block(struct soft_cpu *cpu, struct block *old, uint64_t linear)
{
    uint64_t resets = cpu->blocks->counters.arena_resets;
    struct block *b = make_block(cpu, linear);
    struct uop *u = block_uops(old);

    if (resets == cpu->blocks->counters.arena_resets && u->dst) {
        u->fn = uop_redirect;
        u->imm = (uintptr_t)block_uops(b);
    }
    return b;
}

static struct block *lookup(struct soft_cpu *cpu, uint64_t linear)
{
    uint64_t phys = soft_fetch_page(cpu, linear) | (linear & ~PAGE_MASK);
    struct block **link = &cpu->blocks->hash[block_hash(phys, cpu->key)];

    for (; *link; link = &(*link)->next) {
        struct block *b = *link;

        if (b->phys != phys || b->key != cpu->key)
            continue;
        if (second_page_same(cpu, b, linear) && block_valid(cpu, b))
            return b;
        *link = b->next;
        return replace_block(cpu, b, linear);
    }
    return make_block(cpu, linear);
}

static bool cacheable(const struct soft_cpu *cpu, const struct uop *entry)
{
    return entry->dst && (cpu->key & KEY_WIDE);
}

const struct uop *soft_find(struct soft_cpu *cpu)
{
    uint64_t rip = cpu->block_rip & ip_mask(cpu);
    struct jump *j = &cpu->blocks->jump[jump_slot(rip)];
    struct block *b;

    cpu->block_rip = rip;
    if (likely(j->rip == rip && j->tag == cpu->jump_tag[rip >> 63]))
        return j->uop;
    cpu->blocks->counters.finds++;
    soft_uncounted(cpu); /* all of the last block was done: a fault here takes nothing back */
    cpu->rip = rip;
    check_rip(cpu, rip, 1);
    b = lookup(cpu, code_linear(cpu, rip));
    check_rip(cpu, rip, 1);
    if (cpu->mode != X86_MODE_64 && rip + b->bytes - 1 > cpu->seg[SEG_CS].limit)
        b = make_block(cpu, code_linear(cpu, rip)); /* made under a wider limit */
    if (cacheable(cpu, block_uops(b)))
        *j = (struct jump){.rip = rip, .tag = cpu->jump_tag[rip >> 63], .uop = block_uops(b)};
    return block_uops(b);
}

/* ---- moving between blocks ---- */

const struct uop *uop_find(struct soft_cpu *cpu, const struct uop *u)
{
    const struct uop *to = jump_to(cpu, cpu->block_rip);

    if (unlikely(to == &soft_find_uop))
        to = soft_find(cpu);
    GOTO(to);
}

const struct uop soft_find_uop = {.fn = uop_find};

const struct uop *uop_link(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t resets = cpu->blocks->counters.arena_resets;
    const struct uop *to = soft_find(cpu);

    if (resets == cpu->blocks->counters.arena_resets && cacheable(cpu, to))
        *(uint64_t *)u->imm = (uintptr_t)to;
    GOTO(to);
}

const struct uop *uop_redirect(struct soft_cpu *cpu, const struct uop *u)
{
    GOTO((const struct uop *)u->imm);
}

/* Not the whole block may run: the run loop goes on instruction by instruction. */
static const struct uop *at_limit(struct soft_cpu *cpu)
{
    cpu->rip = cpu->block_rip;
    return NULL;
}

/* The page changed since the block was made, or something is pending. */
static const struct uop *enter_slow(struct soft_cpu *cpu, const struct uop *u, bool stale)
{
    struct block *b = (struct block *)((uintptr_t)u - u->insn);
    const struct uop *to;

    if (atomic_load(&cpu->pending)) {
        cpu->rip = cpu->block_rip;
        return NULL;
    }
    if (stale && (b->page[1] || !block_valid(cpu, b))) {
        cpu->jump[jump_slot(cpu->block_rip)].tag = 0; /* it may lead here */
        to = soft_find(cpu);
        GOTO(to);
    }
    if (stale)
        GOTO(u); /* it may have translations that are good again */
    if (unlikely(cpu->instructions + b->insns > cpu->limit))
        return at_limit(cpu);
    cpu->instructions += b->insns;
    NEXT;
}

bool soft_block_stale(const struct uop *u)
{
    const struct uop *entry = u - u->n;
    const struct block *b = (const struct block *)entry->imm;

    if (entry->fn == uop_redirect)
        return true;
    if (entry->fn != uop_enter2)
        return atomic_load((_Atomic uint32_t *)entry->imm) != (uint32_t)entry->disp;
    return b->generation[0] != now(b->page[0]) || b->generation[1] != now(b->page[1]);
}

const struct uop *uop_enter(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t generation = atomic_load_explicit((_Atomic uint32_t *)u->imm, memory_order_relaxed);

    if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed) |
                 (generation ^ (uint32_t)u->disp)))
        return enter_slow(cpu, u, generation != (uint32_t)u->disp);
    if (unlikely(cpu->jit_threshold != 0 &&
                 ++*(uint8_t *)(uintptr_t)&u->length >= cpu->jit_threshold)) {
        *(uint8_t *)(uintptr_t)&u->length = 0;
        if (soft_jit_hot(cpu, soft_block_of(u)) && u->fn == uop_jit && !cpu->align_check &&
            !cpu->jit_refused)
            GOTO(u);
    }
    if (unlikely(cpu->instructions + u->at > cpu->limit))
        return at_limit(cpu);
    cpu->instructions += u->at;
    NEXT;
}

const struct uop *uop_enter2(struct soft_cpu *cpu, const struct uop *u)
{
    const struct block *b = (const struct block *)u->imm;
    bool stale = b->generation[0] != now(b->page[0]) || b->generation[1] != now(b->page[1]);

    if (atomic_load_explicit(&cpu->pending, memory_order_relaxed) || stale)
        return enter_slow(cpu, u, stale);
    if (unlikely(cpu->instructions + u->at > cpu->limit))
        return at_limit(cpu);
    cpu->instructions += u->at;
    NEXT;
}
