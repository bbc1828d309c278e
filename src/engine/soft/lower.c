/* SPDX-License-Identifier: MIT */
/* Lowering: decoded instructions to uops. Hot integer instructions get a specialised handler, every
 * other one a uop that calls its instruction handler. */
#include "engine/soft/block.h"
#include "engine/soft/operand.h"
#include "engine/soft/trace.h"
#include "engine/soft/uop_mem.h"

/* STATE instructions after which the block may go on: they change nothing that lowering or event
 * delivery depends on, or set cpu->pending when they do. */
static bool harmless(unsigned op)
{
    switch (op) {
    case X86_RDTSC:
    case X86_RDTSCP:
    case X86_CPUID:
    case X86_RDMSR:
    case X86_PUSHF:
    case X86_CLI:
    case X86_STI:
    case X86_IN:
    case X86_OUT:
    case X86_SWAPGS:
    case X86_LFENCE:
    case X86_MFENCE:
    case X86_SFENCE:
    case X86_CLFLUSH:
    case X86_CLFLUSHOPT:
    case X86_CLWB:
    case X86_RDFSBASE:
    case X86_RDGSBASE:
    case X86_WRFSBASE:
    case X86_WRGSBASE:
    case X86_LDMXCSR:
    case X86_STMXCSR: return true;
    default: return false;
    }
}

bool soft_ends_block(const struct insn *in)
{
    const struct x86_form *form = &x86_form[in->form];

    switch (form->class) {
    case X86_FLOW:
    case X86_UNDEF: return true;
    case X86_STRING: return in->prefix & (X86_P_REP | X86_P_REPNE);
    case X86_STATE: return !harmless(form->op);
    default: return false;
    }
}

struct state { /* of lowering one block */
    const struct lowering *l;
    const struct insn *in;
    unsigned number; /* of `in` */
    struct uop *out;
    unsigned n;
    unsigned at; /* offset of `in` in the block */
};

_Static_assert(offsetof(struct soft_cpu, zero) == 128, "struct soft_cpu.zero");
_Static_assert(offsetof(struct soft_cpu, block_rip) < 256, "RIP-relative bases are byte offsets");
_Static_assert(offsetof(struct soft_cpu, seg) % 8 == 0 &&
                   offsetof(struct soft_cpu, seg) / 8 + 12 < 256,
               "segment bases are offsets in units of 8");

#define ZERO ((uint8_t)offsetof(struct soft_cpu, zero))

static uint8_t reg_offset(unsigned n)
{
    return (uint8_t)(n & X86_HIGH ? (n & 3) * 8 + 1 : (n & 15) * 8);
}

static int size_index(unsigned size)
{
    return size == 1 ? SIZE_1 : size == 2 ? SIZE_2 : size == 4 ? SIZE_4 : SIZE_8;
}

static unsigned size_of(const struct state *s, unsigned k)
{
    return operand_size(s->l->cpu, s->in, k);
}

static bool mode64(const struct state *s)
{
    return (s->l->key & KEY_MODE) == X86_MODE_64;
}

/* ---- where an operand is ---- */

enum at { AT_OTHER, AT_REGISTER, AT_MEMORY, AT_IMMEDIATE };

static enum at place(const struct state *s, unsigned k, uint8_t *reg)
{
    switch (has_operand(s->in, k) ? kind_of(s->in, k).place : X86_AT_NONE) {
    case X86_AT_REG:
    case X86_AT_OPREG: *reg = reg_offset(s->in->reg); return AT_REGISTER;
    case X86_AT_RM:
        if (s->in->mem)
            return AT_MEMORY;
        *reg = reg_offset(s->in->rm);
        return AT_REGISTER;
    case X86_AT_ACC: *reg = 0; return AT_REGISTER;
    case X86_AT_MEM: return AT_MEMORY;
    case X86_AT_IMM: return AT_IMMEDIATE;
    default: return AT_OTHER;
    }
}

/* Fills in the address. EA_KINDS: no fast handler can make it. */
static enum uop_ea address(const struct state *s, struct uop *u, bool lea)
{
    const struct insn *in = s->in;
    int64_t disp = in->disp;

    u->base = in->base == X86_NO_REG ? ZERO : reg_offset(in->base);
    u->index = in->index == X86_NO_REG ? ZERO : reg_offset(in->index);
    u->scale = in->scale;
    u->seg = ZERO / 8;
    if (in->base == X86_RIP) {
        u->base = offsetof(struct soft_cpu, block_rip);
        disp += s->at + in->length;
    }
    u->disp = (int32_t)disp;
    if (disp != u->disp)
        return EA_KINDS;
    if (mode64(s) && in->adsize == 8) {
        if (in->seg >= SEG_FS && !lea)
            u->seg =
                (uint8_t)((offsetof(struct soft_cpu, seg) + in->seg * sizeof(struct x86_seg)) / 8);
        else if (in->index == X86_NO_REG)
            return EA_B;
        return EA_X;
    }
    if (in->adsize == 4 &&
        (lea ? in->base != X86_RIP
             : !mode64(s) && (s->l->key & KEY_FLAT) && in->seg < SEG_FS && in->seg != SEG_CS))
        return EA_X32;
    return EA_KINDS;
}

static bool emit(struct state *s, const struct uop *u, uop_fn *fn)
{
    if (fn == NULL)
        return false;
    s->out[s->n] = *u;
    s->out[s->n].fn = fn;
    s->n++;
    return true;
}

/* ---- flags ---- */

#define ALL_FLAGS (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

/* Works on integer registers and flags alone: cannot fault, store or raise an event. */
static bool registers_only(const struct state *s, const struct insn *in)
{
    const struct x86_form *form = &x86_form[in->form];

    if (in->mem || form->class != X86_COPY || form->gate || form->cpl0 ||
        (in->prefix & X86_P_LOCK) || !soft_offered(s->l->cpu, form))
        return false;
    switch (form->op) { /* the stack and other implied memory, #DE, #BR */
    case X86_PUSH:
    case X86_POP:
    case X86_PUSHA:
    case X86_POPA:
    case X86_ENTER:
    case X86_LEAVE:
    case X86_DIV:
    case X86_IDIV:
    case X86_AAM:
    case X86_XLAT:
    case X86_BOUND: return false;
    default: return true;
    }
}

/* True if every flag is overwritten in this block before anything reads it, faults or leaves. */
static bool flags_dead(const struct state *s)
{
    unsigned live = ALL_FLAGS;

    for (unsigned i = s->number + 1; i < s->l->insns; i++) {
        const struct insn *in = &s->l->insn[i];
        const struct x86_form *form = &x86_form[in->form];

        if (!registers_only(s, in) || !mode64(s) || (form->flags_read & live))
            return false;
        live &= ~(unsigned)form->flags_written;
        if (!s->l->cpu->det) /* where the JIT is to come to the same, undefined flags count, too */
            live &= ~(unsigned)form->flags_undefined;
        if (live == 0)
            return true;
    }
    return false;
}

/* ---- instructions ---- */

static int alu_of(unsigned op)
{
    switch (op) {
    case X86_ADD: return ALU_ADD;
    case X86_OR: return ALU_OR;
    case X86_ADC: return ALU_ADC;
    case X86_SBB: return ALU_SBB;
    case X86_AND: return ALU_AND;
    case X86_SUB: return ALU_SUB;
    case X86_XOR: return ALU_XOR;
    case X86_CMP: return ALU_CMP;
    case X86_TEST: return ALU_TEST;
    default: return -1;
    }
}

static bool lower_alu(struct state *s, struct uop *u, unsigned alu)
{
    enum at dst = place(s, 0, &u->dst), src = place(s, 1, &u->src);
    unsigned size = (unsigned)size_index(size_of(s, 0));
    bool lock = s->in->prefix & X86_P_LOCK;
    enum uop_ea ea;

    u->imm = s->in->imm;
    if (dst == AT_REGISTER && src == AT_REGISTER)
        return emit(s, u,
                    uop_quiet_rr[alu][size] && flags_dead(s) ? uop_quiet_rr[alu][size]
                                                             : uop_alu_rr[alu][size]);
    if (dst == AT_REGISTER && src == AT_IMMEDIATE)
        return emit(s, u,
                    uop_quiet_ri[alu][size] && flags_dead(s) ? uop_quiet_ri[alu][size]
                                                             : uop_alu_ri[alu][size]);
    ea = address(s, u, false);
    if (ea == EA_KINDS)
        return false;
    if (dst == AT_REGISTER && src == AT_MEMORY)
        return emit(s, u, uop_alu_rm[alu][ea][size]);
    if (dst == AT_MEMORY && src == AT_REGISTER)
        return emit(s, u, lock ? uop_lock_mr[alu][ea][size] : uop_alu_mr[alu][ea][size]);
    if (dst == AT_MEMORY && src == AT_IMMEDIATE)
        return emit(s, u, lock ? uop_lock_mi[alu][ea][size] : uop_alu_mi[alu][ea][size]);
    return false;
}

static bool lower_unary(struct state *s, struct uop *u, enum unary op)
{
    unsigned size = (unsigned)size_index(size_of(s, 0));
    enum uop_ea ea;

    if (place(s, 0, &u->dst) == AT_REGISTER)
        return emit(s, u, uop_unary_r[op][size]);
    ea = address(s, u, false);
    if (ea == EA_KINDS)
        return false;
    return emit(s, u,
                s->in->prefix & X86_P_LOCK ? uop_unary_lock[op][ea][size]
                                           : uop_unary_m[op][ea][size]);
}

static bool lower_shift(struct state *s, struct uop *u, enum shift op)
{
    unsigned bytes = size_of(s, 0), size = (unsigned)size_index(bytes);

    if (place(s, 0, &u->dst) != AT_REGISTER)
        return false;
    switch (kind_of(s->in, 1).place) {
    case X86_AT_CL: return emit(s, u, uop_shift_cl[op][size]);
    case X86_AT_ONE: u->imm = 1; break;
    default: u->imm = s->in->imm & (bytes == 8 ? 63 : 31); break;
    }
    return u->imm != 0 && emit(s, u, uop_shift_i[op][size]);
}

static bool lower_mov(struct state *s, struct uop *u)
{
    enum at dst = place(s, 0, &u->dst), src = place(s, 1, &u->src);
    unsigned size = (unsigned)size_index(size_of(s, 0));
    enum uop_ea ea;

    u->imm = s->in->imm;
    if (dst == AT_REGISTER && src == AT_REGISTER)
        return emit(s, u, uop_mov_rr[size]);
    if (dst == AT_REGISTER && src == AT_IMMEDIATE)
        return emit(s, u, uop_mov_ri[size]);
    ea = address(s, u, false);
    if (ea == EA_KINDS)
        return false;
    if (dst == AT_REGISTER)
        return src == AT_MEMORY && emit(s, u, uop_load[ea][size]);
    return emit(s, u, src == AT_IMMEDIATE ? uop_store_i[ea][size] : uop_store[ea][size]);
}

static bool lower_extend(struct state *s, struct uop *u, bool sign)
{
    unsigned to = size_of(s, 0), from = (unsigned)size_index(size_of(s, 1));
    enum extend how = !sign ? EXTEND_ZERO : to == 8 ? EXTEND_SIGN64 : EXTEND_SIGN32;
    enum uop_ea ea;

    if (to < 4 || from > SIZE_4 || place(s, 0, &u->dst) != AT_REGISTER)
        return false;
    if (place(s, 1, &u->src) == AT_REGISTER)
        return emit(s, u, uop_extend_r[how][from]);
    ea = address(s, u, false);
    return ea != EA_KINDS && emit(s, u, uop_extend_m[how][ea][from]);
}

static bool lower_lea(struct state *s, struct uop *u)
{
    enum uop_ea ea = address(s, u, true);

    u->dst = reg_offset(s->in->reg);
    return ea != EA_KINDS && s->in->opsize >= 4 &&
           emit(s, u, uop_lea[ea][size_index(s->in->opsize)]);
}

static bool lower_exchange(struct state *s, struct uop *u,
                           uop_fn *const table[EA_KINDS][SIZE_KINDS])
{
    enum uop_ea ea;

    if (place(s, 0, &u->dst) != AT_MEMORY || place(s, 1, &u->src) != AT_REGISTER)
        return false;
    ea = address(s, u, false);
    return ea != EA_KINDS && emit(s, u, table[ea][size_index(size_of(s, 0))]);
}

static bool lower_multiply(struct state *s, struct uop *u)
{
    unsigned size = (unsigned)size_index(s->in->opsize);

    if (s->in->mem || place(s, 0, &u->dst) != AT_REGISTER || place(s, 1, &u->src) != AT_REGISTER)
        return false;
    u->imm = s->in->imm;
    return emit(s, u, has_operand(s->in, 2) ? uop_imul_rri[size] : uop_imul_rr[size]);
}

static bool lower_bit_test(struct state *s, struct uop *u)
{
    unsigned size = (unsigned)size_index(s->in->opsize);
    enum at src = place(s, 1, &u->src);

    if (place(s, 0, &u->dst) != AT_REGISTER)
        return false;
    u->imm = s->in->imm;
    return emit(s, u, src == AT_REGISTER ? uop_bt_rr[size] : uop_bt_ri[size]);
}

/* 32-bit code whose stack needs no segment arithmetic. */
static bool flat32(const struct state *s)
{
    return (s->l->key & (KEY_MODE | KEY_FLAT | KEY_SS32 | KEY_WIDE)) ==
               (X86_MODE_32 | KEY_FLAT | KEY_SS32 | KEY_WIDE) &&
           s->in->opsize == 4;
}

static bool lower_push(struct state *s, struct uop *u)
{
    enum at src = place(s, 0, &u->src);

    u->imm = s->in->imm;
    if (src != AT_REGISTER && src != AT_IMMEDIATE)
        return false;
    if (s->in->opsize == 8)
        return emit(s, u, src == AT_REGISTER ? uop_push : uop_push_i);
    return flat32(s) && emit(s, u, src == AT_REGISTER ? uop_push32 : uop_push_i32);
}

static bool lower_pop(struct state *s, struct uop *u)
{
    if (place(s, 0, &u->dst) != AT_REGISTER)
        return false;
    if (s->in->opsize == 8)
        return emit(s, u, uop_pop);
    return flat32(s) && emit(s, u, uop_pop32);
}

static bool lower_leave(struct state *s, struct uop *u)
{
    if (s->in->opsize == 8)
        return emit(s, u, uop_leave);
    return flat32(s) && emit(s, u, uop_leave32);
}

/* SETcc, CMOVcc of registers. */
static bool lower_conditional(struct state *s, struct uop *u, unsigned op)
{
    if (s->in->mem)
        return false;
    place(s, 0, &u->dst);
    if (op >= X86_SETO && op <= X86_SETG)
        return emit(s, u, uop_set_r[op - X86_SETO]);
    place(s, 1, &u->src);
    return emit(s, u, uop_cmov_r[op - X86_CMOVO][size_index(s->in->opsize)]);
}

static bool lower_move_like(struct state *s, struct uop *u, unsigned op)
{
    switch (op) {
    case X86_MOV: return lower_mov(s, u);
    case X86_MOVZX: return lower_extend(s, u, false);
    case X86_MOVSX:
    case X86_MOVSXD: return lower_extend(s, u, true);
    case X86_LEA: return lower_lea(s, u);
    case X86_PUSH: return lower_push(s, u);
    case X86_POP: return lower_pop(s, u);
    case X86_LEAVE: return lower_leave(s, u);
    case X86_CDQE: return emit(s, u, uop_cdqe);
    case X86_CWDE: return emit(s, u, uop_cwde);
    case X86_CDQ: return emit(s, u, uop_cdq);
    case X86_CQO: return emit(s, u, uop_cqo);
    case X86_XCHG: return lower_exchange(s, u, uop_xchg_m);
    case X86_XADD: return lower_exchange(s, u, uop_xadd_m);
    case X86_CMPXCHG: return lower_exchange(s, u, uop_cmpxchg_m);
    case X86_NOP:
    case X86_ENDBR64:
    case X86_ENDBR32:
    case X86_PREFETCHW:
    case X86_PREFETCHNTA:
    case X86_PREFETCHT0:
    case X86_PREFETCHT1:
    case X86_PREFETCHT2: return true; /* nothing at all */
    default: return false;
    }
}

static bool lower_simple(struct state *s, struct uop *u)
{
    unsigned op = x86_form[s->in->form].op;
    int alu = alu_of(op);

    if (alu >= 0)
        return lower_alu(s, u, (unsigned)alu);
    if ((op >= X86_SETO && op <= X86_SETG) || (op >= X86_CMOVO && op <= X86_CMOVG))
        return lower_conditional(s, u, op);
    switch (op) {
    case X86_INC: return lower_unary(s, u, UNARY_INC);
    case X86_DEC: return lower_unary(s, u, UNARY_DEC);
    case X86_NEG: return lower_unary(s, u, UNARY_NEG);
    case X86_NOT: return lower_unary(s, u, UNARY_NOT);
    case X86_ROL: return lower_shift(s, u, SHIFT_ROL);
    case X86_ROR: return lower_shift(s, u, SHIFT_ROR);
    case X86_SHL: return lower_shift(s, u, SHIFT_SHL);
    case X86_SHR: return lower_shift(s, u, SHIFT_SHR);
    case X86_SAR: return lower_shift(s, u, SHIFT_SAR);
    case X86_IMUL: return lower_multiply(s, u);
    case X86_BT: return lower_bit_test(s, u);
    default: return lower_move_like(s, u, op);
    }
}

/* ---- branches ---- */

/* A uop that finds the code at block_rip; inside the page it makes `from` point there. */
static void stub(struct state *s, struct uop *from)
{
    struct uop *u = &s->out[s->n++];
    uint64_t target = s->l->page_offset + (uint64_t)(int64_t)from->disp;
    bool link =
        target < PAGE_SIZE && (s->l->key & KEY_WIDE) && (s->l->key & KEY_MODE) != X86_MODE_16;

    *u = (struct uop){
        .fn = link ? uop_link : uop_find, .imm = (uintptr_t)&from->imm, .at = (uint16_t)s->at};
    from->imm = (uintptr_t)u;
}

static struct uop *fall(struct state *s, int64_t disp)
{
    struct uop *u = &s->out[s->n++];

    *u = (struct uop){.fn = uop_fall, .disp = (int32_t)disp, .at = (uint16_t)s->at};
    return u;
}

static bool near_branch(const struct state *s)
{
    return mode64(s) ||
           ((s->l->key & KEY_MODE) == X86_MODE_32 && s->in->opsize == 4 && (s->l->key & KEY_WIDE));
}

/* Turns the CMP or TEST just emitted into one uop with the branch. */
static uop_fn *fuse(const struct state *s, unsigned cc)
{
    const struct uop *last = s->n ? &s->out[s->n - 1] : NULL;

    if (last == NULL || last->insn != s->number) /* `insn` still holds a number + 1 */
        return NULL;
    for (unsigned test = 0; test < 2; test++) {
        for (unsigned size = 0; size < SIZE_KINDS; size++) {
            if (last->fn == uop_alu_rr[ALU_CMP + test][size])
                return uop_cmp_jcc_rr[test][size][cc];
            if (last->fn == uop_alu_ri[ALU_CMP + test][size])
                return uop_cmp_jcc_ri[test][size][cc];
        }
    }
    return NULL;
}

static bool lower_jcc(struct state *s, struct uop *u, unsigned cc)
{
    int64_t end = s->at + s->in->length, target = end + (int64_t)s->in->imm;
    uop_fn *fused = fuse(s, cc);
    struct uop *taken, *not_taken;

    if (fused) {
        s->out[s->n - 1].fn = fused;
        taken = fall(s, target);
    } else {
        u->disp = (int32_t)target;
        taken = &s->out[s->n];
        emit(s, u, uop_jcc[cc]);
    }
    not_taken = fall(s, end);
    stub(s, taken);
    stub(s, not_taken);
    return true;
}

static bool lower_direct(struct state *s, struct uop *u, uop_fn *fn)
{
    struct uop *branch = &s->out[s->n];

    u->disp = (int32_t)(s->at + s->in->length + (int64_t)s->in->imm);
    emit(s, u, fn);
    stub(s, branch);
    return true;
}

static bool lower_indirect(struct state *s, struct uop *u, bool call)
{
    enum uop_ea ea;

    if (place(s, 0, &u->src) == AT_REGISTER) {
        if (mode64(s))
            return emit(s, u, call ? uop_call_r : uop_jmp_r);
        return emit(s, u, call ? uop_call_r32 : uop_jmp_r32);
    }
    ea = address(s, u, false);
    return ea != EA_KINDS && emit(s, u, call ? uop_call_m[ea] : uop_jmp_m[ea]);
}

static bool lower_branch(struct state *s, struct uop *u)
{
    unsigned op = x86_form[s->in->form].op;
    bool relative = kind_of(s->in, 0).place == X86_AT_REL;
    int64_t target = s->at + s->in->length + (int64_t)s->in->imm;

    if (!near_branch(s))
        return false;
    if (relative && target != (int32_t)target)
        return false; /* farther from the block's start than a uop can say */
    if (op >= X86_JO && op <= X86_JG)
        return lower_jcc(s, u, op - X86_JO);
    if (op == X86_JMP && relative)
        return lower_direct(s, u, uop_jmp);
    if (!mode64(s) && !flat32(s))
        return false;
    if (op == X86_CALL && relative)
        return lower_direct(s, u, mode64(s) ? uop_call : uop_call32);
    if (op == X86_RET) {
        u->imm = has_operand(s->in, 0) ? s->in->imm & 0xffff : 0;
        return emit(s, u, mode64(s) ? uop_ret : uop_ret32);
    }
    return (op == X86_JMP || op == X86_CALL) && lower_indirect(s, u, op == X86_CALL);
}

/* ---- blocks ---- */

/* x87 and vector instructions that store nothing: checked here once, so their uop calls the handler
 * and does nothing else. */
static bool lower_vector(struct state *s, struct uop *u, const struct x86_form *form)
{
    if (form->gate == X86_GATE_NONE || form->cpl0 || !mode64(s) || soft_op[form->op] == NULL ||
        soft_ends_block(s->in) || (s->in->mem && (x86_mem_access(s->in) & 2)))
        return false;
    return emit(s, u, uop_insn_plain);
}

/* False: the instruction needs its handler. */
static bool lower_fast(struct state *s, struct uop *u)
{
    const struct x86_form *form = &x86_form[s->in->form];

    if (unlikely(soft_tracing & TRACE_INSN))
        return false;
    if (((s->in->prefix & X86_P_LOCK) && !(form->lock && s->in->mem)) ||
        !soft_offered(s->l->cpu, form))
        return false;
    if (form->class == X86_FLOW)
        return lower_branch(s, u);
    return form->class == X86_COPY && (lower_simple(s, u) || lower_vector(s, u, form));
}

/* Only uop_insn_next and uop_insn_end look at what the handler did to the world. With flags left
 * out before it (flags_dead), an instruction must not leave the block: uop_insn_plain does not. */
static uop_fn *handler_uop(const struct state *s, bool ends)
{
    if (ends)
        return uop_insn_end;
    return registers_only(s, s->in) && mode64(s) && soft_op[s->in->op] && !soft_tracing
               ? uop_insn_plain
               : uop_insn_next;
}

unsigned soft_lower(const struct lowering *l, struct uop *out)
{
    struct state s = {.l = l, .out = out};
    bool ended = false;

    for (s.number = 0; s.number < l->insns; s.number++) {
        struct uop u = {0};

        s.in = &l->insn[s.number];
        u = (struct uop){
            .at = (uint16_t)s.at, .insn = (uint16_t)(s.number + 1), .length = s.in->length};
        ended = soft_ends_block(s.in);
        if (!lower_fast(&s, &u))
            emit(&s, &u, handler_uop(&s, ended));
        s.at += s.in->length;
    }
    if (!ended)
        stub(&s, fall(&s, s.at));
    return s.n;
}
