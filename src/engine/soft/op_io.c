/* SPDX-License-Identifier: MIT */
/* Instruction handlers: ports, hints, fences. */
#include "engine/soft/det.h"
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"
#include "engine/soft/system.h"
#include <sched.h>

#define PAUSES_PER_YIELD 64
#define TSS_MAP          0x66 /* where a 32-bit TSS holds the offset of its I/O permission map */

/* I/O breakpoints (SDM volume 3, 18.2.4): a trap behind the instruction, as for data. */
static void watch_port(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
    enum { AT_PORT = 2 };
    static const uint8_t len_of[4] = {1, 2, 8, 4};

    for (unsigned i = 0; i < 4; i++) {
        unsigned len = len_of[cpu->dr7 >> (18 + 4 * i) & 3];
        uint64_t at = cpu->dr[i] & ~(uint64_t)(len - 1);

        if (!(cpu->dr7 >> (2 * i) & 3) || (cpu->dr7 >> (16 + 4 * i) & 3) != AT_PORT)
            continue;
        if (port < at + len && at < (uint64_t)port + size) {
            cpu->trap_dr6 |= 1u << i;
            atomic_fetch_or(&cpu->pending, PEND_TRAP);
        }
    }
}

/* SDM volume 1, 19.5. Two bytes are read so that a port range may span them; the second must exist.
 */
static void check_permission(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
    unsigned type = cpu->tr.attr & SEG_TYPE;
    uint64_t map, bits;

    if (!(cpu->cr0 & 1) || (cpu->cpl <= (cpu->rflags & FL_IOPL) >> 12 && !(cpu->rflags & FL_VM)))
        return;
    if (!(cpu->tr.attr & SEG_P) || (type != 9 && type != 11) || cpu->tr.limit < TSS_MAP + 1)
        soft_gp(cpu, 0);
    map = soft_load_linear(cpu, cpu->tr.base + TSS_MAP, 2, true);
    if (map + port / 8 + 1 > cpu->tr.limit)
        soft_gp(cpu, 0);
    bits = soft_load_linear(cpu, cpu->tr.base + map + port / 8, 2, true) >> (port & 7);
    if (bits & (BIT(size) - 1))
        soft_gp(cpu, 0);
}

void soft_io_check(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
    check_permission(cpu, port, size);
    if (unlikely(cpu->dr7 & 0xff) && (cpu->cr4 & CR4_DE))
        watch_port(cpu, port, size);
}

/* The port is operand 1 of IN, operand 0 of OUT: an immediate byte or DX. */
void soft_op_in(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t port = (uint16_t)operand_get(cpu, in, 1);
    unsigned size = operand_size(cpu, in, 0);

    if (kind_of(in, 1).place == X86_AT_IMM)
        port &= 0xff;
    soft_io_check(cpu, port, size);
    det_access(cpu);
    put_reg(cpu, 0, size, bus_read(cpu->vm->pio, port, size));
}

void soft_op_out(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t port = (uint16_t)operand_get(cpu, in, 0);
    unsigned size = operand_size(cpu, in, 1);

    if (kind_of(in, 0).place == X86_AT_IMM)
        port &= 0xff;
    soft_io_check(cpu, port, size);
    det_access(cpu);
    bus_write(cpu->vm->pio, port, get_reg(cpu, 0, size), size);
}

void soft_op_pause(struct soft_cpu *cpu, const struct insn *in)
{
    if (++cpu->pauses % PAUSES_PER_YIELD == 0 && cpu->vm->cpu_count > 1)
        sched_yield(); /* whoever holds the lock may wait for this host processor */
}

void soft_op_fence(struct soft_cpu *cpu, const struct insn *in)
{
    atomic_thread_fence(memory_order_seq_cst);
}

/* CLFLUSH and CLWB fault as a byte load would, and do nothing else. */
void soft_op_clflush(struct soft_cpu *cpu, const struct insn *in)
{
    (void)soft_host_ptr(cpu, soft_linear(cpu, in->seg, soft_ea(cpu, in), 1, ACCESS_READ), 1,
                        ACCESS_READ, false);
}
