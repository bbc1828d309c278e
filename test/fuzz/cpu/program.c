/* SPDX-License-Identifier: MIT */
/* Cases that are small programs: random instructions between branches that are made to measure.
 *
 * What single instructions cannot show: blocks that follow each other, loops that turn hot, flags
 * that live over a branch, calls and returns, jumps through registers, code over two pages. Like
 * all cases a program is written from its last byte to its first. Registers that address memory
 * are set by a MOV before the instruction that needs them. Loops count in memory, where no random
 * register reaches by accident. */
#include "generate.h"
#include "engine/x86/table.h"
#include <string.h>

#define LOOPS    4
#define CALLS    6
#define COUNTERS (PAGE_RW * 4096 + 0x40)

struct fix {       /* a place in the code that waits for an address */
    unsigned at;   /* offset of the field in the code pages */
    bool absolute; /* 8 bytes; else relative to the end of a 4-byte field */
};

struct program {
    struct gen g;
    unsigned at; /* offset of the earliest byte so far */
    struct fix loop[LOOPS], call[CALLS];
    unsigned loops, counter, calls;
    /* Not to be jumped to: a loop's JNZ without its DEC, a JMP R11 without the MOV before it. */
    uint64_t avoid[32];
    unsigned avoids;
    bool full;
};

static uint64_t address(const struct program *p, unsigned offset)
{
    return p->g.c->base + PAGE_CODE * 4096 + offset;
}

static void prepend(struct program *p, const void *bytes, unsigned n)
{
    if (p->at < n + 64 || p->g.starts == FUZZ_PROGRAM - 1) {
        p->full = true;
        return;
    }
    p->at -= n;
    memcpy(p->g.c->code + p->at, bytes, n);
    p->g.start[p->g.starts++] = address(p, p->at);
    p->g.next = address(p, p->at);
}

static void prepend_move(struct program *p, unsigned reg, uint64_t value)
{
    uint8_t b[10] = {(uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7))};

    memcpy(b + 2, &value, 8);
    prepend(p, b, sizeof b);
}

static void resolve(struct program *p, const struct fix *f, uint64_t to)
{
    uint32_t relative = (uint32_t)(to - address(p, f->at + 4));

    if (f->absolute)
        memcpy(p->g.c->code + f->at, &to, 8);
    else
        memcpy(p->g.c->code + f->at, &relative, 4);
}

/* ---- one instruction ---- */

static bool suits(unsigned form)
{
    const struct x86_form *f = &x86_form[form];

    return f->class != X86_FLOW && f->class != X86_UNDEF && !f->flags_undefined && !f->cpl0 &&
           f->op != X86_POPF && f->op != X86_HLT && f->op != X86_INT3 && f->op != X86_INTO;
}

static bool plain_integer(unsigned form)
{
    const struct x86_form *f = &x86_form[form];

    return f->class == X86_COPY && f->gate == X86_GATE_NONE &&
           x86_encoding[form].map < X86_MAP_VEX_0F;
}

static void random_insn(struct program *p)
{
    bool integer = !one_in(&p->g.r, 4);

    for (unsigned tries = 0; tries < 200; tries++) {
        unsigned form = rng_below(&p->g.r, x86_form_count);
        struct bytes o;
        struct insn in;

        if (!suits(form) || (integer && !plain_integer(form)))
            continue;
        p->g.locked = 0;
        p->g.moves = 0;
        if (!make_one(&p->g, (int)form, false, &o, &in))
            continue;
        prepend(p, o.b, o.n);
        for (unsigned i = p->g.moves; i > 0; i--)
            prepend_move(p, p->g.move[i - 1].reg, p->g.move[i - 1].value);
        return;
    }
}

/* ---- branches ---- */

static void avoid(struct program *p)
{
    if (p->avoids < ARRAY_SIZE(p->avoid))
        p->avoid[p->avoids++] = address(p, p->at);
}

static uint64_t later(struct program *p)
{
    unsigned back = rng_below(&p->g.r, p->g.starts < 6 ? p->g.starts + 1 : 6);

    return back == p->g.starts ? address(p, p->g.c->code_to) : p->g.start[p->g.starts - 1 - back];
}

static void skip(struct program *p)
{
    uint64_t to = later(p), here = address(p, p->at);
    unsigned cc = rng_below(&p->g.r, 16);
    uint8_t near[6] = {0x0f, (uint8_t)(0x80 | cc)}, through[3] = {0x41, 0xff, 0xe3};
    uint32_t distance = (uint32_t)(to - here);

    for (unsigned i = 0; i < p->avoids; i++)
        if (p->avoid[i] == to)
            return;
    if (one_in(&p->g.r, 5)) { /* jmp r11 */
        prepend(p, through, 3);
        avoid(p);
        prepend_move(p, 11, to);
    } else if (distance < 128 && !one_in(&p->g.r, 3)) {
        uint8_t b[2] = {(uint8_t)(one_in(&p->g.r, 8) ? 0xeb : 0x70 | cc), (uint8_t)distance};

        prepend(p, b, 2);
    } else {
        memcpy(near + 2, &distance, 4);
        prepend(p, near, 6);
    }
}

static void counter_insn(struct program *p, const uint8_t *opcode, int immediate)
{
    uint8_t b[7] = {opcode[0], opcode[1]};
    unsigned n = immediate >= 0 ? 7 : 6;
    uint32_t disp = (uint32_t)(p->g.c->base + COUNTERS + 8 * p->counter - p->g.next);

    memcpy(b + 2, &disp, 4);
    b[6] = (uint8_t)immediate;
    prepend(p, b, n);
}

/* dec byte [counter]; jnz head */
static void loop_tail(struct program *p)
{
    static const uint8_t jnz[6] = {0x0f, 0x85}, dec[2] = {0xfe, 0x0d};

    if (p->loops == LOOPS || p->avoids > ARRAY_SIZE(p->avoid) - 2)
        return;
    prepend(p, jnz, 6);
    avoid(p);
    p->loop[p->loops++] = (struct fix){.at = p->at + 2};
    p->counter = p->loops;
    counter_insn(p, dec, -1);
}

static void loop_head(struct program *p)
{
    static const uint8_t mov[2] = {0xc6, 0x05};

    if (!p->loops)
        return;
    p->counter = p->loops;
    resolve(p, &p->loop[--p->loops], address(p, p->at));
    counter_insn(p, mov, 1 + (int)rng_below(&p->g.r, p->loops ? 5 : 40));
}

static void call(struct program *p)
{
    static const uint8_t near[5] = {0xe8}, through[3] = {0x41, 0xff, 0xd3};

    if (p->calls == CALLS)
        return;
    if (one_in(&p->g.r, 3)) { /* call r11 */
        prepend(p, through, 3);
        avoid(p);
        prepend_move(p, 11, 0);
        p->call[p->calls++] = (struct fix){.at = p->at + 2, .absolute = true};
    } else {
        prepend(p, near, 5);
        p->call[p->calls++] = (struct fix){.at = p->at + 1};
    }
}

static void item(struct program *p)
{
    switch (rng_below(&p->g.r, 12)) {
    case 0: loop_tail(p); break;
    case 1: loop_head(p); break;
    case 2:
    case 3: skip(p); break;
    case 4: call(p); break;
    default: random_insn(p); break;
    }
}

/* Before the entry, so that nothing falls into it. */
static void subroutine(struct program *p)
{
    static const uint8_t ret[1] = {0xc3};
    unsigned items = 1 + rng_below(&p->g.r, 4);

    prepend(p, ret, 1);
    for (unsigned i = 0; i < items; i++)
        random_insn(p);
    for (unsigned i = 0; i < p->calls; i++)
        resolve(p, &p->call[i], address(p, p->at));
}

bool fuzz_program(struct fuzz_case *c)
{
    struct program p = {.g.c = c};
    unsigned items;

    rng_seed(&p.g.r, c->seed ^ 0x70726f6772616dull);
    memset(c->code + c->code_from, 0xcc, c->code_to - c->code_from);
    c->program = true;
    c->mode = X86_MODE_64;
    p.g.high = one_in(&p.g.r, 2);
    c->base = p.g.high ? FUZZ_HIGH : FUZZ_LOW;
    c->use_fs = false;
    c->broken = FUZZ_GOOD;
    c->patch_at = PAGE_DATA * 4096;
    start_registers(&p.g);
    p.at = one_in(&p.g.r, 2) ? 8192 : 4096 + 16 + rng_below(&p.g.r, 300);
    c->code_from = c->code_to = p.at;
    p.g.next = address(&p, p.at);
    items = 4 + rng_below(&p.g.r, 20);
    for (unsigned i = 0; i < items; i++)
        item(&p);
    while (p.loops)
        loop_head(&p);
    c->start.rip = address(&p, p.at);
    if (p.calls)
        subroutine(&p);
    c->code_from = p.at;
    fuzz_bytes(&p.g.r, c->patch, sizeof c->patch);
    return !p.full && decode_all(&p.g);
}
