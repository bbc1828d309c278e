/* SPDX-License-Identifier: MIT */
/* The vector moves that programs use most (memcpy, spills, zeroing), in C: no thunk, no generic
 * operand work. What is not 64-bit code with a TLB hit goes the slow way, which raises the faults.
 */
#include "engine/soft/quick.h"
#include "engine/soft/vec_ops.h"
#include "engine/soft/vector.h"
#include <string.h>

static void copy_register(struct soft_cpu *cpu, const struct insn *in, unsigned to, unsigned from)
{
    memcpy(soft_xmm(cpu, to), soft_xmm(cpu, from), 16);
    if (in->opsize == 32)
        memcpy(soft_ymm_high(cpu, to), soft_ymm_high(cpu, from), 16);
    else if (in->prefix & X86_P_VEX)
        memset(soft_ymm_high(cpu, to), 0, 16);
}

static void load_whole(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t bytes[32];
    const uint8_t *p = quick_read(cpu, in, in->opsize);

    if (unlikely(p == NULL)) {
        soft_vec_load(cpu, in, bytes, in->opsize);
        p = bytes;
    }
    if (in->opsize == 32)
        memcpy(soft_ymm_high(cpu, in->reg), p + 16, 16);
    else if (in->prefix & X86_P_VEX)
        memset(soft_ymm_high(cpu, in->reg), 0, 16);
    memcpy(soft_xmm(cpu, in->reg), p, 16);
}

static void store_whole(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t bytes[32];
    uint8_t *p = quick_write(cpu, in, in->opsize);
    uint8_t *to = p ? p : bytes;

    memcpy(to, soft_xmm(cpu, in->reg), 16);
    if (in->opsize == 32)
        memcpy(to + 16, soft_ymm_high(cpu, in->reg), 16);
    if (unlikely(p == NULL))
        soft_vec_store(cpu, in, bytes, in->opsize);
}

/* MOVAPS, MOVUPS, MOVAPD, MOVUPD, MOVDQA, MOVDQU, LDDQU, MOVNTxx and their VEX forms. */
void op_vec_move(struct soft_cpu *cpu, const struct insn *in)
{
    bool store;

    switch (in->opcode) {
    case 0x7f:
    case 0x11:
    case 0x29:
    case 0xe7:
    case 0x2b: store = true; break;
    default: store = false; break;
    }
    soft_vec_gate(cpu, in->prefix & X86_P_VEX ? X86_GATE_AVX : X86_GATE_SSE);
    if (!in->mem)
        copy_register(cpu, in, store ? in->rm : in->reg, store ? in->reg : in->rm);
    else if (store)
        store_whole(cpu, in);
    else
        load_whole(cpu, in);
}

/* `size` bytes into the low part, zeros above. */
static void load_low(struct soft_cpu *cpu, const struct insn *in, unsigned size)
{
    const void *p = quick_read(cpu, in, size);
    uint64_t v[2] = {0, 0};

    if (unlikely(p == NULL))
        soft_vec_load(cpu, in, v, size);
    else if (size == 8)
        memcpy(v, p, 8);
    else
        memcpy(v, p, 4);
    memcpy(soft_xmm(cpu, in->reg), v, 16);
    if (in->prefix & X86_P_VEX)
        memset(soft_ymm_high(cpu, in->reg), 0, 16);
}

static void store_low(struct soft_cpu *cpu, const struct insn *in, unsigned size)
{
    void *p = quick_write(cpu, in, size);

    if (unlikely(p == NULL))
        soft_vec_store(cpu, in, soft_xmm(cpu, in->reg), size);
    else if (size == 8)
        memcpy(p, soft_xmm(cpu, in->reg), 8);
    else
        memcpy(p, soft_xmm(cpu, in->reg), 4);
}

static void from_gpr(struct soft_cpu *cpu, const struct insn *in, unsigned size)
{
    uint64_t v[2] = {size == 8 ? cpu->reg[in->rm & 15] : (uint32_t)cpu->reg[in->rm & 15], 0};

    memcpy(soft_xmm(cpu, in->reg), v, 16);
    if (in->prefix & X86_P_VEX)
        memset(soft_ymm_high(cpu, in->reg), 0, 16);
}

static void to_gpr(struct soft_cpu *cpu, const struct insn *in, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, soft_xmm(cpu, in->reg), size == 8 ? 8 : 4);
    cpu->reg[in->rm & 15] = v;
}

/* MOVD, MOVQ, MOVSS, MOVSD and their VEX forms, as far as they are plain loads and stores of XMM
 * registers or moves from and to general registers; op_vec has the others, MMX too. */
void op_vec_move_low(struct soft_cpu *cpu, const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    bool to_xmm = x86_operand_kind[f->operand[0]].place == X86_AT_XREG;
    bool gpr = in->opcode == 0x6e || (in->opcode == 0x7e && !to_xmm);
    unsigned size = in->mem ? x86_mem_size(in) : x86_operand_size(in, to_xmm);

    if (f->gate == X86_GATE_MMX || (!in->mem && !gpr)) {
        op_vec(cpu, in);
        return;
    }
    soft_vec_gate(cpu, f->gate);
    switch (in->opcode) {
    case 0x6e:
    case 0x10: in->mem ? load_low(cpu, in, size) : from_gpr(cpu, in, size); break;
    case 0x7e:
        if (to_xmm) /* MOVQ xmm, m64 */
            load_low(cpu, in, size);
        else if (in->mem)
            store_low(cpu, in, size);
        else
            to_gpr(cpu, in, size);
        break;
    default: store_low(cpu, in, size); break; /* 11, D6 */
    }
}
