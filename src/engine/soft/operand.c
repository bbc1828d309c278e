/* SPDX-License-Identifier: MIT */
/* Operands of integer instruction handlers: see operand.h. */
#include "engine/soft/operand.h"
#include "engine/soft/page.h"

static unsigned rule_size(const struct soft_cpu *cpu, const struct insn *in, unsigned rule)
{
    switch (rule) {
    case X86_SZ_V: return in->opsize;
    case X86_SZ_Z: return in->opsize < 4 ? in->opsize : 4;
    case X86_SZ_Y: return (in->prefix & X86_P_REXW) && cpu->mode == X86_MODE_64 ? 8 : 4;
    case X86_SZ_RVMW: return in->mem ? 2 : in->opsize;
    default: return rule;
    }
}

unsigned operand_size(const struct soft_cpu *cpu, const struct insn *in, unsigned k)
{
    return rule_size(cpu, in, kind_of(in, k).size);
}

/* Number of the general register that operand `k` is, or -1. */
static int operand_reg(const struct insn *in, unsigned place)
{
    switch (place) {
    case X86_AT_REG:
    case X86_AT_OPREG: return in->reg;
    case X86_AT_RM: return in->mem ? -1 : in->rm;
    case X86_AT_RMREG: return in->rm;
    case X86_AT_VVVV: return in->vvvv & 15;
    case X86_AT_ACC: return 0;
    case X86_AT_CL: return 1;
    case X86_AT_DX: return 2;
    default: return -1;
    }
}

uint64_t operand_get(struct soft_cpu *cpu, const struct insn *in, unsigned k)
{
    struct x86_operand_kind kind = kind_of(in, k);
    unsigned size = rule_size(cpu, in, kind.size);
    int reg = operand_reg(in, kind.place);

    if (reg >= 0)
        return get_reg(cpu, (unsigned)reg, size);
    switch (kind.place) {
    case X86_AT_RM:
    case X86_AT_MEM:
    case X86_AT_MOFFS: return soft_load(cpu, in->seg, soft_ea(cpu, in), size);
    case X86_AT_ONE: return 1;
    default: return in->imm;
    }
}

void operand_put(struct soft_cpu *cpu, const struct insn *in, unsigned k, uint64_t v)
{
    struct x86_operand_kind kind = kind_of(in, k);
    unsigned size = rule_size(cpu, in, kind.size);
    int reg = operand_reg(in, kind.place);

    if (reg >= 0)
        put_reg(cpu, (unsigned)reg, size, v);
    else
        soft_store(cpu, in->seg, soft_ea(cpu, in), size, v);
}

void operand_open_memory(struct soft_cpu *cpu, const struct insn *in, uint64_t offset,
                         unsigned size, bool write, struct operand *o)
{
    enum mem_access access = write ? ACCESS_WRITE : ACCESS_READ;
    uint64_t linear = soft_linear(cpu, in->seg, offset, size, access);

    *o = (struct operand){
        .offset = offset, .size = (uint8_t)size, .seg = in->seg, .memory = true, .write = write};
    o->locked = in->prefix & X86_P_LOCK;
    o->p = soft_host_ptr(cpu, linear, size, access, false);
    if (o->p)
        return;
    o->copy = true;
    o->p = o->buf;
    if (o->locked) {
        pthread_mutex_lock(&cpu->soft->split);
        cpu->split_locked = true;
    }
    if (size <= 8)
        o->buf[0] = soft_load(cpu, in->seg, offset, size);
    else
        soft_load_bytes(cpu, in->seg, offset, o->buf, size);
}

void operand_open(struct soft_cpu *cpu, const struct insn *in, unsigned k, bool write,
                  struct operand *o)
{
    struct x86_operand_kind kind = kind_of(in, k);
    unsigned size = rule_size(cpu, in, kind.size);
    int reg = operand_reg(in, kind.place);

    if (reg < 0) {
        operand_open_memory(cpu, in, soft_ea(cpu, in), size, write, o);
        return;
    }
    *o = (struct operand){.p = reg_at(cpu, (unsigned)reg), .size = (uint8_t)size, .write = write};
}

void operand_close(struct soft_cpu *cpu, struct operand *o)
{
    if (!o->memory) {
        if (o->write && o->size == 4)
            ((uint32_t *)o->p)[1] = 0;
        return;
    }
    if (!o->copy)
        return;
    if (o->write && o->size <= 8)
        soft_store(cpu, o->seg, o->offset, o->size, o->buf[0]);
    else if (o->write)
        soft_store_bytes(cpu, o->seg, o->offset, o->buf, o->size);
    operand_unlock(cpu);
}

void operand_unlock(struct soft_cpu *cpu)
{
    if (!cpu->split_locked)
        return;
    cpu->split_locked = false;
    pthread_mutex_unlock(&cpu->soft->split);
}

bool soft_condition(const struct soft_cpu *cpu, unsigned cc)
{
    unsigned f = cpu->arith >> 8;
    bool of = cpu->arith & 1, sf = f & FL_SF, zf = f & FL_ZF, cf = f & FL_CF, pf = f & FL_PF, yes;

    switch (cc >> 1) {
    case 0: yes = of; break;
    case 1: yes = cf; break;
    case 2: yes = zf; break;
    case 3: yes = cf || zf; break;
    case 4: yes = sf; break;
    case 5: yes = pf; break;
    case 6: yes = sf != of; break;
    default: yes = sf != of || zf; break;
    }
    return yes != (cc & 1);
}
