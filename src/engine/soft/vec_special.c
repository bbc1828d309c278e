/* SPDX-License-Identifier: MIT */
/* Vector instructions that are not one operation on whole operands: masked moves and gathers, which
 * touch only the elements that their mask enables, VZEROUPPER/VZEROALL, and MXCSR's load and store.
 */
#include "engine/soft/vec_ops.h"
#include "engine/soft/vector.h"
#include <string.h>

struct masked { /* element-wise access to memory */
    uint8_t data[32], mask[32];
    unsigned bytes, element;
};

static bool enabled(const struct masked *m, unsigned offset)
{
    return m->mask[offset + m->element - 1] & 0x80;
}

static uint64_t address_mask(const struct insn *in)
{
    return in->adsize == 8 ? ~0ull : in->adsize == 4 ? 0xffffffffull : 0xffffull;
}

/* Only outside 64-bit mode does an operand that runs over the end of the address space wrap. */
static uint64_t element_at(const struct soft_cpu *cpu, uint64_t ea, unsigned offset)
{
    return cpu->mode == X86_MODE_64 ? ea + offset : (uint32_t)(ea + offset);
}

static void load_masked(struct soft_cpu *cpu, const struct insn *in, uint64_t ea, struct masked *m)
{
    memset(m->data, 0, sizeof m->data);
    for (unsigned i = 0; i < m->bytes; i += m->element)
        if (enabled(m, i))
            soft_load_bytes(cpu, in->seg, element_at(cpu, ea, i), m->data + i, m->element);
}

static void store_masked(struct soft_cpu *cpu, const struct insn *in, uint64_t ea,
                         const struct masked *m)
{
    for (unsigned i = 0; i < m->bytes; i += m->element)
        if (enabled(m, i))
            soft_probe_write(cpu, in->seg, element_at(cpu, ea, i), m->element);
    for (unsigned i = 0; i < m->bytes; i += m->element)
        if (enabled(m, i))
            soft_store_bytes(cpu, in->seg, element_at(cpu, ea, i), m->data + i, m->element);
}

static void read_vector(struct soft_cpu *cpu, unsigned r, uint8_t *to)
{
    memcpy(to, soft_xmm(cpu, r), 16);
    memcpy(to + 16, soft_ymm_high(cpu, r), 16);
}

static void write_vector(struct soft_cpu *cpu, unsigned r, const uint8_t *from)
{
    memcpy(soft_xmm(cpu, r), from, 16);
    memcpy(soft_ymm_high(cpu, r), from + 16, 16);
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: 2C, 2D, 8C load; 2E, 2F, 8E store. */
void op_vmaskmov(struct soft_cpu *cpu, const struct insn *in)
{
    bool wide_elements = in->opcode < 0x80 ? in->opcode & 1 : (in->prefix & X86_P_REXW) != 0;
    bool store = (in->opcode & 2) != 0;
    struct masked m = {.bytes = in->opsize, .element = wide_elements ? 8 : 4};
    uint64_t ea = soft_ea(cpu, in);

    soft_vec_gate(cpu, X86_GATE_AVX);
    read_vector(cpu, in->vvvv, m.mask);
    if (store) {
        read_vector(cpu, in->reg, m.data);
        store_masked(cpu, in, ea, &m);
    } else {
        load_masked(cpu, in, ea, &m);
        write_vector(cpu, in->reg, m.data);
    }
}

/* MASKMOVDQU and VMASKMOVDQU: bytes to seg:rDI. */
void op_maskmovdqu(struct soft_cpu *cpu, const struct insn *in)
{
    struct masked m = {.bytes = 16, .element = 1};

    soft_vec_gate(cpu, in->prefix & X86_P_VEX ? X86_GATE_AVX : X86_GATE_SSE);
    memcpy(m.data, soft_xmm(cpu, in->reg), 16);
    memcpy(m.mask, soft_xmm(cpu, in->rm), 16);
    store_masked(cpu, in, cpu->reg[7] & address_mask(in), &m);
}

void op_maskmovq(struct soft_cpu *cpu, const struct insn *in)
{
    struct masked m = {.bytes = 8, .element = 1};

    soft_vec_gate(cpu, X86_GATE_MMX);
    soft_fpu_wait(cpu);
    soft_fpu_save(cpu);
    memcpy(m.data, soft_mm(cpu, in->reg), 8);
    memcpy(m.mask, soft_mm(cpu, in->rm), 8);
    soft_mmx_enter(cpu); /* even if the store faults */
    store_masked(cpu, in, cpu->reg[7] & address_mask(in), &m);
}

/* The address of element `i`: index register elements are signed dwords or qwords. */
static uint64_t gather_ea(struct soft_cpu *cpu, const struct insn *in, const uint8_t *index,
                          bool qword, unsigned i)
{
    uint64_t base = in->base == X86_NO_REG ? 0 : cpu->reg[in->base & 15];
    int64_t value;

    if (qword) {
        memcpy(&value, index + 8 * i, 8);
    } else {
        int32_t narrow;

        memcpy(&narrow, index + 4 * i, 4);
        value = narrow;
    }
    return (base + ((uint64_t)value << in->scale) + (uint64_t)(int64_t)in->disp) & address_mask(in);
}

/* VPGATHERxx, VGATHERxxx. Elements are done in order, and each clears its mask (enabled or not), so
 * a fault in the middle leaves a state from which the instruction goes on. */
void op_gather(struct soft_cpu *cpu, const struct insn *in)
{
    bool qword_index = in->opcode & 1;
    unsigned data = in->prefix & X86_P_REXW ? 8 : 4;
    unsigned count = in->opsize / (qword_index || data == 8 ? 8 : 4);
    uint8_t index[32], result[32];
    struct masked m = {.element = data};

    soft_vec_gate(cpu, X86_GATE_AVX);
    if (in->reg == in->vvvv || in->reg == in->index || in->vvvv == in->index)
        soft_ud(cpu);
    read_vector(cpu, in->index, index);
    read_vector(cpu, in->reg, result);
    read_vector(cpu, in->vvvv, m.mask);
    for (unsigned i = 0; i < count; i++) {
        if (enabled(&m, i * data)) {
            soft_load_bytes(cpu, in->seg, gather_ea(cpu, in, index, qword_index, i),
                            result + i * data, data);
            write_vector(cpu, in->reg, result);
        }
        memset(m.mask + i * data, 0, data);
        write_vector(cpu, in->vvvv, m.mask);
    }
    memset(m.mask + count * data, 0, sizeof m.mask - count * data);
    memset(result + count * data, 0, sizeof result - count * data);
    write_vector(cpu, in->reg, result);
    write_vector(cpu, in->vvvv, m.mask);
}

void op_vzero(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned registers = cpu->mode == X86_MODE_64 ? 16 : 8;

    soft_vec_gate(cpu, X86_GATE_AVX);
    memset(soft_ymm_high(cpu, 0), 0, 16 * registers);
    if (in->op == X86_VZEROALL)
        memset(soft_xmm(cpu, 0), 0, 16 * registers);
}

void op_ldmxcsr(struct soft_cpu *cpu, const struct insn *in)
{
    uint32_t value;

    soft_vec_gate(cpu, in->prefix & X86_P_VEX ? X86_GATE_AVX : X86_GATE_SSE);
    soft_vec_load(cpu, in, &value, 4);
    if (value & ~MXCSR_MASK)
        soft_gp(cpu, 0);
    cpu->mxcsr = value;
}

void op_stmxcsr(struct soft_cpu *cpu, const struct insn *in)
{
    soft_vec_gate(cpu, in->prefix & X86_P_VEX ? X86_GATE_AVX : X86_GATE_SSE);
    soft_vec_store(cpu, in, &cpu->mxcsr, 4);
}
