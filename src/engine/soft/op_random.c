/* SPDX-License-Identifier: MIT */
/* RDRAND and RDSEED: from the host's getrandom(), a batch at a time; with --random-seed from a
 * generator that gives the same numbers in every run (splitmix64, one sequence a vCPU). */
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"
#include <sys/random.h>

static uint64_t seeded(struct soft_cpu *cpu)
{
    uint64_t z;

    if (cpu->random_state == 0)
        cpu->random_state = cpu->vm->random_seed + ((uint64_t)cpu->vcpu->id << 32);
    cpu->random_state += 0x9e3779b97f4a7c15ULL;
    z = cpu->random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    return z ^ z >> 31;
}

/* False: the host has nothing to give just now. */
static bool random_number(struct soft_cpu *cpu, uint64_t *v)
{
    if (cpu->vm->random_seed) {
        *v = seeded(cpu);
        return true;
    }
    if (cpu->random_left == 0) {
        if (getrandom(cpu->random, sizeof cpu->random, GRND_NONBLOCK) != sizeof cpu->random)
            return false;
        cpu->random_left = ARRAY_SIZE(cpu->random);
    }
    *v = cpu->random[--cpu->random_left];
    cpu->random[cpu->random_left] = 0; /* given out once */
    return true;
}

/* CF: the number is good. The other flags are cleared. */
void soft_op_rdrand(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t v = 0;
    bool good = random_number(cpu, &v);

    put_reg(cpu, in->rm, in->opsize, v);
    cpu->arith = (uint16_t)(2 | (good ? FL_CF : 0)) << 8;
}
