/* SPDX-License-Identifier: MIT */
/* Changing privilege and mode under a 64-bit kernel: gates, IST, stacks, IRET, SYSCALL, SYSENTER,
 * call gates, compatibility mode, FS and GS bases. */
#include "lib64.h"

#define USER(name, text)                                                                           \
    __attribute__((naked, section(".user"), aligned(16))) static void name(void)                   \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }
#define KERNEL(name, text)                                                                         \
    __attribute__((naked)) static void name(uint64_t arg)                                          \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }

extern char image_start[];
uint64_t saved[16];
uint64_t user_word __attribute__((section(".userdata"))) = 1;

/* ---- interrupts from ring 0 and ring 3 ---- */
KERNEL(int80, "int $0x80; ret")
KERNEL(
    int80_skewed,
    "mov %rsp, %rbp; sub $24, %rsp; and $~15, %rsp; sub $8, %rsp; mov %rsp, saved(%rip); int $0x80")
USER(user_int80, "int $0x80")
USER(user_marks, "mov $0x1234, %ebx; mov $0x5678, %r15d; stc; int $0x80")

static void stacks(void)
{
    ok(trap_call(int80, 0) == 0x80 && trap.ss == RING0_DATA && trap.cs == RING0_CODE,
       "INT in ring 0 pushes SS too");
    trap_call(int80_skewed, 0);
    is(trap.rsp, saved[0], "the frame holds the old RSP");
    is(trap_at, saved[0] & ~15ull, "and starts at a multiple of 16");
    gate_set(0x80, trap_stubs + 0x80 * 16, RING0_CODE, 14, 3, 1);
    trap_call(int80, 0);
    is(trap_at, (uint64_t)ist_stack + sizeof ist_stack, "IST 1 in ring 0");
    user_call((void *)user_int80);
    is(trap_at, (uint64_t)ist_stack + sizeof ist_stack, "IST 1 from ring 3");
    gate_set(0x80, trap_stubs + 0x80 * 16, RING0_CODE, 14, 3, 0);
    user_call((void *)user_int80);
    is(trap_at, (uint64_t)rsp0_stack + sizeof rsp0_stack, "RSP0 from ring 3");
    ok(trap.cs == USER_CODE64 && trap.ss == USER_DATA, "ring 3's selectors");
    is(trap.rsp, (uint64_t)user_stack + sizeof user_stack, "ring 3's RSP");
    user_call((void *)user_marks);
    ok(trap.rbx == 0x1234 && trap.r15 == 0x5678 && (trap.rflags & 1),
       "registers and flags of ring 3");
}

static uint64_t seen_flags, seen_ss;
static bool note_state(struct frame *f)
{
    uint16_t ss;

    __asm__ volatile("mov %%ss, %0" : "=r"(ss));
    seen_ss = ss;
    seen_flags = flags();
    return false;
}

static void handler_state(void)
{
    trap_hook = note_state;
    user_call((void *)user_int80);
    is(seen_ss, 0, "SS is null in the handler after a change of ring");
    ok(!(seen_flags & 0x200), "interrupt gate clears IF");
    gate_set(0x80, trap_stubs + 0x80 * 16, RING0_CODE, 15, 3, 0);
    __asm__ volatile("cli");
    trap_call(int80, 0);
    is(seen_ss, RING0_DATA, "SS stays in ring 0");
    gate_set(0x80, trap_stubs + 0x80 * 16, RING0_CODE, 14, 3, 0);
    trap_hook = NULL;
}

/* ---- IRET ---- */
static void iret_to(uint64_t cs)
{
    user_enter((uint64_t)user_int80, (uint64_t)user_stack + sizeof user_stack, 2, cs, USER_DATA);
}

static void iret_ss(uint64_t ss)
{
    user_enter((uint64_t)user_int80, (uint64_t)user_stack + sizeof user_stack, 2, USER_CODE64, ss);
}

static void iret_rip(uint64_t rip)
{
    user_enter(rip, (uint64_t)user_stack + sizeof user_stack, 2, USER_CODE64, USER_DATA);
}

static void iret_nt(uint64_t arg)
{
    __asm__ volatile("pushfq; orq $0x4000, (%rsp); popfq; iretq");
}

static void iret_flags(uint64_t f)
{
    user_enter((uint64_t)user_int80, (uint64_t)user_stack + sizeof user_stack, f, USER_CODE64,
               USER_DATA);
}

static void iret(void)
{
    ok(trap_call(iret_to, USER_CODE64) == 0x80, "IRETQ to ring 3");
    ok(trap_call(iret_to, 0x28) == GP && trap.code == 0x28, "IRETQ with RPL below DPL");
    ok(trap_call(iret_to, USER_DATA) == GP && trap.code == 0x20, "IRETQ to data");
    ok(trap_call(iret_to, 0x1000) == GP && trap.code == 0x1000, "IRETQ beyond the GDT");
    ok(trap_call(iret_ss, 0) == GP && trap.code == 0, "IRETQ with a null SS to ring 3");
    ok(trap_call(iret_ss, 0x10) == GP && trap.code == 0x10, "IRETQ with ring 0's SS to ring 3");
    if (tcg()) {
        skip("IRETQ to a non-canonical RIP", "TCG");
        skip("and the fault is in ring 0", "TCG");
    } else {
        ok(trap_call(iret_rip, 0x800000000000) == GP && trap.code == 0,
           "IRETQ to a non-canonical RIP");
        is(trap.cs, RING0_CODE, "and the fault is in ring 0");
    }
    ok(trap_call(iret_nt, 0) == GP && trap.code == 0, "IRETQ with NT");
    trap_call(iret_flags, 0x3202 | 0x240cd5);
    is(trap.rflags & 0x277fd7, 0x3202 | 0x240cd5, "IRETQ loads IF, IOPL, AC, ID and the rest");
}

/* ---- SYSCALL and SYSRET ---- */
__attribute__((naked)) static void syscall_entry(void)
{
    __asm__ volatile("mov %rcx, saved(%rip); mov %r11, saved+8(%rip); mov %rsp, saved+16(%rip)\n"
                     "pushfq; popq saved+24(%rip)\n"
                     "mov %cs, saved+32(%rip); mov %ss, saved+40(%rip); int $0x81");
}
/* Goes back at once. */
__attribute__((naked)) static void syscall_back(void)
{
    __asm__ volatile("sysretq");
}
USER(user_syscall, "stc; std; syscall; int $0x80")
USER(user_syscall_twice, "mov $7, %ebx; syscall; mov $8, %ebx; int $0x80")

static void sysret_to(uint64_t rip)
{
    __asm__ volatile("mov %%rsp, saved(%%rip); mov %0, %%rcx; mov $2, %%r11d; sysretq"
                     :
                     : "r"(rip)
                     : "rcx", "r11");
}

/* 32-bit user code: mov $0x11, %eax; int $0x80 */
__attribute__((section(".userdata"), aligned(16))) static uint8_t user_code32[] = {
    0xb8, 0x11, 0, 0, 0, 0xcd, 0x80};

static void sysret32_to(uint64_t rip)
{
    __asm__ volatile("mov %0, %%rcx; mov $2, %%r11d; sysretl" : : "r"(rip) : "rcx", "r11");
}

static void syscalls(void)
{
    wrmsr(0xc0000081, 0x0018000800000000 | 0x0013ull << 48);
    wrmsr(0xc0000081, (uint64_t)0x1b << 48 | (uint64_t)0x08 << 32);
    wrmsr(0xc0000082, (uint64_t)syscall_entry);
    wrmsr(0xc0000084, 0x400);
    is((uint64_t)user_call((void *)user_syscall), 0x81, "SYSCALL enters LSTAR");
    is(saved[0], (uint64_t)user_syscall + 4, "RCX is the next RIP");
    ok((saved[1] & 0x401) == 0x401, "R11 holds RFLAGS");
    ok((saved[3] & 0x401) == 1, "FMASK clears DF and leaves CF");
    is(saved[2], (uint64_t)user_stack + sizeof user_stack, "RSP stays");
    ok((uint16_t)saved[4] == 0x08 && (uint16_t)saved[5] == 0x10, "CS and SS of SYSCALL");
    wrmsr(0xc0000082, (uint64_t)syscall_back);
    ok(user_call((void *)user_syscall_twice) == 0x80 && trap.rbx == 8, "SYSRETQ comes back");
    ok(trap.cs == USER_CODE64 && trap.ss == USER_DATA, "CS and SS of SYSRETQ");
    if (tcg())
        skip("SYSRETQ to a non-canonical RIP faults in ring 0", "TCG");
    else
        ok(trap_call(sysret_to, 0x800000000000) == GP && trap.cs == RING0_CODE,
           "SYSRETQ to a non-canonical RIP faults in ring 0");
    ok(trap_call(sysret32_to, (uint64_t)user_code32) == 0x80 && trap.cs == USER_CODE32 &&
           trap.rax == 0x11,
       "SYSRETL enters compatibility mode");
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
    ok(user_call((void *)user_syscall) == UD, "SYSCALL without EFER.SCE");
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

/* ---- SYSENTER and SYSEXIT ---- */
__attribute__((naked)) static void sysenter_entry(void)
{
    __asm__ volatile(
        "mov %rsp, saved(%rip); mov %cs, saved+8(%rip); mov %ss, saved+16(%rip); int $0x81");
}
USER(user_sysenter, "sysenter; int $0x80")

static void sysexit64(uint64_t rip)
{
    __asm__ volatile("mov %0, %%rdx; mov %1, %%rcx; .byte 0x48, 0x0f, 0x35" /* SYSEXIT with REX.W */
                     :
                     : "r"(rip), "r"(user_stack + 512)
                     : "rcx", "rdx");
}

static void sysenters(void)
{
    wrmsr(0x174, 0);
    ok(user_call((void *)user_sysenter) == GP, "SYSENTER without a CS");
    wrmsr(0x174, 8);
    wrmsr(0x175, (uint64_t)rsp0_stack + 1024);
    wrmsr(0x176, (uint64_t)sysenter_entry);
    is((uint64_t)user_call((void *)user_sysenter), 0x81, "SYSENTER enters its MSR's RIP");
    is(saved[0], (uint64_t)rsp0_stack + 1024, "with its RSP");
    ok((uint16_t)saved[1] == 8 && (uint16_t)saved[2] == 0x10, "CS and SS of SYSENTER");
    ok(trap_call(sysexit64, (uint64_t)user_int80) == 0x80, "SYSEXIT, 64 bits");
    ok(trap.cs == 0x2b && trap.ss == 0x33, "CS and SS of SYSEXIT");
    is(trap.rsp, (uint64_t)user_stack + 512, "RSP of SYSEXIT");
}

/* ---- call gates ---- */
__attribute__((naked)) static void gate_target(void)
{
    __asm__ volatile(
        "mov %rsp, saved(%rip); mov %cs, saved+8(%rip); mov %ss, saved+16(%rip)\n"
        "mov (%rsp), %rax; mov %rax, saved+24(%rip); mov 8(%rsp), %rax; mov %rax, saved+32(%rip)\n"
        "mov 16(%rsp), %rax; mov %rax, saved+40(%rip); mov 24(%rsp), %rax; mov %rax, "
        "saved+48(%rip)\n"
        "lretq");
}
__attribute__((section(".userdata"))) static struct {
    uint32_t offset;
    uint16_t sel;
} __attribute__((packed)) far_pointer = {0, 0x4b};
USER(user_gate, "lcall *far_word(%rip); mov $3, %ebx; int $0x80")
__asm__(".pushsection .userdata, \"aw\"; far_word: .long 0; .word 0x4b; .popsection");

static void set_call_gate(unsigned type, unsigned dpl)
{
    uint64_t at = (uint64_t)gate_target;

    gdt[9] = (at & 0xffff) | 8ull << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 |
             (at >> 16 & 0xffff) << 48;
    gdt[10] = at >> 32;
}

static void call_gates(void)
{
    (void)far_pointer;
    set_call_gate(12, 3);
    ok(user_call((void *)user_gate) == 0x80 && trap.rbx == 3, "call gate to ring 0 and RETF back");
    is(saved[0], (uint64_t)rsp0_stack + sizeof rsp0_stack - 32, "four words on RSP0's stack");
    ok((uint16_t)saved[1] == 8 && (uint16_t)saved[2] == 0, "CS is the gate's, SS null");
    is(saved[3], (uint64_t)user_gate + 6, "return RIP");
    is(saved[4], USER_CODE64, "return CS");
    is(saved[5], (uint64_t)user_stack + sizeof user_stack, "return RSP");
    is(saved[6], USER_DATA, "return SS");
    set_call_gate(12, 0);
    ok(user_call((void *)user_gate) == GP && trap.code == 0x48, "call gate of DPL 0");
    set_call_gate(4, 3);
    ok(user_call((void *)user_gate) == GP && trap.code == 0x48, "16-bit call gate in long mode");
    set_call_gate(12, 3);
    gdt[9] &= ~(0x80ull << 40);
    ok(user_call((void *)user_gate) == NP && trap.code == 0x48, "call gate not present");
    gdt[9] = gdt[10] = 0;
}

/* ---- compatibility mode ---- */
/* mov %esp, %eax; inc %eax (40); push %es; pop %es; int 0x80 */
__attribute__((section(".userdata"), aligned(16))) static uint8_t compat[] = {
    0xb8, 0xff, 0xff, 0xff, 0xff, 0x40, 0x40, 0x06, 0x07, 0xcd, 0x80};
__attribute__((section(".userdata"), aligned(16))) static uint8_t compat_syscall[] = {0x0f, 0x05,
                                                                                      0xcd, 0x80};
/* mov 0xfffffffc + 8 wraps: mov $-4, %ebx; lea 8(%ebx), %ecx; int 0x80 */
__attribute__((section(".userdata"), aligned(16))) static uint8_t compat_wrap[] = {
    0xbb, 0xfc, 0xff, 0xff, 0xff, 0x8d, 0x4b, 0x08, 0xcd, 0x80};
static void enter32(uint64_t at)
{
    user_enter(at, (uint64_t)user_stack + 4096, 2, USER_CODE32, USER_DATA);
}

static void compatibility(void)
{
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
    ok(trap_call(enter32, (uint64_t)compat) == 0x80 && trap.rax == 1,
       "INC and PUSH ES are there in compatibility mode");
    is(trap.cs, USER_CODE32, "its CS");
    ok(tcg() || trap_call(enter32, (uint64_t)compat_syscall) == UD,
       "SYSCALL is #UD there, as on Intel");
    ok(trap_call(enter32, (uint64_t)compat_wrap) == 0x80 && trap.rcx == 4,
       "addresses wrap at 4 GiB");
}

/* ---- FS and GS ---- */
KERNEL(read_gs, "mov %gs:0, %rax; mov %rax, saved(%rip); ret")
KERNEL(swap, "swapgs; ret")

static void bases(void)
{
    static uint64_t a = 0xaaaa, b = 0xbbbb;
    uint64_t got;

    wrmsr(0xc0000101, (uint64_t)&a);
    wrmsr(0xc0000102, (uint64_t)&b);
    trap_call(read_gs, 0);
    is(saved[0], 0xaaaa, "GS base by MSR");
    trap_call(swap, 0);
    trap_call(read_gs, 0);
    is(saved[0], 0xbbbb, "SWAPGS");
    is(rdmsr(0xc0000102), (uint64_t)&a, "and the other way round");
    write_cr4(read_cr4() | 0x10000);
    __asm__ volatile("wrgsbase %0" : : "r"(&a));
    trap_call(read_gs, 0);
    is(saved[0], 0xaaaa, "WRGSBASE");
    __asm__ volatile("rdgsbase %0" : "=r"(got));
    is(got, (uint64_t)&a, "RDGSBASE");
    __asm__ volatile("wrfsbase %1; rdfsbase %0" : "=r"(got) : "r"(0x123456789abull));
    is(got, 0x123456789ab, "WRFSBASE and RDFSBASE");
    __asm__ volatile("mov %w0, %%fs" : : "r"(0x10));
    is(rdmsr(0xc0000100), 0, "a load of FS takes the descriptor's base");
}

/* ---- selectors by question ---- */
static void questions(void)
{
    uint64_t access = 0, limit = 0;
    bool z;

    __asm__ volatile("lar %2, %0" : "=r"(access), "=@ccz"(z) : "r"((uint64_t)8));
    ok(z && (access & 0xf0ff00) == 0xa09b00, "LAR of 64-bit code");
    __asm__ volatile("lsl %2, %0" : "=r"(limit), "=@ccz"(z) : "r"((uint64_t)8));
    ok(z && limit == 0xffffffff, "LSL with granularity");
    __asm__ volatile("lsl %2, %0" : "=r"(limit), "=@ccz"(z) : "r"((uint64_t)0x38));
    ok(z && limit == sizeof tss - 1, "LSL of the TSS");
    __asm__ volatile("lar %1, %%rax" : "=@ccz"(z) : "r"((uint64_t)0xfff8) : "rax");
    ok(!z, "LAR beyond the GDT");
    __asm__ volatile("verw %w1" : "=@ccz"(z) : "r"(8));
    ok(!z, "VERW of code");
    __asm__ volatile("verw %w1" : "=@ccz"(z) : "r"(0x10));
    ok(z, "VERW of data");
    __asm__ volatile("verr %w1" : "=@ccz"(z) : "r"(8));
    ok(z, "VERR of readable code");
}

int main(void)
{
    tables_load();
    boot_user_pages();
    stacks();
    handler_state();
    iret();
    syscalls();
    sysenters();
    call_gates();
    compatibility();
    bases();
    questions();
    return done();
}
