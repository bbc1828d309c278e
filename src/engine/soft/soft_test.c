/* SPDX-License-Identifier: MIT */
/* The core of the soft engine: small pieces of 64-bit code run on a bare machine. */
#include "engine/soft/system.h"
#include "engine/soft/testguest.h"
#include "tap.h"

enum { AX, CX, DX, BX, SP, BP, SI, DI };

static struct guest g;

GUEST_CODE_BYTES(
    arith,
    "mov $10, %ecx; xor %eax, %eax; 1: add %rcx, %rax; dec %ecx; jnz 1b; mov $-1, %bl;"
    "movzbl %bl, %edx; movsbq %bl, %rsi; mov $0x1234, %edi; mov %edi, %ebp; mov $0x5a, %ah;"
    "lea 5(%rdi,%rbp,4), %r8; imul $3, %r8, %r9; mov $7, %r10d; cmp $8, %r10; sbb %r11, %r11;"
    "mov $100, %r12d; shl $3, %r12; sar $1, %r12d; bsf %r12, %r13; bswap %edi");

static void test_arith(void)
{
    uint64_t *r = g.cpu->reg;

    guest_code(&g, arith, arith_end);
    ok(guest_run(&g), "arithmetic runs");
    ok(r[AX] == 0x5a37, "loop and AH: %llx", (unsigned long long)r[AX]);
    ok(r[DX] == 0xff && r[SI] == ~0ULL, "zero and sign extension");
    ok(r[8] == 5 + 0x1234 * 5 && r[9] == 3 * r[8], "LEA, IMUL");
    ok(r[11] == ~0ULL, "SBB after CMP");
    ok(r[12] == 400 && r[13] == 4, "shifts, BSF");
    ok(r[DI] == 0x34120000, "BSWAP");
}

GUEST_CODE_BYTES(
    memory,
    "mov $0x200000, %edi; movq $0x11223344, (%rdi); addl $1, (%rdi); movb $0x7f, 3(%rdi);"
    "mov (%rdi), %eax; mov $0x200ffd, %esi; movl $0xcafebabe, (%rsi); mov (%rsi), %ecx;"
    "push %rax; push $-5; pop %rbx; pop %rdx; lock xaddl %ecx, (%rdi); xchg %rbp, (%rdi);"
    "mov $77, %eax; mov $1, %r8d; lock cmpxchg %r8, 8(%rdi); setz %r9b; mov 8(%rdi), %r10;"
    "call 1f; jmp 2f; 1: mov $99, %r15d; ret $0; 2: leaq 3f(%rip), %r11; jmp *%r11; ud2; 3: nop");

static void test_memory(void)
{
    uint64_t *r = g.cpu->reg;

    guest_code(&g, memory, memory_end);
    memset(mem_at(&g.mem, GUEST_DATA, 4096), 0, 4096);
    ok(guest_run(&g), "memory runs");
    ok(r[DX] == 0x7f223345, "read-modify-write, byte store, PUSH and POP: %llx",
       (unsigned long long)r[DX]);
    ok(r[CX] == 0x7f223345, "XADD gives the old value");
    ok(r[BP] == (uint32_t)(0x7f223345 + 0xcafebabe), "XCHG: %llx", (unsigned long long)r[BP]);
    ok(r[BX] == (uint64_t)-5 && r[SP] == GUEST_STACK, "PUSH sign-extends, stack is level");
    ok(r[9] == 0 && r[AX] == 0 && r[10] == 0, "failed CMPXCHG");
    ok(r[15] == 99, "CALL, RET, indirect JMP");
    ok(memcmp(mem_at(&g.mem, 0x200ffd, 4), "\xbe\xba\xfe\xca", 4) == 0, "store across pages");
}

GUEST_CODE_BYTES(
    strings,
    "mov $0x200000, %edi; mov $3000, %ecx; mov $0xab, %eax; rep stosb; mov $0x200000, %esi;"
    "mov $0x202ff0, %edi; mov $3000, %ecx; rep movsb; mov %rsi, %r8; mov %rdi, %r9;"
    "movb $1, 0x202ff0+2500; mov $0x200000, %esi; mov $0x202ff0, %edi; mov $4000, %ecx; repe cmpsb;"
    "mov %rcx, %r10; movb $0xab, 0x202ff0+2500;"
    "mov $0x200001, %edi; mov $0x200000, %esi; movb $1, (%rsi); mov $7, %ecx; rep movsb;"
    "mov $0x200000, %edi; mov $0xab, %al; mov $100, %ecx; repne scasb; mov %rcx, %r11;"
    "std; mov $0x200107, %esi; mov $0x200207, %edi; mov $8, %ecx; rep movsb; cld;"
    "xor %ecx, %ecx; rep stosb");

static void test_strings(void)
{
    uint64_t *r = g.cpu->reg;
    const uint8_t *d = mem_at(&g.mem, GUEST_DATA, 0x4000);

    guest_code(&g, strings, strings_end);
    memset(mem_at(&g.mem, GUEST_DATA, 0x4000), 0, 0x4000);
    ok(guest_run(&g), "strings run");
    ok(r[8] == GUEST_DATA + 3000 && r[9] == 0x202ff0 + 3000, "MOVSB over a page end");
    ok(d[0x2ff0] == 0xab && d[0x2ff0 + 2999] == 0xab && d[0x2ff0 + 3000] == 0, "copied bytes");
    ok(r[10] == 4000 - 2501, "CMPSB stops: %llu", (unsigned long long)r[10]);
    ok(d[7] == 1 && d[8] == 0xab, "overlapping MOVSB repeats the pattern");
    ok(r[11] == 100 - 9, "SCASB: %llu", (unsigned long long)r[11]);
    ok(r[CX] == 0 && r[DI] == 0x2001ff, "backward, count 0");
}

GUEST_CODE_BYTES(
    smc,
    "lea 2f+1(%rip), %rbx; mov $3, %ecx; xor %edx, %edx; 1: addl $1, (%rbx); jmp 2f; .p2align 6;"
    "2: mov $5, %eax; add %eax, %edx; dec %ecx; jnz 1b; "
    "lea 3f(%rip), %rbx; movb $0x43, 2(%rbx); 3: nop; nop; .byte 0x90; inc %r8b; nop");

static void test_smc(void)
{
    uint64_t *r = g.cpu->reg;
    struct soft_counters c;

    guest_code(&g, smc, smc_end);
    ok(guest_run(&g), "self-modifying code runs");
    ok(r[DX] == 6 + 7 + 8, "each turn sees its own patch: %llu", (unsigned long long)r[DX]);
    soft_counters(g.cpu, &c);
    ok(c.invalidations >= 3, "%llu invalidations", (unsigned long long)c.invalidations);
}

GUEST_CODE_BYTES(
    crossing, "mov $0x200ffe, %edi; movabs $0x0badf00d12345678, %rax; mov %rax, 8(%rdi);"
              "movw $0xb848, (%rdi); movl $0x44332211, 2(%rdi); movl $0x88776655, 6(%rdi);"
              "movb $0xc3, 10(%rdi); call *%rdi; mov %rax, %rdx; movb $0x99, 2(%rdi); call *%rdi");

static void test_crossing(void)
{
    uint64_t *r = g.cpu->reg;

    guest_code(&g, crossing, crossing_end);
    ok(guest_run(&g), "page-crossing instruction runs");
    ok(r[DX] == 0x8877665544332211ULL, "first: %llx", (unsigned long long)r[DX]);
    ok(r[AX] == 0x8877665544332299ULL, "after patching its second page: %llx",
       (unsigned long long)r[AX]);
}

GUEST_CODE_BYTES(devices,
                 "mov $0x10000000, %edi; movl $0x1234, (%rdi); mov 0(%rdi), %eax; addl $1, (%rdi);"
                 "mov 1(%rdi), %bl; mov $2, %ecx; mov $0x200000, %esi; movq $9, (%rsi); rep movsb");

static void test_devices(void)
{
    guest_code(&g, devices, devices_end);
    ok(guest_run(&g), "device access runs");
    ok(g.cpu->reg[AX] == 0x1234 && g.cpu->reg[BX] == 0x12, "reads");
    ok(g.device_writes == 4, "%llu writes", (unsigned long long)g.device_writes);
}

/* A not-present page, then a read-only one: #PF, the handler maps it and returns. */
GUEST_CODE_BYTES(
    faults,
    "lea 9f(%rip), %rax; mov %ax, 0x20e0; shr $16, %rax; mov %ax, 0x20e6; mov $0x40003000, %edi;"
    "xor %r8d, %r8d; movq $0, 0x13018; movl $7, (%rdi); mov %cr2, %r9; movq $0x300001, 0x13018;"
    "invlpg (%rdi); mov (%rdi), %ebx; movl $9, 4(%rdi); mov $0x40003ffe, %esi; movq $0, 0x13020;"
    "movq $0x300001, 0x13018; invlpg (%rdi); mov %rsp, %r11; movl $0x01020304, (%rsi); jmp 8f;"
    "9: inc %r8d; mov (%rsp), %r10; add %r10, %r12; mov %cr2, %rax; shr $12, %eax; and $15, %eax;"
    "movq $0x300003, 0x13000(,%rax,8); add $8, %rsp; iretq; 8:");

static void test_faults(void)
{
    uint64_t *r = g.cpu->reg;

    guest_code(&g, faults, faults_end);
    ok(guest_run(&g), "page faults are handled");
    ok(r[9] == 0x40003000 && r[BX] == 7, "not present, then restarted");
    ok(r[8] == 4 && r[12] == 2 + 3 + 3 + 2, "%llu faults, codes add up to %llu",
       (unsigned long long)r[8], (unsigned long long)r[12]);
    ok(memcmp(mem_at(&g.mem, 0x300ffe, 2), "\x04\x03", 2) == 0 && r[11] == r[SP],
       "store over two faulting pages");
}

GUEST_CODE_BYTES(
    port_break,
    "lea 9f(%rip), %rax; mov %ax, 0x2010; shr $16, %rax; mov %ax, 0x2016; mov $0x81, %eax;"
    "mov %rax, %dr0; mov $0x20401, %eax; mov %rax, %dr7; xor %ecx, %ecx; in $0x80, %ax;"
    "mov %ecx, %ebx; in $0x80, %al; in $0x82, %al; out %ax, $0x81; xor %eax, %eax;"
    "mov %rax, %dr7; in $0x81, %al; jmp 8f; 9: inc %ecx; mov %dr6, %r8; iretq; 8:");

static void test_port_break(void)
{
    uint64_t *r = g.cpu->reg;

    guest_code(&g, port_break, port_break_end);
    g.cpu->cr4 |= CR4_DE;
    ok(guest_run(&g) && r[BX] == 1, "a breakpoint on a port traps behind IN");
    g.cpu->cr4 &= ~(uint64_t)CR4_DE;
    ok(r[CX] == 2 && (r[8] & 0xf) == 1, "%llu traps in all, DR6 %llx", (unsigned long long)r[CX],
       (unsigned long long)r[8]);
}

GUEST_CODE_BYTES(alignment,
                 "mov $0x200004, %edi; mov (%rdi), %eax; mov %ax, 2(%rdi); mov 1(%rdi), %bl;"
                 "inc %ecx; incl 2(%rdi)");

static void test_alignment(void)
{
    struct soft_cpu *cpu = g.cpu;
    uint64_t rsp0 = GUEST_STACK - 0x1000;

    guest_code(&g, alignment, alignment_end);
    mem_write(&g.mem, 0x3004, &rsp0, sizeof rsp0);
    cpu->tr.base = 0x3000;
    cpu->seg[SEG_CS].attr |= SEG_DPL;
    cpu->seg[SEG_CS].sel |= 3;
    cpu->seg[SEG_SS].attr |= SEG_DPL;
    cpu->cpl = 3;
    cpu->cr0 |= BIT(18);
    cpu->rflags |= FL_AC;
    soft_mode_changed(cpu);
    ok(guest_run(&g) && cpu->reg[CX] == 1, "aligned accesses in ring 3 pass");
    ok(*(uint8_t *)mem_at(&g.mem, GUEST_DATA - 8, 1) == VEC_AC && cpu->cpl == 0,
       "an unaligned one raises #AC");
}

int main(void)
{
    struct err err = {0};

    if (!ok(guest_open(&g, &err), "guest opens %s", err.text))
        return tap_done();
    test_arith();
    test_memory();
    test_strings();
    test_smc();
    test_crossing();
    test_devices();
    test_faults();
    test_port_break();
    test_alignment();
    guest_close(&g);
    return tap_done();
}
