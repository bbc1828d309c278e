/* SPDX-License-Identifier: MIT */
/* Faults of 64-bit mode that need a set-up, paging, system calls, debug registers, MSRs. */
#include "long.h"

#define AT ((volatile uint64_t *)0x6800)

enum { P = 1, W = 2, U = 4, PS = 0x80, G = 0x100 };
#define NX (1ull << 63)

static uint64_t *small_pages(void) /* of the first 2 MiB */
{
    return (uint64_t *)(boot_pd[0] & ~0xfffull);
}

/* ---- faults in ring 0, each a function ---- */

#define ASM_FAULT(name, text)                                                                      \
    static void name(uint64_t arg)                                                                 \
    {                                                                                              \
        __asm__ volatile(text : : "D"(arg) : "rax", "rcx", "rdx", "memory", "cc");                 \
    }
ASM_FAULT(gp_selector, "movl $0x7f8, %%eax; movw %%ax, %%es")
ASM_FAULT(np_segment, "movl $0x58, %%eax; movw %%ax, %%es")
ASM_FAULT(ss_segment, "movl $0x58, %%eax; movw %%ax, %%ss")
ASM_FAULT(gp_wrmsr, "movl $0xc0000080, %%ecx; rdmsr; orl $0x2, %%edx; wrmsr")
ASM_FAULT(gp_rdmsr, "movl $0x12345, %%ecx; rdmsr")
ASM_FAULT(gp_cr4, "movq %%cr4, %%rax; btsq $40, %%rax; movq %%rax, %%cr4")
ASM_FAULT(gp_cr0, "movq %%cr0, %%rax; andq $~1, %%rax; movq %%rax, %%cr0")
ASM_FAULT(gp_int, "int $0x70") /* its gate is made not present */
ASM_FAULT(nm, "movq %%cr0, %%rax; orq $8, %%rax; movq %%rax, %%cr0; fninit; nop")
ASM_FAULT(pf_read, "movq (%%rdi), %%rax")
ASM_FAULT(pf_write, "movq %%rax, (%%rdi)")
ASM_FAULT(pf_rmw, "lock; incl (%%rdi)")
ASM_FAULT(pf_jump, "call *%%rdi")
ASM_FAULT(pf_string, "movl $0x6800, %%esi; movl $64, %%ecx; cld; rep; movsb")
ASM_FAULT(df_stack, "movq %%rdi, %%rsp; pushq %%rax")
ASM_FAULT(bp_debug, "movl $1, %%eax; incl %%eax; incl %%eax")

static void fault(uintptr_t fn)
{
    long_set_up();
    gdt[11] = 0x00cf13000000ffff; /* 58: data, not present */
    idt[0x70].type = 0x0e;
    small_pages()[0x80] = 0;                    /* 80000: not there */
    small_pages()[0x81] = 0x81000 | P;          /* read only */
    small_pages()[0x82] = 0x82000 | P | W | NX; /* no code */
    gate_set(DF, trap_stubs + DF * 16, RING0_CODE, 14, 0, 1);
    write_cr3(read_cr3());
    note_trap(trap_call((trap_fn *)fn, 0x80ff8));
    write_cr0(read_cr0() & ~8ull);
    note(read_cr2());
}

static void fault_at(uintptr_t which)
{
    static const struct {
        trap_fn *fn;
        uint64_t at;
    } t[] = {{pf_read, 0x80010},      {pf_write, 0x81010},
             {pf_rmw, 0x81020},       {pf_jump, 0x82000},
             {pf_jump, 0x80000},      {pf_string, 0x80fe0},
             {pf_write, 0x80ffc},     {pf_read, 0xffff800000001000},
             {pf_read, 0x4000000000}, {pf_string, 0x80fe0 - 0x1000}};

    long_set_up();
    small_pages()[0x80] = 0;
    small_pages()[0x81] = 0x81000 | P;
    small_pages()[0x82] = 0x82000 | P | W | NX;
    write_cr3(read_cr3());
    note_trap(trap_call(t[which].fn, t[which].at));
    note(read_cr2());
}

/* The first fault is handled, and the instruction runs again. */
static bool map_and_retry(struct frame *f)
{
    if (f->vector != PF)
        return false;
    note(f->code);
    note(read_cr2());
    small_pages()[read_cr2() >> 12 & 511] = (read_cr2() & ~0xfffull) | P | W;
    return true;
}

static void demand_paging(uintptr_t unused)
{
    long_set_up();
    for (unsigned i = 0x80; i < 0x90; i++)
        small_pages()[i] = 0;
    write_cr3(read_cr3());
    trap_hook = map_and_retry;
    for (uint64_t at = 0x80ffc; at < 0x8f000; at += 0x1ff8)
        *(volatile uint64_t *)at = at * 0x9e3779b97f4a7c15;
    for (unsigned i = 0x80; i < 0x90; i++) /* accessed and dirty bits */
        note(small_pages()[i]);
}

static void dirty_bits(uintptr_t unused)
{
    long_set_up();
    for (unsigned i = 0x80; i < 0x84; i++)
        small_pages()[i] = (uint64_t)i << 12 | P | W;
    write_cr3(read_cr3());
    (void)*(volatile uint32_t *)0x80000;
    *(volatile uint32_t *)0x81000 = 1;
    (void)*(volatile uint32_t *)0x82000;
    *(volatile uint32_t *)0x82000 = 2;
    for (unsigned i = 0x80; i < 0x84; i++)
        note(small_pages()[i]);
}

static void remap(uintptr_t global)
{
    long_set_up();
    write_cr4(read_cr4() | 0x80);
    *(volatile uint32_t *)0x80000 = 80;
    *(volatile uint32_t *)0x81000 = 81;
    small_pages()[0x90] = 0x80000 | P | W | (global ? G : 0);
    invlpg(0x90000);
    note(*(volatile uint32_t *)0x90000);
    small_pages()[0x90] = 0x81000 | P | W | (global ? G : 0);
    if (!global)
        write_cr3(read_cr3());
    else
        write_cr4(read_cr4() & ~0x80ull);
    note(*(volatile uint32_t *)0x90000);
}

static void sizes(uintptr_t unused) /* the same frame through 4K, 2M and 1G pages */
{
    long_set_up();
    boot_pdpt[100] = 0 | P | W | PS;
    *(volatile uint32_t *)0x300000 = 0x2222;
    note(*(volatile uint32_t *)(100ull << 30 | 0x300000));
    *(volatile uint32_t *)(100ull << 30 | 0x300000) = 0x3333;
    note(*(volatile uint32_t *)0x300000);
    boot_pml4[3] = boot_pml4[0];
    note(*(volatile uint32_t *)(3ull << 39 | 100ull << 30 | 0x300000));
    note(boot_pdpt[100]);
}

/* ---- system calls and ways between rings ---- */

__asm__(
    ".pushsection .user, \"ax\"\n"
    "u_syscall: movl $0x1234, %eax; syscall; movq %rcx, %rbx; int $0x80\n"
    "u_int: movl $5, %eax; int $0x81; int $0x80\n"
    "u_cli: cli; int $0x80\n"
    "u_hlt: hlt; int $0x80\n"
    "u_in: inb $0x70, %al; int $0x80\n"
    "u_kernel: movl $0x100000, %eax; movl (%rax), %eax; int $0x80\n"
    "u_ac: pushfq; orl $0x40000, (%rsp); popfq; movl $0x6801, %eax; movl (%rax), %eax; int $0x80\n"
    "u_rdmsr: movl $0x10, %ecx; rdmsr; int $0x80\n"
    "u_far: lcall *u_target; int $0x80\n"
    "u_target: .long 0; .word 0x5b\n"
    "u_swapgs: swapgs; int $0x80\n"
    ".popsection\n"
    ".text\nsyscall_entry: incq syscalls(%rip); movq %rsp, %rdx; sysretq\n"
    "gate_entry: movq %rsp, gate_rsp(%rip); lretq\n"
    ".data\nsyscalls: .quad 0\ngate_rsp: .quad 0\n.text\n");
extern char u_syscall[], u_int[], u_cli[], u_hlt[], u_in[], u_kernel[], u_ac[], u_rdmsr[], u_far[],
    u_swapgs[], syscall_entry[], gate_entry[];

static bool count_int(struct frame *f)
{
    if (f->vector != 0x81)
        return false;
    note(f->rax);
    f->rbx = 77;
    return true;
}

static void from_user(uintptr_t code)
{
    uint64_t gate = (uint64_t)gate_entry;

    long_set_up();
    wrmsr(0xc0000081, 0x0018000800000000); /* STAR: user from 0x18, kernel 8 */
    wrmsr(0xc0000082, (uint64_t)syscall_entry);
    wrmsr(0xc0000084, 0x200);
    wrmsr(0xc0000102, 0x0000112233445566);
    gdt[11] = (gate & 0xffff) | 0x0008ull << 16 | 0xecull << 40 | (gate >> 16 & 0xffff) << 48;
    gdt[12] = gate >> 32; /* 58: call gate, DPL 3 */
    gate_set(0x81, trap_stubs + 0x81 * 16, RING0_CODE, 14, 3, 0);
    trap_hook = count_int;
    write_cr0(read_cr0() | 0x40000);
    note_trap(user_call((void *)code));
    note(trap.rax);
    note(trap.rbx);
    write_cr0(read_cr0() & ~0x40000ull);
}

/* ---- debug registers, MSRs, extended state ---- */

static bool count_debug(struct frame *f)
{
    if (f->vector != DB)
        return false;
    note(f->rip);
    note(read_dr6());
    write_dr6(0);
    f->rflags |= 0x10000;
    return true;
}

static void breakpoints(uintptr_t kind) /* 0: code, 1: write, 3: access, 4: single steps */
{
    long_set_up();
    trap_hook = count_debug;
    if (kind == 0) {
        write_dr0((uintptr_t)bp_debug);
        write_dr7(0x402);
        bp_debug(0);
    } else if (kind < 4) {
        write_dr1((uintptr_t)AT);
        write_dr7(0x408 | kind << 20 | 3 << 22);
        AT[0] = 1;
        note(AT[0]);
        AT[1] = 2;
        ((volatile uint32_t *)AT)[1] = 3;
    } else {
        __asm__ volatile(
            "pushfq; orl $0x100, (%%rsp); popfq; incl %%eax; cpuid; incl %%eax; pushfq; "
            "andl $~0x100, (%%rsp); popfq"
            :
            : "a"(0)
            : "rbx", "rcx", "rdx", "memory", "cc");
    }
    write_dr7(0x400);
    note(read_dr7());
}

static void msrs(uintptr_t unused)
{
    static const uint32_t keep[] = {0x174,      0x175,      0x176,      0x277,
                                    0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
                                    0xc0000100, 0xc0000101, 0xc0000102};

    long_set_up();
    note(rdmsr(0xc0000080));
    note(rdmsr(0x1b));
    note(rdmsr(0xfe));
    note(rdmsr(0x2ff));
    for (unsigned i = 0; i < ARRAY_SIZE(keep); i++) {
        uint64_t v = keep[i] == 0x277 ? 0x0007040600070406 : 0x7ff000 + i;

        wrmsr(keep[i], v);
        note(rdmsr(keep[i]));
    }
}

static void fx_state(uintptr_t unused)
{
    static uint8_t area[512] __attribute__((aligned(16)));

    long_set_up();
    for (unsigned i = 0; i < 256; i++)
        area[160 + i] = (uint8_t)(i * 7 + 1);
    area[0] = 0x7f, area[1] = 3, area[24] = 0x80, area[25] = 0x1f;
    __asm__ volatile("fxrstor %0; paddb %%xmm3, %%xmm15; fxsave %0" : "+m"(area));
}

static void segments(uintptr_t unused)
{
    uint32_t v;

    long_set_up();
    gdt[11] = 0x00cff2123456ffff; /* base in a data segment: ignored but for FS, GS */
    gdt[12] = 0x00409200f00000ff;
    __asm__ volatile("movw %w0, %%ds; movw %w0, %%es; movw %w1, %%fs; movw %w0, %%gs"
                     :
                     : "r"(0x5b), "r"(0x60));
    __asm__ volatile("lsl %1, %0" : "=r"(v) : "r"(0x5b));
    note(v);
    __asm__ volatile("lar %1, %0" : "=r"(v) : "r"(0x60));
    note(v);
    wrmsr(0xc0000100, 0x6000);
    __asm__ volatile("movl %%fs:0x800, %0" : "=r"(v));
    note(v);
    __asm__ volatile("sldt %0" : "=r"(v));
    note(v);
    __asm__ volatile("str %0" : "=r"(v));
    note(v);
}

static void self_modifying(uintptr_t unused)
{
    static uint8_t code[64] __attribute__((aligned(4096)));
    uint32_t v = 0;

    long_set_up();
    for (unsigned i = 0; i < 200; i++) {
        code[0] = 0xb8; /* mov $i, %eax; ret */
        *(volatile uint32_t *)(code + 1) = i * i;
        code[5] = 0xc3;
        v = v * 31 + ((uint32_t(*)(void))(uintptr_t)code)();
    }
    note(v);
}

static void mmio(uintptr_t unused) /* sizes and kinds of access to devices */
{
    volatile uint32_t *hpet = (void *)0xfed00000, *ioapic = (void *)0xfec00000;
    uint32_t v;

    long_set_up();
    note(*(volatile uint64_t *)hpet);
    hpet[0x108 / 4] = 0x1234;
    __asm__ volatile("lock; orl $0x40, %0; xchgl %1, %2"
                     : "+m"(hpet[0x108 / 4]), "=r"(v), "+m"(hpet[0x10c / 4])
                     : "1"(0x55));
    note(*(volatile uint64_t *)(hpet + 0x108 / 4));
    note(*(volatile uint8_t *)((uint8_t *)hpet + 5));
    note(*(volatile uint16_t *)((uint8_t *)hpet + 6));
    ioapic[0] = 1;
    note(ioapic[4]);
    __asm__ volatile("movl $0x6900, %%edi; movl $0xfed00000, %%esi; movl $4, %%ecx; cld; rep; movsl"
                     :
                     :
                     : "rsi", "rdi", "rcx", "memory");
    note(AT[0x20]);
    __asm__ volatile("movl $0xfed00108, %%edi; movl $2, %%ecx; movl $0x777, %%eax; rep; stosl"
                     :
                     :
                     : "rax", "rdi", "rcx", "memory");
    note(*(volatile uint64_t *)(hpet + 0x108 / 4));
    note(*(volatile uint32_t *)0xfea00000); /* nobody answers */
}

/* clang-format off */
#define FAULT(name) {"fault_" #name, fault, (uintptr_t)name},
#define USER(name) {"user_" #name, from_user, (uintptr_t)u_##name},
const struct state_case cases_system[] = {
    FAULT(gp_selector) FAULT(np_segment) FAULT(ss_segment) FAULT(gp_wrmsr) FAULT(gp_rdmsr) FAULT(gp_cr4) FAULT(gp_cr0)
    FAULT(gp_int) FAULT(nm) FAULT(df_stack)
    {"pf_read", fault_at, 0}, {"pf_write", fault_at, 1}, {"pf_rmw", fault_at, 2}, {"pf_nx", fault_at, 3},
    {"pf_fetch", fault_at, 4}, {"pf_movs", fault_at, 5}, {"pf_across", fault_at, 6}, {"gp_high", fault_at, 7},
    {"pf_pdpte", fault_at, 8}, {"pf_movs_over", fault_at, 9},
    {"demand_paging", demand_paging, 0}, {"dirty_bits", dirty_bits, 0}, {"remap", remap, 0}, {"remap_global", remap, 1},
    {"page_sizes", sizes, 0},
    USER(syscall) USER(int) USER(cli) USER(hlt) USER(in) USER(kernel) USER(ac) USER(rdmsr) USER(far) USER(swapgs)
    {"debug_code", breakpoints, 0}, {"debug_write", breakpoints, 1}, {"debug_access", breakpoints, 3},
    {"debug_steps", breakpoints, 4},
    {"msrs", msrs, 0}, {"fx_state", fx_state, 0}, {"segments", segments, 0}, {"self_modifying", self_modifying, 0},
    {"mmio", mmio, 0},
    {0}};
/* clang-format on */
