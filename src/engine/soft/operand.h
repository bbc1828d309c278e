/* SPDX-License-Identifier: MIT */
/* Operands of integer instruction handlers: where they are, reading and writing them, and running
 * the host's own instruction on them with the guest's arithmetic flags.
 *
 * An operand that is read and written is opened: `p` points at its bytes (guest memory itself, a
 * register in struct soft_cpu, or a copy when no pointer exists: devices, page-crossing), the host
 * instruction works on them, and closing stores the copy or clears the upper half of a 32-bit
 * register. */
#ifndef HULL_SOFT_OPERAND_H
#define HULL_SOFT_OPERAND_H

#include "engine/soft/soft.h"
#include "engine/x86/model.h"
#include "engine/x86/operand.h"

/* Assembly around a host instruction: the guest's flags into EFLAGS from %ax, and back into %ax. */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "lahf\n\tseto %%al\n\t"

struct operand {
    void *p;
    uint64_t offset; /* of memory, in `seg` */
    uint8_t size, seg;
    bool memory, copy, write, locked;
    uint64_t buf[2] __attribute__((aligned(16))); /* CMPXCHG16B works on it */
};

static inline const struct x86_form *form_of(const struct insn *in)
{
    return &x86_form[in->form];
}

static inline struct x86_operand_kind kind_of(const struct insn *in, unsigned k)
{
    return x86_operand_kind[form_of(in)->operand[k]];
}

static inline bool has_operand(const struct insn *in, unsigned k)
{
    return k < 4 && form_of(in)->operand[k] != X86_O_NONE;
}

/* The CPU model offers the feature that the form belongs to. */
static inline bool soft_offered(const struct soft_cpu *cpu, const struct x86_form *form)
{
    return form->feature == X86_F_BASE || cpu->vm->model == NULL ||
           cpu_model_has(cpu->vm->model, form->feature);
}

unsigned operand_size(const struct soft_cpu *cpu, const struct insn *in, unsigned k);

/* General register `n` (X86_HIGH + n: AH..BH) of `size` bytes. */
static inline void *reg_at(struct soft_cpu *cpu, unsigned n)
{
    return n & X86_HIGH ? (uint8_t *)&cpu->reg[n & 3] + 1 : (uint8_t *)&cpu->reg[n & 15];
}

static inline uint64_t get_reg(struct soft_cpu *cpu, unsigned n, unsigned size)
{
    const void *p = reg_at(cpu, n);

    switch (size) {
    case 1: return *(const uint8_t *)p;
    case 2: return *(const uint16_t *)p;
    case 4: return *(const uint32_t *)p;
    default: return *(const uint64_t *)p;
    }
}

static inline void put_reg(struct soft_cpu *cpu, unsigned n, unsigned size, uint64_t v)
{
    void *p = reg_at(cpu, n);

    switch (size) {
    case 1: *(uint8_t *)p = (uint8_t)v; break;
    case 2: *(uint16_t *)p = (uint16_t)v; break;
    case 4: *(uint64_t *)p = (uint32_t)v; break;
    default: *(uint64_t *)p = v; break;
    }
}

/* Value of operand `k`, zero-extended. */
uint64_t operand_get(struct soft_cpu *cpu, const struct insn *in, unsigned k);
/* Writes operand `k`, which was not opened. */
void operand_put(struct soft_cpu *cpu, const struct insn *in, unsigned k, uint64_t v);
/* Opens operand `k` for read and write, or for read. */
void operand_open(struct soft_cpu *cpu, const struct insn *in, unsigned k, bool write,
                  struct operand *o);
/* The same for memory at an offset that the handler computed. */
void operand_open_memory(struct soft_cpu *cpu, const struct insn *in, uint64_t offset,
                         unsigned size, bool write, struct operand *o);
void operand_close(struct soft_cpu *cpu, struct operand *o);
/* Gives back the lock that operand_open took for a LOCKed operand without a host pointer. */
void operand_unlock(struct soft_cpu *cpu);

static inline uint64_t size_mask(unsigned size)
{
    return size == 8 ? ~0ULL : BIT(size * 8) - 1;
}

static inline int64_t sign_extend(uint64_t v, unsigned size)
{
    unsigned shift = 64 - size * 8;

    return (int64_t)(v << shift) >> shift;
}

static inline uint64_t ip_mask(const struct soft_cpu *cpu)
{
    return cpu->mode == X86_MODE_64 ? ~0ULL : cpu->mode == X86_MODE_32 ? 0xffffffff : 0xffff;
}

/* Condition code `cc` as in the low four bits of Jcc opcodes. */
bool soft_condition(const struct soft_cpu *cpu, unsigned cc);

#endif
