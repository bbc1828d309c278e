/* SPDX-License-Identifier: MIT */
/* Instruction handlers: string instructions. SDM volume 1, 7.3.9.
 *
 * RCX, RSI and RDI are current after every piece, so a fault or an interrupt in the middle restarts
 * by itself. A piece is one element, or, upward and with both ends in the TLB, as many as lie in
 * the pages: then one host string instruction on host pointers does them, which also gives
 * overlapping operands their pattern semantics. Between pieces a pending event ends the instruction
 * with RIP unmoved. */
#include "engine/soft/det.h"
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"
#include "engine/soft/tlb.h"

struct string {
    struct soft_cpu *cpu;
    const struct insn *in;
    unsigned size, adsize;
    uint64_t mask; /* of index registers */
    int64_t step;
    bool rep;
    uint64_t count; /* elements left */
};

enum { RCX = 1, RSI = 6, RDI = 7 };

static void string_begin(struct string *s, struct soft_cpu *cpu, const struct insn *in,
                         unsigned size)
{
    *s = (struct string){
        .cpu = cpu, .in = in, .size = size, .adsize = in->adsize, .mask = size_mask(in->adsize)};
    s->step = cpu->rflags & FL_DF ? -(int64_t)size : (int64_t)size;
    s->rep = in->prefix & (X86_P_REP | X86_P_REPNE);
    s->count = s->rep ? cpu->reg[RCX] & s->mask : 1;
}

static uint64_t at(const struct string *s, unsigned reg)
{
    return s->cpu->reg[reg] & s->mask;
}

static void advance(struct string *s, unsigned reg, uint64_t n)
{
    put_reg(s->cpu, reg, s->adsize, s->cpu->reg[reg] + (uint64_t)s->step * n);
}

/* `n` elements are done. False: stop here, RIP stays if elements are left. */
static bool string_next(struct string *s, uint64_t n)
{
    struct soft_cpu *cpu = s->cpu;

    s->count -= n;
    if (!s->rep)
        return false;
    put_reg(cpu, RCX, s->adsize, s->count);
    if (s->count == 0)
        return false;
    if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed) || cpu->stepping)) {
        cpu->next_rip = cpu->rip;
        return false;
    }
    return true;
}

/* How many elements from `offset` on lie in one page and before the index register wraps. */
static uint64_t in_page(const struct string *s, uint64_t offset, uint64_t linear, uint64_t most)
{
    uint64_t n = (PAGE_SIZE - (linear & ~PAGE_MASK)) / s->size;

    if (s->adsize != 8)
        n = min_u64(n, (s->mask - offset) / s->size + (s->mask - offset == s->mask));
    return min_u64(n, most);
}

/* Host pointer to up to *n elements at seg:reg, *n cut to what it covers; NULL: go element by
 * element. */
static void *span(struct string *s, unsigned seg, unsigned reg, enum mem_access access, uint64_t *n)
{
    struct soft_cpu *cpu = s->cpu;
    uint64_t offset = at(s, reg), linear;

    if (s->step < 0 || *n < 2 || cpu->stepping)
        return NULL;
    linear = soft_linear(cpu, seg, offset, s->size, access);
    *n = in_page(s, offset, linear, *n);
    if (*n == 0)
        return NULL;
    if (cpu->mode !=
        X86_MODE_64) { /* the segment must allow all of them, or the last one faults in its turn */
        const struct x86_seg *sg = &cpu->seg[seg];

        if ((sg->attr & 0xc) == 4 || offset + *n * s->size - 1 > sg->limit)
            return NULL;
    }
    return access == ACCESS_WRITE
               ? soft_tlb_write(cpu, linear, (unsigned)(*n * s->size))
               : (void *)(uintptr_t)soft_tlb_read(cpu, linear, (unsigned)(*n * s->size));
}

#define HOST_REP(ins, size)                                                                        \
    switch (size) {                                                                                \
    case 1: HOST_ONE(ins "b"); break;                                                              \
    case 2: HOST_ONE(ins "w"); break;                                                              \
    case 4: HOST_ONE(ins "l"); break;                                                              \
    default: HOST_ONE(ins "q"); break;                                                             \
    }

void soft_op_movs(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;
    uint64_t n, left;

    string_begin(&s, cpu, in, operand_size(cpu, in, 0));
    if (s.count == 0)
        return;
    do {
        void *from, *to;

        n = s.count;
        from = span(&s, in->seg, RSI, ACCESS_READ, &n);
        to = from ? span(&s, SEG_ES, RDI, ACCESS_WRITE, &n) : NULL;
        left = n;
        if (to) {
#define HOST_ONE(text) __asm__ volatile("rep " text : "+S"(from), "+D"(to), "+c"(left) : : "memory")
            HOST_REP("movs", s.size)
#undef HOST_ONE
        } else {
            n = 1;
            soft_store(cpu, SEG_ES, at(&s, RDI), s.size,
                       soft_load(cpu, in->seg, at(&s, RSI), s.size));
        }
        advance(&s, RSI, n);
        advance(&s, RDI, n);
    } while (string_next(&s, n));
}

void soft_op_stos(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;
    uint64_t n, left;

    string_begin(&s, cpu, in, operand_size(cpu, in, 0));
    if (s.count == 0)
        return;
    do {
        void *to;

        n = s.count;
        to = span(&s, SEG_ES, RDI, ACCESS_WRITE, &n);
        left = n;
        if (to) {
#define HOST_ONE(text)                                                                             \
    __asm__ volatile("rep " text : "+D"(to), "+c"(left) : "a"(cpu->reg[0]) : "memory")
            HOST_REP("stos", s.size)
#undef HOST_ONE
        } else {
            n = 1;
            soft_store(cpu, SEG_ES, at(&s, RDI), s.size, cpu->reg[0]);
        }
        advance(&s, RDI, n);
    } while (string_next(&s, n));
}

void soft_op_lods(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;

    string_begin(&s, cpu, in, operand_size(cpu, in, 0));
    if (s.count == 0)
        return;
    do {
        put_reg(cpu, 0, s.size, soft_load(cpu, in->seg, at(&s, RSI), s.size));
        advance(&s, RSI, 1);
    } while (string_next(&s, 1));
}

#define COMPARE_ONE(text) __asm__(text "\n\t" FLAGS_OUT : "=a"(f) : [a] "r"(a), [b] "r"(b) : "cc")
static void compare(struct soft_cpu *cpu, uint64_t a, uint64_t b, unsigned size)
{
    uint16_t f;

    switch (size) {
    case 1: COMPARE_ONE("cmpb %b[b], %b[a]"); break;
    case 2: COMPARE_ONE("cmpw %w[b], %w[a]"); break;
    case 4: COMPARE_ONE("cmpl %k[b], %k[a]"); break;
    default: COMPARE_ONE("cmpq %q[b], %q[a]"); break;
    }
    cpu->arith = f;
}

/* REPE goes on while equal, REPNE while different. */
static bool goes_on(const struct string *s)
{
    bool equal = s->cpu->arith >> 8 & FL_ZF;

    return !s->rep || equal == !(s->in->prefix & X86_P_REPNE);
}

/* Compare instructions end early, with RIP moved on, when the condition fails. */
static bool compare_next(struct string *s, uint64_t n)
{
    if (!goes_on(s)) {
        s->count -= n;
        put_reg(s->cpu, RCX, s->adsize, s->count);
        return false;
    }
    return string_next(s, n);
}

void soft_op_cmps(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;
    uint64_t n, left;

    string_begin(&s, cpu, in, operand_size(cpu, in, 0));
    if (s.count == 0)
        return;
    do {
        void *from, *to;
        uint16_t f = cpu->arith;

        n = s.count;
        from = span(&s, in->seg, RSI, ACCESS_READ, &n);
        to = from ? span(&s, SEG_ES, RDI, ACCESS_READ, &n) : NULL;
        left = n;
        if (to) {
#define HOST_ONE(text)                                                                             \
    __asm__ volatile(HOST_PREFIX text "\n\t" FLAGS_OUT                                             \
                     : "+S"(from), "+D"(to), "+c"(left), "+a"(f)                                   \
                     :                                                                             \
                     : "memory", "cc")
            if (in->prefix & X86_P_REPNE) {
#define HOST_PREFIX "repne "
                HOST_REP("cmps", s.size)
#undef HOST_PREFIX
            } else {
#define HOST_PREFIX "repe "
                HOST_REP("cmps", s.size)
#undef HOST_PREFIX
            }
#undef HOST_ONE
            cpu->arith = f;
            n -= left;
        } else {
            uint64_t a = soft_load(cpu, in->seg, at(&s, RSI), s.size);

            n = 1;
            compare(cpu, a, soft_load(cpu, SEG_ES, at(&s, RDI), s.size), s.size);
        }
        advance(&s, RSI, n);
        advance(&s, RDI, n);
    } while (compare_next(&s, n));
}

void soft_op_scas(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;
    uint64_t n, left;

    string_begin(&s, cpu, in, operand_size(cpu, in, 0));
    if (s.count == 0)
        return;
    do {
        void *to;
        uint64_t acc = cpu->reg[0];

        n = s.count;
        to = span(&s, SEG_ES, RDI, ACCESS_READ, &n);
        left = n;
        if (to) {
#define HOST_ONE(text)                                                                             \
    __asm__ volatile(HOST_PREFIX text "\n\t" FLAGS_OUT                                             \
                     : "+D"(to), "+c"(left), "+a"(acc)                                             \
                     :                                                                             \
                     : "memory", "cc")
            if (in->prefix & X86_P_REPNE) {
#define HOST_PREFIX "repne "
                HOST_REP("scas", s.size)
#undef HOST_PREFIX
            } else {
#define HOST_PREFIX "repe "
                HOST_REP("scas", s.size)
#undef HOST_PREFIX
            }
#undef HOST_ONE
            cpu->arith = (uint16_t)acc;
            n -= left;
        } else {
            n = 1;
            compare(cpu, acc, soft_load(cpu, SEG_ES, at(&s, RDI), s.size), s.size);
        }
        advance(&s, RDI, n);
    } while (compare_next(&s, n));
}

/* ---- string input and output ---- */

void soft_op_ins(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;
    uint16_t port = (uint16_t)cpu->reg[2];

    string_begin(&s, cpu, in, operand_size(cpu, in, 0));
    soft_io_check(cpu, port, s.size);
    if (s.count == 0)
        return;
    do {
        soft_probe_write(cpu, SEG_ES, at(&s, RDI),
                         s.size); /* a fault must not lose what the device gave */
        det_access(cpu);
        soft_store(cpu, SEG_ES, at(&s, RDI), s.size, bus_read(cpu->vm->pio, port, s.size));
        advance(&s, RDI, 1);
    } while (string_next(&s, 1));
}

void soft_op_outs(struct soft_cpu *cpu, const struct insn *in)
{
    struct string s;
    uint16_t port = (uint16_t)cpu->reg[2];

    string_begin(&s, cpu, in, operand_size(cpu, in, 1));
    soft_io_check(cpu, port, s.size);
    if (s.count == 0)
        return;
    do {
        det_access(cpu);
        bus_write(cpu->vm->pio, port, soft_load(cpu, in->seg, at(&s, RSI), s.size), s.size);
        advance(&s, RSI, 1);
    } while (string_next(&s, 1));
}
