/* SPDX-License-Identifier: MIT */
/* Tracing: see trace.h. With `insn` blocks are lowered to instruction handlers only, so that every
 * instruction passes here. */
#include "engine/soft/trace.h"
#include <stdio.h>
#include <stdlib.h>

unsigned soft_tracing;

void trace_setup(void)
{
    const char *what = getenv("HULL_TRACE");

    if (what == NULL)
        return;
    if (strstr(what, "insn"))
        soft_tracing |= TRACE_INSN;
    if (strstr(what, "int"))
        soft_tracing |= TRACE_INT;
}

static void registers(const struct soft_cpu *cpu)
{
    static const char *const name[16] = {"ax", "cx", "dx",  "bx",  "sp",  "bp",  "si",  "di",
                                         "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

    for (unsigned i = 0; i < 16; i++)
        fprintf(stderr, " %s=%llx", name[i], (unsigned long long)cpu->reg[i]);
    fprintf(stderr, " fl=%llx\n", (unsigned long long)soft_rflags(cpu));
}

void trace_insn(struct soft_cpu *cpu, const struct insn *in)
{
    char text[128];

    x86_format(in, cpu->rip, text, sizeof text);
    fprintf(stderr, "cpu%u %04x:%llx %s |", cpu->vcpu->id, cpu->seg[SEG_CS].sel,
            (unsigned long long)cpu->rip, text);
    registers(cpu);
}

void trace_fault(struct soft_cpu *cpu)
{
    fprintf(stderr, "cpu%u fault %u code %x at %04x:%llx cr2=%llx cpl=%u |", cpu->vcpu->id,
            cpu->fault_vector, cpu->fault_code, cpu->seg[SEG_CS].sel, (unsigned long long)cpu->rip,
            (unsigned long long)cpu->cr2, cpu->cpl);
    registers(cpu);
}
