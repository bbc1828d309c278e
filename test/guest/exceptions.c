/* SPDX-License-Identifier: MIT */
/* Every exception that a 64-bit kernel or its user can cause: vector, error code, where RIP points,
 * and who wins when several could be raised. */
#include "lib64.h"

#define CODE(name, text)                                                                           \
    __attribute__((naked)) static void name(uint64_t arg)                                          \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }

#define NON_CANONICAL "0x800000000000"

CODE(div_zero, "xor %ecx, %ecx; mov $1, %eax; xor %edx, %edx; div %ecx; ret")
CODE(div_overflow, "mov $1, %ecx; mov $1, %edx; div %ecx; ret")
CODE(idiv_overflow, "mov $0x80000000, %eax; cltd; mov $-1, %ecx; idiv %ecx; ret")
CODE(aam_free, "ret")
CODE(int3, "int3; ret")
CODE(int1, ".byte 0xf1; ret")
CODE(ud2, "ud2; ret")
CODE(lock_nop, ".byte 0xf0, 0x90; ret")
CODE(lock_mov, ".byte 0xf0, 0x89, 0x44, 0x24, 0xc0; ret")
CODE(lock_add_reg, ".byte 0xf0, 0x01, 0xc0; ret")
CODE(push_es, ".byte 0x06; ret")
CODE(mov_cs, "mov %edi, %eax; .byte 0x8e, 0xc8; ret")
CODE(mov_cr1, ".byte 0x0f, 0x20, 0xc8; ret")
CODE(too_long, ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
               "0x66, 0x66, 0x66, 0x90; ret")
CODE(fifteen, ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
              "0x66, 0x90; ret")
CODE(load_noncanonical, "mov $" NON_CANONICAL ", %rax; mov (%rax), %eax; ret")
CODE(load_crossing, "mov $0x7ffffffffffc, %rax; mov (%rax), %rax; ret")
CODE(push_noncanonical,
     "mov %rsp, %rcx; mov $" NON_CANONICAL ", %rsp; add $8, %rsp; push %rax; mov %rcx, %rsp; ret")
CODE(rbp_noncanonical, "push %rbp; mov $" NON_CANONICAL ", %rbp; mov (%rbp), %eax; pop %rbp; ret")
CODE(jmp_noncanonical, "mov $" NON_CANONICAL ", %rax; jmp *%rax")
CODE(ret_noncanonical, "mov $" NON_CANONICAL ", %rax; push %rax; ret")
CODE(load_ds, "mov %edi, %ds; mov $0x10, %eax; mov %eax, %ds; ret")
CODE(load_ss, "mov %edi, %ss; mov $0x10, %eax; mov %eax, %ss; ret")
CODE(load_fs, "mov %edi, %fs; xor %eax, %eax; mov %eax, %fs; ret")
CODE(int_0x21, "int $0x21; ret")
CODE(wr_msr, "mov %edi, %ecx; xor %eax, %eax; mov $0x800000, %edx; wrmsr; ret")
CODE(rd_msr, "mov %edi, %ecx; rdmsr; ret")
CODE(cr0_pg_off_pe, "mov %cr0, %rax; and $~1, %eax; mov %rax, %cr0; ret")
CODE(cr0_nw, "mov %cr0, %rax; or $0x20000000, %eax; mov %rax, %cr0; ret")
CODE(cr0_high, "mov %cr0, %rax; bts $32, %rax; mov %rax, %cr0; ret")
CODE(cr0_pg_off, "mov %cr0, %rax; btr $31, %rax; mov %rax, %cr0; ret")
CODE(cr4_pae_off, "mov %cr4, %rax; and $~0x20, %eax; mov %rax, %cr4; ret")
CODE(cr4_reserved, "mov %cr4, %rax; bts $15, %rax; mov %rax, %cr4; ret")
CODE(cr3_high, "mov %cr3, %rax; bts $60, %rax; mov %rax, %cr3; ret")
CODE(cr8_big, "mov $16, %eax; mov %rax, %cr8; ret")
CODE(dr7_high, "mov %dr7, %rax; bts $32, %rax; mov %rax, %dr7; ret")
CODE(movaps_odd, "sub $24, %rsp; and $~15, %rsp; movaps %xmm0, 1(%rsp); ret")
CODE(fninit_fp, "fninit; ret")
CODE(sse_op, "xorps %xmm0, %xmm0; ret")
CODE(fwait_op, "fwait; ret")
CODE(x87_unmasked, "fninit; push $0x37b; fldcw (%rsp); add $8, %rsp; fldz; fld1; fdivp; fwait; ret")
CODE(sse_unmasked, "push $0x1d80; ldmxcsr (%rsp); xorps %xmm1, %xmm1; mov $0x3f800000, %eax; movd "
                   "%eax, %xmm0; divss %xmm1, %xmm0; pop %rax; ret")
CODE(sysexit_null, "xor %ecx, %ecx; mov %ecx, %edx; sysexitl")
CODE(ltr_null, "xor %eax, %eax; ltr %ax; ret")
CODE(ltr_busy, "mov $0x38, %eax; ltr %ax; ret")
CODE(lldt_data, "mov $0x10, %eax; lldt %ax; ret")
CODE(lldt_null, "xor %eax, %eax; lldt %ax; ret")
CODE(iret_null_cs, "push $0x10; push %rsp; pushfq; push $0; push $0; iretq")
CODE(far_null, "push $0; push $0; lretq")
CODE(lgdt_noncanonical, "mov $" NON_CANONICAL ", %rax; push %rax; push $-1; lgdt 6(%rsp); ret")

static void expect(trap_fn *fn, uint64_t arg, int vector, uint64_t code, const char *name)
{
    int got = trap_call(fn, arg);

    ok(got == vector && (got < 0 || trap.code == code), "%s", name);
    if (got != vector || (got >= 0 && trap.code != code))
        print("# got vector %d code %x\n", got, got < 0 ? 0 : (unsigned)trap.code);
}

/* Where a missing check would take the guest down. */
static void strictly(trap_fn *fn, uint64_t arg, int vector, uint64_t code, const char *name)
{
    if (tcg())
        skip(name, "TCG");
    else
        expect(fn, arg, vector, code, name);
}

static void arithmetic(void)
{
    expect(div_zero, 0, DE, 0, "divide by zero");
    ok((trap.rflags & 0x10000) != 0, "a fault pushes RF");
    is(trap.rip, (uint64_t)div_zero + 9, "RIP of a fault is the instruction");
    expect(div_overflow, 0, DE, 0, "quotient too large");
    expect(idiv_overflow, 0, DE, 0, "most negative by -1");
    expect(int3, 0, BP, 0, "INT3");
    is(trap.rip, (uint64_t)int3 + 1, "RIP of a trap is the next instruction");
    ok(!(trap.rflags & 0x10000), "a trap does not push RF");
    expect(int1, 0, DB, 0, "INT1");
}

static void undefined(void)
{
    expect(ud2, 0, UD, 0, "UD2");
    expect(lock_nop, 0, UD, 0, "LOCK NOP");
    expect(lock_mov, 0, UD, 0, "LOCK MOV");
    expect(lock_add_reg, 0, UD, 0, "LOCK ADD on registers");
    expect(push_es, 0, UD, 0, "PUSH ES in 64-bit mode");
    expect(mov_cs, 8, UD, 0, "MOV to CS");
    expect(mov_cr1, 0, UD, 0, "MOV from CR1");
    expect(too_long, 0, GP, 0, "16 bytes of instruction");
    expect(fifteen, 0, -1, 0, "15 bytes of instruction");
}

static void addresses(void)
{
    expect(load_noncanonical, 0, GP, 0, "non-canonical load");
    expect(load_crossing, 0, GP, 0, "load crossing into the hole");
    idt[SS].ist = 1; /* the handler needs a stack that works */
    strictly(push_noncanonical, 0, SS, 0, "push to a non-canonical RSP");
    idt[SS].ist = 0;
    expect(rbp_noncanonical, 0, SS, 0, "RBP-based non-canonical load");
    expect(jmp_noncanonical, 0, GP, 0, "jump to a non-canonical address");
    expect(ret_noncanonical, 0, GP, 0, "return to a non-canonical address");
    expect(movaps_odd, 0, GP, 0, "MOVAPS unaligned");
    strictly(lgdt_noncanonical, 0, GP, 0, "LGDT with a non-canonical base");
}

static void selectors(void)
{
    gdt[9] = 0x00cf13000000ffff;  /* 48: data, not present */
    gdt[10] = 0x00cf98000000ffff; /* 50: code, execute only */
    gdt[11] = 0x00cf91000000ffff; /* 58: data, read only */
    gdt[12] = 0x00cff3000000ffff; /* 60: data, DPL 3 */
    expect(load_ds, 0x48, NP, 0x48, "DS not present");
    expect(load_ds, 0x50, GP, 0x50, "DS execute-only code");
    expect(load_ds, 0x38, GP, 0x38, "DS with a TSS");
    expect(load_ds, 0xfff8, GP, 0xfff8, "DS beyond the GDT");
    expect(load_ds, 0x4c, GP, 0x4c, "DS in a null LDT");
    expect(load_ds, 0x13, GP, 0x10, "DS with RPL above DPL");
    expect(load_ds, 0x58, -1, 0, "DS read only");
    expect(load_ds, 0, -1, 0, "DS null");
    expect(load_fs, 3, -1, 0, "FS null with RPL 3");
    expect(load_ss, 0x48, SS, 0x48, "SS not present");
    expect(load_ss, 0x58, GP, 0x58, "SS read only");
    expect(load_ss, 0x60, GP, 0x60, "SS of another ring");
    expect(load_ss, 0x11, GP, 0x10, "SS with another RPL");
    expect(load_ss, 0, -1, 0, "SS null in ring 0");
    expect(load_ss, 3, GP, 0, "SS null with RPL 3 in ring 0");
    strictly(ltr_null, 0, GP, 0, "LTR null");
    expect(ltr_busy, 0, GP, 0x38, "LTR busy");
    expect(lldt_data, 0, GP, 0x10, "LLDT with data");
    expect(lldt_null, 0, -1, 0, "LLDT null");
    expect(iret_null_cs, 0, GP, 0, "IRET to a null CS");
    expect(far_null, 0, GP, 0, "RETF to a null CS");
}

static void gates(void)
{
    struct gate64 saved = idt[0x21];

    idt[0x21].type = 0x0e;
    expect(int_0x21, 0, NP, 0x21 * 8 + 2, "gate not present");
    idt[0x21].type = 0x8c;
    expect(int_0x21, 0, GP, 0x21 * 8 + 2, "gate of a wrong type");
    idt[0x21].type = 0x85;
    expect(int_0x21, 0, GP, 0x21 * 8 + 2, "task gate in long mode");
    idt[0x21] = saved;
    idt[0x21].sel = 0;
    expect(int_0x21, 0, GP, 0, "gate with a null selector");
    idt[0x21].sel = 0x10;
    expect(int_0x21, 0, GP, 0x10, "gate to data");
    idt[0x21].sel = 0x30;
    expect(int_0x21, 0, GP, 0x30, "gate to 32-bit code");
    idt[0x21] = saved;
    idt[0x21].mid = 0, idt[0x21].high = 0x8000;
    expect(int_0x21, 0, GP, 0, "gate to a non-canonical handler");
    idt[0x21] = saved;
    tss.ist[1] = 0x800000000000;
    idt[0x21].ist = 2;
    strictly(int_0x21, 0, SS, 0, "non-canonical IST");
    idt[0x21] = saved;
    expect(int_0x21, 0, 0x21, 0, "a good gate");
}

/* A fault while a fault is delivered: EXT is set, and contributory ones make #DF. */
static void double_faults(void)
{
    struct gate64 saved = idt[DE], saved_gp = idt[GP];

    idt[DE].type = 0x0e;
    expect(div_zero, 0, DF, 0, "#DE then #NP is #DF");
    idt[DE] = saved;
    idt[UD].type = 0x0e;
    expect(ud2, 0, NP, UD * 8 + 3, "#UD then #NP is #NP with EXT");
    idt[UD].type = 0x8e;
    idt[GP].sel = 0;
    expect(load_noncanonical, 0, DF, 0, "#GP then #GP is #DF");
    idt[GP] = saved_gp;
    idt[BP].sel = 0x10;
    expect(int3, 0, GP, 0x10, "INT3 then #GP has no EXT");
    idt[BP].sel = RING0_CODE;
}

static void control(void)
{
    strictly(cr0_pg_off_pe, 0, GP, 0, "CR0.PG without PE");
    strictly(cr0_nw, 0, GP, 0, "CR0.NW without CD");
    strictly(cr0_high, 0, GP, 0, "CR0 bit 32");
    strictly(cr0_pg_off, 0, GP, 0, "CR0.PG off in 64-bit mode");
    strictly(cr4_pae_off, 0, GP, 0, "CR4.PAE off in long mode");
    strictly(cr4_reserved, 0, GP, 0, "CR4 bit 15");
    strictly(cr3_high, 0, GP, 0, "CR3 bit 60");
    strictly(cr8_big, 0, GP, 0, "CR8 above 15");
    strictly(dr7_high, 0, GP, 0, "DR7 bit 32");
    strictly(wr_msr, 0xc0000082, GP, 0, "LSTAR not canonical");
    strictly(wr_msr, 0xc0000080, GP, 0, "EFER reserved bits");
    strictly(wr_msr, 0x1b, GP, 0, "APIC base beyond memory");
    strictly(rd_msr, 0xdeadbeef, GP, 0, "unknown MSR");
    wrmsr(0x174, 0);
    strictly(sysexit_null, 0, GP, 0, "SYSEXIT without a code segment");
}

static void float_traps(void)
{
    uintptr_t cr0 = read_cr0(), cr4 = read_cr4();

    write_cr0(cr0 | 8);
    expect(fninit_fp, 0, NM, 0, "x87 with CR0.TS");
    expect(sse_op, 0, NM, 0, "SSE with CR0.TS");
    expect(fwait_op, 0, -1, 0, "FWAIT with TS, without MP");
    write_cr0(cr0 | 10);
    expect(fwait_op, 0, NM, 0, "FWAIT with TS and MP");
    write_cr0(cr0 | 4);
    expect(fninit_fp, 0, NM, 0, "x87 with CR0.EM");
    expect(sse_op, 0, UD, 0, "SSE with CR0.EM");
    write_cr0(cr0);
    write_cr4(cr4 & ~0x200ul);
    expect(sse_op, 0, UD, 0, "SSE without CR4.OSFXSR");
    write_cr4(cr4);
    expect(x87_unmasked, 0, MF, 0, "x87 division by zero");
    __asm__ volatile("fnclex; fninit");
    strictly(sse_unmasked, 0, XM, 0, "SSE division by zero");
    write_cr4(cr4 & ~0x400ul);
    strictly(sse_unmasked, 0, UD, 0, "SSE division by zero without OSXMMEXCPT");
    write_cr4(cr4);
}

/* ---- ring 3 ---- */
#define USER(name, text)                                                                           \
    __attribute__((naked, section(".user"), aligned(16))) static void name(void)                   \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }

USER(user_hlt, "hlt; int $0x80")
USER(user_cli, "cli; int $0x80")
USER(user_in, "in $0x71, %al; int $0x80")
USER(user_cr0, "mov %cr0, %rax; int $0x80")
USER(user_msr, "rdmsr; int $0x80")
USER(user_swapgs, "swapgs; int $0x80")
USER(user_lidt, "lidt (%rsp); int $0x80")
USER(user_int21, "int $0x21; int $0x80")
USER(user_kernel_load, "mov 0x100000, %eax; int $0x80")
USER(user_unaligned, "pushfq; orl $0x40000, (%rsp); popfq; mov -7(%rsp), %eax; int $0x80")
USER(user_aligned, "pushfq; orl $0x40000, (%rsp); popfq; mov -8(%rsp), %eax; int $0x80")
USER(user_clts, "clts; int $0x80")
USER(user_invlpg, "invlpg (%rsp); int $0x80")
USER(user_popf, "pushfq; orl $0x3200, (%rsp); popfq; pushfq; pop %rax; int $0x80")
USER(user_sysret, "sysretq; int $0x80")
USER(user_iret, "push $0x23; push %rsp; pushfq; push $0x8; push $0; iretq")

static void expect_user(void (*fn)(void), int vector, uint64_t code, const char *name)
{
    int got = user_call((void *)fn);

    ok(got == vector && trap.code == code, "user: %s", name);
    if (got != vector || trap.code != code)
        print("# got vector %d code %x\n", got, (unsigned)trap.code);
}

static void user(void)
{
    uint32_t id[4];

    boot_user_pages();
    expect_user(user_hlt, GP, 0, "HLT");
    ok(trap.cs == USER_CODE64 && trap.ss == USER_DATA, "user: CS and SS are pushed");
    expect_user(user_cli, GP, 0, "CLI");
    expect_user(user_in, GP, 0, "IN beyond the TSS's bitmap");
    expect_user(user_cr0, GP, 0, "MOV from CR0");
    expect_user(user_msr, GP, 0, "RDMSR");
    expect_user(user_swapgs, GP, 0, "SWAPGS");
    expect_user(user_lidt, GP, 0, "LIDT");
    expect_user(user_clts, GP, 0, "CLTS");
    expect_user(user_invlpg, GP, 0, "INVLPG");
    expect_user(user_sysret, GP, 0, "SYSRET");
    expect_user(user_int21, GP, 0x21 * 8 + 2, "INT with a gate of DPL 0");
    expect_user(user_kernel_load, PF, 5, "load from a supervisor page");
    expect_user(user_iret, GP, 8, "IRET to ring 0");
    expect_user(user_popf, 0x80, 0, "POPF");
    ok(!(trap.rax & 0x3200), "user: POPF changes neither IF nor IOPL");
    write_cr0(read_cr0() | 0x40000);
    if (user_call((void *)user_unaligned) == 0x80)
        todo("user: unaligned with AC", "no #AC yet");
    else
        expect_user(user_unaligned, AC, 0, "unaligned with AC");
    expect_user(user_aligned, 0x80, 0, "aligned with AC");
    write_cr0(read_cr0() & ~0x40000ul);
    expect_user(user_unaligned, 0x80, 0, "unaligned with AC but not CR0.AM");
    cpuid(7, 0, id);
    (void)id;
}

int main(void)
{
    tables_load();
    trap_call(aam_free, 0);
    arithmetic();
    undefined();
    addresses();
    selectors();
    gates();
    double_faults();
    control();
    float_traps();
    user();
    return done();
}
