/* SPDX-License-Identifier: MIT */
/* Several vCPUs in threads: atomic instructions, and code that one vCPU changes while another runs
 * it. */
#include "engine/soft/testguest.h"
#include "tap.h"

enum { AX, CX, DX, BX };

static struct guest g;

static void *thread(void *arg)
{
    struct vcpu *v = arg;

    while (!__atomic_load_n(&g.exited, __ATOMIC_SEQ_CST)) {
        if (soft_run(v) != VCPU_KICKED)
            break;
    }
    return NULL;
}

/* Runs until someone writes the exit port. */
static void run_all(unsigned cpus)
{
    pthread_t t[GUEST_CPUS];

    g.exited = false;
    for (unsigned i = 0; i < cpus; i++)
        pthread_create(&t[i], NULL, thread, &g.vcpu[i]);
    for (unsigned i = 0; i < cpus; i++)
        pthread_join(t[i], NULL);
}

/* Every vCPU adds in four ways, then says that it is done; the last one exits, others spin. */
GUEST_CODE_BYTES(adders,
                 "mov $0x200000, %edi; mov $20000, %ecx; 1: lock incq (%rdi); mov $1, %eax;"
                 "lock xadd %rax, 8(%rdi); 2: mov 16(%rdi), %rax; lea 1(%rax), %rdx;"
                 "lock cmpxchg %rdx, 16(%rdi); jne 2b; 3: mov $1, %eax; xchg %eax, 24(%rdi);"
                 "test %eax, %eax; jz 4f; pause; jmp 3b; 4: addq $1, 32(%rdi); movl $0, 24(%rdi);"
                 "mov $1, %eax; lock cmpxchg16b 64(%rdi); dec %ecx; jnz 1b; mov $-1, %eax;"
                 "lock xadd %eax, 40(%rdi); dec %eax; jz 6f; 5: pause; jmp 5b; 6:");

static void test_atomics(void)
{
    uint64_t *d = mem_at(&g.mem, GUEST_DATA, 4096);

    memset(d, 0, 4096);
    d[5] = GUEST_CPUS;
    for (unsigned i = 0; i < GUEST_CPUS; i++)
        guest_code_on(&g, i, GUEST_CODE, adders, adders_end);
    run_all(GUEST_CPUS);
    ok(d[0] == 20000 * GUEST_CPUS, "LOCK INC: %llu", (unsigned long long)d[0]);
    ok(d[1] == 20000 * GUEST_CPUS, "LOCK XADD: %llu", (unsigned long long)d[1]);
    ok(d[2] == 20000 * GUEST_CPUS, "LOCK CMPXCHG: %llu", (unsigned long long)d[2]);
    ok(d[4] == 20000 * GUEST_CPUS, "XCHG spin lock: %llu", (unsigned long long)d[4]);
}

/* The writer: function "mov $n, %eax; ret" at 0x300000, then flag n, then waits for the answer. */
GUEST_CODE_BYTES(
    writer, "mov $0x200000, %edi; mov $0x300000, %esi; movb $0xb8, (%rsi); movb $0xc3, 5(%rsi);"
            "mov $1, %ecx; 1: mov %ecx, 1(%rsi); movl %ecx, 256(%rsi); mov %ecx, (%rdi);"
            "2: pause; cmp %ecx, 4(%rdi); jne 2b; inc %ecx; cmp $5000, %ecx; jbe 1b");
GUEST_CODE_BYTES(
    reader,
    "mov $0x200000, %edi; mov $0x300000, %esi; xor %edx, %edx; 1: pause; mov (%rdi), %ebx;"
    "cmp %edx, %ebx; je 1b; mov %ebx, %edx; call *%rsi; cmp %eax, %edx; je 2f; incl 8(%rdi);"
    "2: mov %edx, 4(%rdi); jmp 1b");

static void test_cross_modifying(void)
{
    uint32_t *d = mem_at(&g.mem, GUEST_DATA, 4096);
    struct soft_counters c;

    memset(d, 0, 4096);
    guest_code_on(&g, 0, GUEST_CODE, writer, writer_end);
    guest_code_on(&g, 1, GUEST_CODE + 0x4000, reader, reader_end);
    run_all(2);
    ok(d[1] == 5000, "all versions ran: %u", d[1]);
    ok(d[2] == 0, "%u times old code ran", d[2]);
    soft_counters(g.cpu, &c);
    ok(c.invalidations >= 4999, "%llu invalidations", (unsigned long long)c.invalidations);
}

int main(void)
{
    struct err err = {0};

    if (!ok(guest_open_smp(&g, GUEST_CPUS, &err), "guest opens %s", err.text))
        return tap_done();
    test_atomics();
    test_cross_modifying();
    guest_close(&g);
    return tap_done();
}
