/* SPDX-License-Identifier: MIT */
/* FXSAVE, FXRSTOR, the XSAVE family, XGETBV and XSETBV.
 *
 * cpu->xsave is an image in standard format whose XMM, YMM and (once the x87 state is not live) x87
 * parts are always current. Saving copies the wanted components out, restoring copies them in.
 * Intel SDM volume 1, chapter 13. A component counts as in use when it differs from its initial
 * state. */
#include "engine/soft/vec_ops.h"
#include "engine/soft/vector.h"
#include "engine/x86/model.h"
#include <string.h>

enum { X87 = 1, SSE = 2, AVX = 4 };
#define COMPACT BIT(63)

enum { AT_MXCSR = 24, AT_BV = 512, AT_COMPACT = 520 };

static bool is_64(const struct soft_cpu *cpu)
{
    return cpu->mode == X86_MODE_64;
}

/* XMM and YMM registers that the mode can name: the others are neither saved nor restored. */
static size_t vector_bytes(const struct soft_cpu *cpu)
{
    return is_64(cpu) ? 256 : 128;
}

static uint64_t operand_linear(struct soft_cpu *cpu, const struct insn *in, unsigned size,
                               unsigned align, uint64_t *ea, enum mem_access access)
{
    uint64_t linear;

    *ea = soft_ea(cpu, in);
    linear = soft_linear(cpu, in->seg, *ea, size, access);
    if (linear & (align - 1))
        soft_gp(cpu, 0);
    return linear;
}

/* FIP and FDP: 64 bits with REX.W, else 32 bits and a selector, which newer processors leave 0. */
static void x87_to_image(struct soft_cpu *cpu, const struct insn *in, uint8_t *image)
{
    soft_fpu_save(cpu);
    memcpy(image, cpu->xsave, 24);
    memcpy(image + XSAVE_ST, cpu->xsave + XSAVE_ST, 128);
    for (unsigned i = 0; i < 8; i++) /* reserved bytes behind each register */
        memset(image + XSAVE_ST + 16 * i + 10, 0, 6);
    image[5] = 0;
    if (!(in->prefix & X86_P_REXW) || !is_64(cpu)) {
        memset(image + 12, 0, 4);
        memset(image + 20, 0, 4);
    }
}

static void x87_from_image(struct soft_cpu *cpu, const struct insn *in, const uint8_t *image)
{
    soft_fpu_save(cpu);
    memcpy(cpu->xsave, image, 24);
    memcpy(cpu->xsave + XSAVE_ST, image + XSAVE_ST, 128);
    if (!(in->prefix & X86_P_REXW) || !is_64(cpu)) {
        memset(cpu->xsave + 12, 0, 4);
        memset(cpu->xsave + 20, 0, 4);
    }
    soft_fpu_normalise(cpu);
}

static void x87_init(struct soft_cpu *cpu)
{
    soft_fpu_save(cpu);
    memset(cpu->xsave, 0, 24);
    memset(cpu->xsave + XSAVE_ST, 0, 128);
    cpu->xsave[0] = 0x7f;
    cpu->xsave[1] = 0x03;
}

static void mxcsr_to_image(const struct soft_cpu *cpu, uint8_t *image)
{
    uint32_t mask = MXCSR_MASK;

    memcpy(image + AT_MXCSR, &cpu->mxcsr, 4);
    memcpy(image + AT_MXCSR + 4, &mask, 4);
}

static uint32_t image_mxcsr(struct soft_cpu *cpu, const uint8_t *image)
{
    uint32_t value;

    memcpy(&value, image + AT_MXCSR, 4);
    if (value & ~MXCSR_MASK)
        soft_gp(cpu, 0);
    return value;
}

void op_fxsave(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t image[512];
    uint64_t ea;

    if (cpu->cr0 & (CR0_EM | CR0_TS))
        soft_raise(cpu, VEC_NM, NO_CODE);
    operand_linear(cpu, in, 512, 16, &ea, ACCESS_WRITE);
    soft_probe_write(cpu, in->seg, ea, 512);
    x87_to_image(cpu, in, image);
    mxcsr_to_image(cpu, image);
    memcpy(image + XSAVE_XMM, cpu->xsave + XSAVE_XMM, 256);
    soft_store_bytes(cpu, in->seg, ea, image, XSAVE_XMM + vector_bytes(cpu));
}

void op_fxrstor(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t image[512];
    uint64_t ea;

    if (cpu->cr0 & (CR0_EM | CR0_TS))
        soft_raise(cpu, VEC_NM, NO_CODE);
    operand_linear(cpu, in, 512, 16, &ea, ACCESS_READ);
    soft_load_bytes(cpu, in->seg, ea, image, sizeof image);
    cpu->mxcsr = image_mxcsr(cpu, image);
    x87_from_image(cpu, in, image);
    memcpy(cpu->xsave + XSAVE_XMM, image + XSAVE_XMM, vector_bytes(cpu));
}

/* ---- XSAVE, XSAVEOPT, XSAVEC, XRSTOR ---- */

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static bool x87_in_use(struct soft_cpu *cpu)
{
    static const uint8_t initial[24] = {0x7f, 0x03};

    soft_fpu_save(cpu);
    return memcmp(cpu->xsave, initial, sizeof initial) || !all_zero(cpu->xsave + XSAVE_ST, 128);
}

static uint64_t in_use(struct soft_cpu *cpu)
{
    return (x87_in_use(cpu) ? X87 : 0) | (all_zero(cpu->xsave + XSAVE_XMM, 256) ? 0 : SSE) |
           (all_zero(cpu->xsave + XSAVE_YMM, 256) ? 0 : AVX);
}

static uint64_t requested(struct soft_cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSXSAVE))
        soft_ud(cpu);
    if (cpu->cr0 & CR0_TS)
        soft_raise(cpu, VEC_NM, NO_CODE);
    return ((uint32_t)cpu->reg[0] | cpu->reg[2] << 32) & cpu->xcr0;
}

static void store_part(struct soft_cpu *cpu, const struct insn *in, uint64_t ea,
                       const uint8_t *image, unsigned at, size_t n)
{
    soft_store_bytes(cpu, in->seg, ea + at, image + at, n);
}

/* Writes the components `what`; `mxcsr`: MXCSR and its mask too. All bytes were probed. */
static void store_components(struct soft_cpu *cpu, const struct insn *in, uint64_t ea,
                             uint64_t what, bool mxcsr)
{
    uint8_t image[XSAVE_YMM];

    if (what & X87) {
        x87_to_image(cpu, in, image);
        store_part(cpu, in, ea, image, 0, 24);
        store_part(cpu, in, ea, image, XSAVE_ST, 128);
    }
    if (mxcsr) {
        mxcsr_to_image(cpu, image);
        store_part(cpu, in, ea, image, AT_MXCSR, 8);
    }
    if (what & SSE)
        store_part(cpu, in, ea, cpu->xsave, XSAVE_XMM, vector_bytes(cpu));
    if (what & AVX)
        store_part(cpu, in, ea, cpu->xsave, XSAVE_YMM, vector_bytes(cpu));
}

static void save_standard(struct soft_cpu *cpu, const struct insn *in, bool optimised)
{
    uint64_t rfbm = requested(cpu), ea, bv, used = in_use(cpu);
    unsigned size = rfbm & AVX ? XSAVE_END : XSAVE_YMM;

    operand_linear(cpu, in, size, 64, &ea, ACCESS_WRITE);
    soft_probe_write(cpu, in->seg, ea, size);
    bv = soft_load(cpu, in->seg, ea + AT_BV, 8);
    store_components(cpu, in, ea, optimised ? rfbm & used : rfbm, rfbm & (SSE | AVX));
    soft_store(cpu, in->seg, ea + AT_BV, 8, (bv & ~rfbm) | (rfbm & used));
}

void op_xsave(struct soft_cpu *cpu, const struct insn *in)
{
    save_standard(cpu, in, false);
}

void op_xsaveopt(struct soft_cpu *cpu, const struct insn *in)
{
    save_standard(cpu, in, true);
}

/* The compacted format; with two components behind the legacy area at most, AVX is at the same
 * place. */
void op_xsavec(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t rfbm = requested(cpu), ea, bv = in_use(cpu);
    unsigned size = rfbm & AVX ? XSAVE_END : XSAVE_YMM;

    if (cpu->mxcsr != MXCSR_DEFAULT)
        bv |= SSE;
    bv &= rfbm;
    operand_linear(cpu, in, size, 64, &ea, ACCESS_WRITE);
    soft_probe_write(cpu, in->seg, ea, size);
    store_components(cpu, in, ea, bv, bv & SSE);
    soft_store(cpu, in->seg, ea + AT_BV, 8, bv);
    soft_store(cpu, in->seg, ea + AT_COMPACT, 8, rfbm | COMPACT);
}

/* Raises #GP for a header that XRSTOR refuses. */
static void check_header(struct soft_cpu *cpu, const uint8_t *image, uint64_t *bv, bool *compact)
{
    uint64_t compact_bv;

    memcpy(bv, image + AT_BV, 8);
    memcpy(&compact_bv, image + AT_COMPACT, 8);
    *compact = compact_bv & COMPACT;
    if (*compact ? (compact_bv & ~COMPACT & ~cpu->xcr0) || (*bv & ~compact_bv) ||
                       !all_zero(image + 528, 48)
                 : (*bv & ~cpu->xcr0) || !all_zero(image + AT_COMPACT, 16))
        soft_gp(cpu, 0);
}

void op_xrstor(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t image[XSAVE_END];
    uint64_t rfbm = requested(cpu), bv, ea;
    bool compact, load_mxcsr;
    uint32_t mxcsr = cpu->mxcsr;

    operand_linear(cpu, in, XSAVE_YMM, 64, &ea, ACCESS_READ);
    soft_load_bytes(cpu, in->seg, ea, image, XSAVE_YMM);
    check_header(cpu, image, &bv, &compact);
    if (rfbm & bv & AVX)
        soft_load_bytes(cpu, in->seg, ea + XSAVE_YMM, image + XSAVE_YMM, vector_bytes(cpu));
    load_mxcsr = compact ? rfbm & bv & SSE : rfbm & (SSE | AVX);
    if (load_mxcsr)
        mxcsr = image_mxcsr(cpu, image);
    else if (compact && (rfbm & SSE))
        mxcsr = MXCSR_DEFAULT;
    cpu->mxcsr = mxcsr;
    if (rfbm & bv & X87)
        x87_from_image(cpu, in, image);
    else if (rfbm & X87)
        x87_init(cpu);
    for (unsigned part = SSE; part <= AVX; part <<= 1) {
        unsigned at = part == SSE ? XSAVE_XMM : XSAVE_YMM;

        if (rfbm & bv & part)
            memcpy(cpu->xsave + at, image + at, vector_bytes(cpu));
        else if (rfbm & part)
            memset(cpu->xsave + at, 0, vector_bytes(cpu));
    }
}

static void set_edx_eax(struct soft_cpu *cpu, uint64_t value)
{
    cpu->reg[0] = (uint32_t)value;
    cpu->reg[2] = value >> 32;
}

void op_xgetbv(struct soft_cpu *cpu, const struct insn *in)
{
    uint32_t index = (uint32_t)cpu->reg[1];

    if (!(cpu->cr4 & CR4_OSXSAVE))
        soft_ud(cpu);
    if (index > 1)
        soft_gp(cpu, 0);
    set_edx_eax(cpu, index == 0 ? cpu->xcr0 : cpu->xcr0 & in_use(cpu));
}

uint64_t soft_xcr0_valid(const struct soft_cpu *cpu)
{
    const struct cpu_model *model = cpu->vm->model;

    return model ? model->xcr0_mask | X87 : X87 | SSE;
}

void op_xsetbv(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t value = (uint32_t)cpu->reg[0] | cpu->reg[2] << 32;

    if (!(cpu->cr4 & CR4_OSXSAVE))
        soft_ud(cpu);
    if (cpu->cpl || (uint32_t)cpu->reg[1] != 0 || !(value & X87) ||
        (value & ~soft_xcr0_valid(cpu)) || ((value & AVX) && !(value & SSE)))
        soft_gp(cpu, 0);
    cpu->xcr0 = value;
}

/* ---- for engine_ops.get and set ---- */

void soft_xsave_get(struct soft_cpu *cpu, uint8_t *image)
{
    uint64_t bv = in_use(cpu) | (cpu->mxcsr != MXCSR_DEFAULT ? SSE : 0);

    memcpy(image, cpu->xsave, sizeof cpu->xsave);
    mxcsr_to_image(cpu, image);
    memset(image + AT_BV, 0, 64);
    memcpy(image + AT_BV, &bv, 8);
}

void soft_xsave_set(struct soft_cpu *cpu, const uint8_t *image)
{
    uint64_t bv;

    memcpy(&bv, image + AT_BV, 8);
    memcpy(&cpu->mxcsr, image + AT_MXCSR, 4);
    cpu->fpu_live = false;
    memcpy(cpu->xsave, image, sizeof cpu->xsave);
    if (bv & X87)
        soft_fpu_normalise(cpu);
    else
        x87_init(cpu);
    if (!(bv & SSE))
        memset(cpu->xsave + XSAVE_XMM, 0, 256);
    if (!(bv & AVX))
        memset(cpu->xsave + XSAVE_YMM, 0, 256);
}
