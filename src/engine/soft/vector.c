/* SPDX-License-Identifier: MIT */
/* MMX, SSE and AVX forms, executed by the host through thunks (thunk.h).
 *
 * One handler serves every form: it gathers the operands into a struct vec_args as the form's
 * operand kinds say, calls the thunk, writes back. Nothing of the guest changes before the last
 * fault that is possible: loads, then the operation on copies, then #XM, then the store, then
 * registers. */
#include "engine/soft/quick.h"
#include "engine/soft/thunk.h"
#include "engine/soft/vec_ops.h"
#include "engine/soft/vector.h"
#include <string.h>
#include <xmmintrin.h>

void soft_vec_gate_slow(struct soft_cpu *cpu, enum x86_gate gate)
{
    if (gate == X86_GATE_AVX) {
        if (!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6 || !(cpu->cr0 & 1) ||
            (cpu->rflags & FL_VM))
            soft_ud(cpu);
    } else if (gate == X86_GATE_X87) {
        if (cpu->cr0 & (CR0_EM | CR0_TS))
            soft_raise(cpu, VEC_NM, NO_CODE);
        return;
    } else if ((cpu->cr0 & CR0_EM) || (gate == X86_GATE_SSE && !(cpu->cr4 & CR4_OSFXSR))) {
        soft_ud(cpu);
    }
    if (cpu->cr0 & CR0_TS)
        soft_raise(cpu, VEC_NM, NO_CODE);
}

/* ---- memory ---- */

static inline void copy_small(void *dst, const void *src, unsigned size)
{
    switch (size) {
    case 1: memcpy(dst, src, 1); break;
    case 2: memcpy(dst, src, 2); break;
    case 4: memcpy(dst, src, 4); break;
    case 8: memcpy(dst, src, 8); break;
    case 16: memcpy(dst, src, 16); break;
    case 32: memcpy(dst, src, 32); break;
    default: memcpy(dst, src, size); break;
    }
}

/* Alignment is looked at before the segment's limit or a canonical address. */
static inline uint64_t operand_linear(struct soft_cpu *cpu, const struct insn *in, unsigned size,
                                      uint64_t *ea, enum mem_access access)
{
    unsigned align = x86_form[in->form].align;

    *ea = soft_ea(cpu, in);
    if (align > 1 && unlikely((cpu->seg[in->seg].base + *ea) & ((align < size ? size : align) - 1)))
        soft_gp(cpu, 0);
    return soft_linear(cpu, in->seg, *ea, size, access);
}

void soft_vec_load(struct soft_cpu *cpu, const struct insn *in, void *dst, unsigned size)
{
    uint64_t ea, linear = operand_linear(cpu, in, size, &ea, ACCESS_READ);
    const void *p = soft_tlb_read(cpu, linear, size);

    if (likely(p != NULL))
        copy_small(dst, p, size);
    else
        soft_load_bytes(cpu, in->seg, ea, dst, size);
}

void soft_vec_store(struct soft_cpu *cpu, const struct insn *in, const void *src, unsigned size)
{
    uint64_t ea, linear = operand_linear(cpu, in, size, &ea, ACCESS_WRITE);
    void *p = soft_tlb_write(cpu, linear, size);

    if (likely(p != NULL))
        copy_small(p, src, size);
    else
        soft_store_bytes(cpu, in->seg, ea, src, size);
}

/* ---- registers ---- */

static inline void get_vector(struct soft_cpu *cpu, unsigned r, uint8_t *slot, bool wide)
{
    memcpy(slot, soft_xmm(cpu, r), 16);
    if (wide)
        memcpy(slot + 16, soft_ymm_high(cpu, r), 16);
}

/* A VEX form zeroes what lies above its result, a legacy one keeps it. */
static inline void put_vector(struct soft_cpu *cpu, const struct insn *in, unsigned r,
                              const uint8_t *slot)
{
    memcpy(soft_xmm(cpu, r), slot, 16);
    if (in->opsize == 32)
        memcpy(soft_ymm_high(cpu, r), slot + 16, 16);
    else if (in->prefix & X86_P_VEX)
        memset(soft_ymm_high(cpu, r), 0, 16);
}

static void put_gpr(struct soft_cpu *cpu, unsigned r, unsigned size, uint64_t value)
{
    uint64_t *reg = &cpu->reg[r & 15];

    if (size == 8)
        *reg = value;
    else if (size == 2)
        *reg = (*reg & ~0xffffull) | (value & 0xffff);
    else
        *reg = (uint32_t)value;
}

/* MMn is the low 8 bytes of physical x87 register n; the image has them in stack order. The x87
 * state must not be live. */
uint8_t *soft_mm(struct soft_cpu *cpu, unsigned r)
{
    unsigned top = (cpu->xsave[3] >> 3) & 7;

    return cpu->xsave + XSAVE_ST + 16 * ((r - top) & 7);
}

void soft_mmx_enter(struct soft_cpu *cpu)
{
    uint8_t old[128];
    unsigned top = (cpu->xsave[3] >> 3) & 7;

    cpu->xsave[3] &= (uint8_t)~0x38;
    cpu->xsave[4] = 0xff;
    if (top == 0)
        return;
    memcpy(old, cpu->xsave + XSAVE_ST, sizeof old);
    for (unsigned j = 0; j < 8; j++)
        memcpy(soft_mm(cpu, j), old + 16 * ((j - top) & 7), 16);
}

static void put_mm(struct soft_cpu *cpu, unsigned r, const uint8_t *slot)
{
    memcpy(soft_mm(cpu, r), slot, 8);
    memset(soft_mm(cpu, r) + 8, 0xff, 2);
}

/* ---- MXCSR ---- */

/* An underflow that is unmasked is raised for every tiny result, exact ones too; the masked
 * operation does not report those. */
static bool tiny_result(vec_call_fn *call, const struct vec_args *a, unsigned flags)
{
    const uint8_t *slot = flags & THUNK_MEM ? a->mem : a->v[1]; /* to memory: VCVTPS2PH, 8 bytes */
    unsigned bytes = flags & THUNK_MEM ? 8 : call == soft_vec_call256 ? 32 : 16;
    unsigned step = flags & THUNK_HALF ? 2 : flags & THUNK_SINGLE ? 4 : 8;
    uint64_t exponent = step == 2 ? 0x7c00 : step == 4 ? 0x7f800000 : 0x7ff0000000000000;
    uint64_t sign = 1ull << (8 * step - 1);

    if (flags & THUNK_SCALAR)
        bytes = step;
    for (unsigned i = 0; i < bytes; i += step) {
        uint64_t v = 0;

        memcpy(&v, slot + i, step);
        if (!(v & exponent) && (v & ~sign))
            return true;
    }
    return false;
}

/* The slow way: some exception is unmasked. Runs with all masked, then looks at what happened. */
static void call_unmasked(struct soft_cpu *cpu, vec_call_fn *call, struct vec_args *a,
                          const void *thunk, unsigned flags)
{
    uint32_t masks = (cpu->mxcsr >> 7) & MXCSR_FLAGS, raised;
    uint32_t control = (cpu->mxcsr & ~MXCSR_FLAGS) | MXCSR_DEFAULT;

    if (!(masks & 0x10))
        control &= ~0x8000u; /* flush-to-zero works only while underflow is masked */
    _mm_setcsr(control);
    call(a, thunk);
    raised = _mm_getcsr() & MXCSR_FLAGS;
    _mm_setcsr(MXCSR_DEFAULT);
    if (!(masks & 0x10) && (flags & THUNK_TINY) && tiny_result(call, a, flags))
        raised |= 0x10;
    if (raised & 7 & ~masks)
        raised &= 7; /* an operand is bad: results were not computed */
    cpu->mxcsr |= raised;
    if (raised & ~masks) {
        if (!(cpu->cr4 & CR4_OSXMMEXCPT))
            soft_ud(cpu);
        soft_raise(cpu, VEC_XM, NO_CODE);
    }
}

/* Calls an FP thunk with the guest's MXCSR; `mxcsr` gets the value after it, to be stored when
 * nothing can fault any more. */
static inline uint32_t call_fp(struct soft_cpu *cpu, vec_call_fn *call, struct vec_args *a,
                               const void *thunk, unsigned flags)
{
    uint32_t mxcsr = cpu->mxcsr;

    if (unlikely((mxcsr & MXCSR_DEFAULT) != MXCSR_DEFAULT)) {
        call_unmasked(cpu, call, a, thunk, flags);
        return cpu->mxcsr;
    }
    _mm_setcsr(mxcsr);
    call(a, thunk);
    mxcsr = _mm_getcsr();
    if (unlikely((mxcsr & ~MXCSR_FLAGS) != MXCSR_DEFAULT))
        _mm_setcsr(MXCSR_DEFAULT);
    return mxcsr;
}

/* ---- the handler ---- */

static inline const void *thunk_of(const struct soft_cpu *cpu, const struct insn *in)
{
    bool w = (in->prefix & X86_P_REXW) && cpu->mode == X86_MODE_64;
    uint32_t entry = soft_thunk_offset[4 * in->form + 2 * (in->opsize == 32) + w];

    if (entry & THUNK_IMM) {
        unsigned imm = (uint8_t)in->imm;

        if (unlikely(soft_thunk_flags[in->form] & THUNK_IMM6) && in->mem)
            imm &= 0x3f;
        return soft_thunk_code + (entry & ~THUNK_IMM) + 8 * imm;
    }
    return entry ? soft_thunk_code + entry : NULL;
}

/* Loads operand `i` into its slot, or RAX, if the instruction reads it. */
static inline void gather(struct soft_cpu *cpu, const struct insn *in, const struct x86_form *f,
                          unsigned i, struct vec_args *a, bool mem_thunk)
{
    unsigned place = x86_operand_kind[f->operand[i]].place;
    uint8_t *slot = a->v[i + 1];
    bool wide = in->opsize == 32;

    if (!(f->access[i] & 1) && i > 0)
        return; /* the destination is always loaded: legacy scalar forms keep its upper part */
    switch (place) {
    case X86_AT_XREG: get_vector(cpu, in->reg, slot, wide); break;
    case X86_AT_XVVVV: get_vector(cpu, in->vvvv, slot, wide); break;
    case X86_AT_XIS4: get_vector(cpu, (in->imm >> 4) & 15, slot, wide); break;
    case X86_AT_XMM0: get_vector(cpu, 0, a->v[0], wide); break;
    case X86_AT_MREG: memcpy(slot, soft_mm(cpu, in->reg), 8); break;
    case X86_AT_REG: a->rax = cpu->reg[in->reg & 15]; break;
    case X86_AT_XRM:
    case X86_AT_XRMREG:
    case X86_AT_MRM:
    case X86_AT_MRMREG:
    case X86_AT_RM:
    case X86_AT_RMREG:
    case X86_AT_MEM:
        if (in->mem) {
            if (!(f->access[i] & 1))
                break;
            bool gpr = place == X86_AT_RM;

            if (gpr)
                a->rax = 0;
            else
                memset(slot, 0, 32);
            soft_vec_load(cpu, in,
                          mem_thunk ? a->mem
                          : gpr     ? (void *)&a->rax
                                    : slot,
                          x86_mem_size(in));
        } else if (place == X86_AT_RM || place == X86_AT_RMREG) {
            a->rax = cpu->reg[in->rm & 15];
        } else if (place == X86_AT_MRM || place == X86_AT_MRMREG) {
            memcpy(slot, soft_mm(cpu, in->rm), 8);
        } else {
            get_vector(cpu, in->rm, slot, wide);
        }
        break;
    default: break;
    }
}

/* A memory destination: may fault, so it comes before `scatter`. */
static void scatter_memory(struct soft_cpu *cpu, const struct insn *in, const struct x86_form *f,
                           struct vec_args *a, bool mem_thunk, bool mmx)
{
    unsigned place = x86_operand_kind[f->operand[0]].place;
    const void *from = mem_thunk            ? a->mem
                       : place == X86_AT_RM ? (void *)&a->rax
                       : mmx                ? a->v[0]
                                            : a->v[1];

    soft_vec_store(cpu, in, from, x86_mem_size(in));
}

static inline void scatter(struct soft_cpu *cpu, const struct insn *in, const struct x86_form *f,
                           unsigned i, const struct vec_args *a)
{
    switch (x86_operand_kind[f->operand[i]].place) {
    case X86_AT_XREG: put_vector(cpu, in, in->reg, a->v[i + 1]); break;
    case X86_AT_XRM:
    case X86_AT_XRMREG: put_vector(cpu, in, in->rm, a->v[i + 1]); break;
    case X86_AT_XVVVV: put_vector(cpu, in, in->vvvv, a->v[i + 1]); break;
    case X86_AT_XMM0: put_vector(cpu, in, 0, a->v[0]); break;
    case X86_AT_MREG: put_mm(cpu, in->reg, a->v[0]); break;
    case X86_AT_MRM:
    case X86_AT_MRMREG: put_mm(cpu, in->rm, a->v[0]); break;
    case X86_AT_REG: put_gpr(cpu, in->reg, x86_operand_size(in, i), a->rax); break;
    case X86_AT_RM:
    case X86_AT_RMREG: put_gpr(cpu, in->rm, x86_operand_size(in, i), a->rax); break;
    default: break;
    }
}

/* Any form with a thunk; `a` may bring RAX and RDX. */
static inline void run(struct soft_cpu *cpu, const struct insn *in, struct vec_args *a)
{
    const struct x86_form *f = &x86_form[in->form];
    unsigned flags = soft_thunk_flags[in->form];
    const void *thunk = thunk_of(cpu, in);
    bool mem_thunk = flags & THUNK_MEM;
    bool store = in->mem && (x86_mem_access(in) & 2);
    bool mmx = flags & THUNK_MMX;
    /* CVTPI2PS and CVTPI2PD from memory touch no MMX register of the guest's. */
    bool enter = mmx && !(in->mem && x86_operand_kind[f->operand[0]].place == X86_AT_XREG);
    vec_call_fn *call = mmx                ? soft_mmx_call
                        : in->opsize == 32 ? soft_vec_call256
                                           : soft_vec_call128;
    uint8_t buffer[32] __attribute__((aligned(32)));

    soft_vec_gate(cpu, f->gate);
    if (thunk == NULL)
        soft_ud(cpu);
    if (enter)
        soft_fpu_wait(cpu);
    if (mmx)
        soft_fpu_save(cpu);
    a->mem = buffer;
    for (unsigned i = 0; i < 4 && f->operand[i]; i++)
        gather(cpu, in, f, i, a, mem_thunk);
    if (flags & THUNK_FP) {
        uint32_t mxcsr;

        if (store) /* a page fault comes before #XM */
            soft_probe_write(cpu, in->seg, soft_ea(cpu, in), x86_mem_size(in));
        if (enter) /* even if the result is refused */
            soft_mmx_enter(cpu);
        mxcsr = call_fp(cpu, call, a, thunk, flags);

        if (store)
            scatter_memory(cpu, in, f, a, mem_thunk, mmx);
        cpu->mxcsr = mxcsr;
    } else {
        call(a, thunk);
        if (store)
            scatter_memory(cpu, in, f, a, mem_thunk, mmx);
    }
    if (enter)
        soft_mmx_enter(cpu);
    for (unsigned i = 0; i < 4 && f->operand[i]; i++)
        if ((f->access[i] & 2) && !(i == 0 && store))
            scatter(cpu, in, f, i, a);
    if (f->flags_written)
        cpu->arith = a->arith;
}

/* ---- the quick way for plain forms ---- */

struct plain_source { /* a register's two halves, as in cpu->xsave */
    uint8_t low[16] __attribute__((aligned(16)));
    uint8_t between[HIGH_HALF - 16];
    uint8_t high[16];
};

/* The last source: a register, memory itself, or a copy of it in *s. */
static inline const void *plain_source(struct soft_cpu *cpu, const struct insn *in,
                                       struct plain_source *s)
{
    unsigned size;
    const uint8_t *p;

    if (!in->mem)
        return soft_xmm(cpu, in->rm);
    size = x86_mem_size(in);
    p = quick_read(cpu, in, size);
    if (size == 16 && in->opsize == 16) {
        if (likely(p != NULL))
            return p;
        soft_vec_load(cpu, in, s->low, 16);
        return s->low;
    }
    memset(s->high, 0, 16);
    if (size == 32) {
        uint8_t whole[32];

        if (p == NULL)
            soft_vec_load(cpu, in, whole, 32), p = whole;
        memcpy(s->low, p, 16);
        memcpy(s->high, p + 16, 16);
        return s->low;
    }
    memset(s->low, 0, 16);
    if (likely(p != NULL))
        copy_small(s->low, p, size);
    else
        soft_vec_load(cpu, in, s->low, size);
    return s->low;
}

static inline void plain_call(struct soft_cpu *cpu, const struct insn *in, unsigned flags,
                              const void *thunk, void *dst, const void *src)
{
    const void *src1 = soft_xmm(cpu, in->vvvv);

    if (in->opsize == 32) {
        if (flags & THUNK_PLAIN3)
            soft_plain3_256(dst, src1, src, thunk);
        else
            soft_plain2_256(dst, src, thunk);
        return;
    }
    if (flags & THUNK_PLAIN3)
        soft_plain3_128(dst, src1, src, thunk);
    else
        soft_plain2_128(dst, src, thunk);
    if (in->prefix & X86_P_VEX)
        memset((uint8_t *)dst + HIGH_HALF, 0, 16);
}

static void run_plain(struct soft_cpu *cpu, const struct insn *in, unsigned flags)
{
    const void *thunk = thunk_of(cpu, in), *src;
    struct plain_source copy;
    uint32_t mxcsr;

    soft_vec_gate(cpu, x86_form[in->form].gate);
    if (unlikely(thunk == NULL))
        soft_ud(cpu);
    src = plain_source(cpu, in, &copy);
    if (flags & THUNK_FP)
        _mm_setcsr(cpu->mxcsr);
    plain_call(cpu, in, flags, thunk, soft_xmm(cpu, in->reg), src);
    if (flags & THUNK_FP) {
        mxcsr = _mm_getcsr();
        if (unlikely((mxcsr & ~MXCSR_FLAGS) != MXCSR_DEFAULT))
            _mm_setcsr(MXCSR_DEFAULT);
        cpu->mxcsr = mxcsr;
    }
}

void op_vec(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned flags = soft_thunk_flags[in->form];
    bool masked = (cpu->mxcsr & MXCSR_DEFAULT) == MXCSR_DEFAULT;
    struct vec_args a;

    if (likely((flags & (THUNK_PLAIN2 | THUNK_PLAIN3)) && (masked || !(flags & THUNK_FP))))
        run_plain(cpu, in, flags);
    else
        run(cpu, in, &a);
}

/* The explicit string lengths are in EAX and EDX, or RAX and RDX with W; beyond 16 they saturate.
 */
static uint32_t string_length(const struct soft_cpu *cpu, const struct insn *in, unsigned r)
{
    int64_t v = (in->prefix & X86_P_REXW) && cpu->mode == X86_MODE_64 ? (int64_t)cpu->reg[r]
                                                                      : (int32_t)cpu->reg[r];

    return (uint32_t)(v > 16 ? 16 : v < -16 ? -16 : v);
}

/* PCMPISTRI, PCMPISTRM, PCMPESTRI, PCMPESTRM: operands that no ModRM names. */
void op_pcmpstr(struct soft_cpu *cpu, const struct insn *in)
{
    struct vec_args a = {.rax = string_length(cpu, in, 0), .rdx = string_length(cpu, in, 2)};

    run(cpu, in, &a);
    if (in->opcode & 1) { /* ...I: index in ECX */
        cpu->reg[1] = (uint32_t)a.rcx;
        return;
    }
    memcpy(soft_xmm(cpu, 0), a.v[0], 16); /* ...M: mask in XMM0 */
    if (in->prefix & X86_P_VEX)
        memset(soft_ymm_high(cpu, 0), 0, 16);
}

void op_emms(struct soft_cpu *cpu, const struct insn *in)
{
    soft_vec_gate(cpu, X86_GATE_MMX);
    soft_fpu_wait(cpu);
    soft_fpu_save(cpu);
    soft_mmx_enter(cpu);
    cpu->xsave[4] = 0;
}
