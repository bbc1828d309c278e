/* SPDX-License-Identifier: MIT */
/* 32-bit protected mode: segment limits and types, gates and rings, task switches, v8086 mode. */
#include "lib32.h"

#define USER(name, text)                                                                           \
    __attribute__((naked)) static void name(void)                                                  \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }

static uint8_t area[8192] __attribute__((aligned(4096)));
uint32_t saved[16];

static void expect(trap_fn *fn, uint32_t arg, int vector, uint32_t code, const char *name)
{
    int got = trap_call(fn, arg);

    ok(got == vector && (got < 0 || trap.code == code), "%s", name);
    if (got != vector || (got >= 0 && trap.code != code))
        print("# got vector %d code %x\n", got, got < 0 ? 0 : trap.code);
}

/* ---- limits and types ---- */
static void fs_load(uint32_t sel)
{
    __asm__ volatile("mov %w0, %%fs" : : "r"(sel) : "memory");
}

static void fs_read1(uint32_t at)
{
    __asm__ volatile("movb %%fs:(%0), %%al" : : "r"(at) : "eax");
}

static void fs_read4(uint32_t at)
{
    __asm__ volatile("movl %%fs:(%0), %%eax" : : "r"(at) : "eax");
}

static void fs_write4(uint32_t at)
{
    __asm__ volatile("movl %0, %%fs:(%0)" : : "r"(at));
}

static void cs_write(uint32_t at)
{
    __asm__ volatile("movl %0, %%cs:(%0)" : : "r"(at));
}

static void limits(void)
{
    gdt[9] = descriptor((uint32_t)area, 0xfff, 0x13, 0, true);
    fs_load(0x48);
    expect(fs_read1, 0xfff, -1, 0, "last byte of a segment");
    expect(fs_read1, 0x1000, GP, 0, "one byte beyond");
    expect(fs_read4, 0xffc, -1, 0, "last dword");
    expect(fs_read4, 0xffd, GP, 0, "a dword over the end");
    expect(fs_read4, 0xfffffffe, GP, 0, "a dword that wraps");
    gdt[9] = descriptor((uint32_t)area - 0x1000, 0xfff, 0x17, 0, true);
    fs_load(0x48);
    expect(fs_read4, 0xffc, GP, 0, "expand-down: below");
    expect(fs_read4, 0xffe, GP, 0, "expand-down: across");
    expect(fs_read4, 0x1000, -1, 0, "expand-down: above");
    gdt[9] = descriptor((uint32_t)area - 0x1000, 0xfff, 0x17, 0, false);
    fs_load(0x48);
    expect(fs_read1, 0x1fff, -1, 0, "expand-down, 16 bits");
    expect(fs_read4, 0xfffe, GP, 0, "expand-down, 16 bits: over 64 KiB");
    gdt[9] = descriptor((uint32_t)area, 0xfff, 0x11, 0, true);
    fs_load(0x48);
    expect(fs_read4, 0, -1, 0, "read-only: read");
    expect(fs_write4, 0, GP, 0, "read-only: write");
    gdt[9] = descriptor((uint32_t)area, 0xfff, 0x19, 0, true);
    expect(fs_load, 0x48, GP, 0x48, "execute-only as data");
    expect(cs_write, (uint32_t)area, GP, 0, "write through CS");
    fs_load(0);
    expect(fs_read1, 0, GP, 0, "through a null selector");
    gdt[9] = descriptor((uint32_t)area, 0xfff, 0x12, 0, true);
    fs_load(0x48);
    ok(gdt[9] >> 40 & 1, "loading sets the accessed bit");
    fs_load(RING0_DATA);
}

/* ---- tasks ---- */
static struct tss32 other __attribute__((aligned(16)));
static uint8_t other_stack[4096] __attribute__((aligned(16)));
static volatile uint32_t task_flags, task_link, task_code, task_runs, task_busy;

/* Entered by CALL, JMP or a task gate; leaves by IRET, and goes round when it is entered again. */
__attribute__((naked)) static void task_body(void)
{
    __asm__ volatile(
        "1: pushfl; popl task_flags; movl %esp, saved; movl (%esp), %eax; movl %eax, task_code\n"
        "movl other, %eax; movl %eax, task_link; incl task_runs\n"
        "movzbl gdt+0x35, %eax; movl %eax, task_busy\n"
        "movl task_pop, %eax; addl %eax, %esp; iretl; jmp 1b");
}
uint32_t task_pop __attribute__((used));

static void task_prepare(void)
{
    memset(&other, 0, sizeof other);
    other.eip = (uint32_t)task_body;
    other.esp = (uint32_t)other_stack + sizeof other_stack;
    other.eflags = 2;
    other.cs = RING0_CODE;
    other.ss = other.ds = other.es = other.fs = other.gs = RING0_DATA;
    other.iomap = sizeof other;
    other.ecx = 0x1234;
    gdt[6] = descriptor((uint32_t)&other, sizeof other - 1, 9, 0, false);
    task_pop = 0;
}

static void call_task(uint32_t sel)
{
    struct {
        uint32_t offset;
        uint16_t sel;
    } __attribute__((packed)) p = {0, (uint16_t)sel};

    __asm__ volatile("lcall *%0" : : "m"(p) : "memory");
}

static void int_21(uint32_t arg)
{
    __asm__ volatile("int $0x21");
}

static void gp_fault(uint32_t arg)
{
    __asm__ volatile("mov %w0, %%fs\n.globl gp_next\ngp_next: nop" : : "r"(0xfff8));
}

static void tasks(void)
{
    task_prepare();
    expect(call_task, 0x30, -1, 0, "CALL to a TSS, and IRET back");
    is(task_runs, 1, "the task ran");
    ok(task_flags & 0x4000, "NT is set in the nested task");
    is(task_link, 0x28, "its back link names the caller");
    ok((task_busy & 15) == 11 && (gdt[5] >> 40 & 15) == 11 && (gdt[6] >> 40 & 15) == 9,
       "busy bits while nested and after");
    ok(read_cr0() & 8, "a task switch sets CR0.TS");
    __asm__ volatile("clts");
    ok(!(flags() & 0x4000), "NT is clear back home");
    gdt[11] = 0x30ull << 16 | 0x85ull << 40; /* 58: task gate */
    expect(call_task, 0x58, -1, 0, "CALL through a task gate");
    is(task_runs, 2, "the task went on behind its IRET");
    idt[0x21] = 0x30ull << 16 | 0xe5ull << 40;
    expect(int_21, 0, -1, 0, "INT through a task gate");
    is(task_runs, 3, "the task ran again");
    task_prepare();
    gdt[6] = descriptor((uint32_t)&other, 0x66, 9, 0, false);
    expect(call_task, 0x30, TS, 0x30, "a TSS too short");
    gdt[6] = descriptor((uint32_t)&other, sizeof other - 1, 11, 0, false);
    expect(call_task, 0x30, GP, 0x30, "a busy TSS");
    gdt[6] = descriptor((uint32_t)&other, sizeof other - 1, 9, 0, false) & ~(0x80ull << 40);
    expect(call_task, 0x30, NP, 0x30, "a TSS not present");
    __asm__ volatile("clts");
}

/* A fault through a task gate pushes its error code on the new task's stack. */
static void skip_fault(void)
{
    extern char gp_next[];

    tss.eip = (uint32_t)gp_next;
}
__attribute__((naked)) static void fault_task(void)
{
    __asm__ volatile("popl task_code; incl task_runs; call *fault_fix; iretl");
}
void (*fault_fix)(void) __attribute__((used)) = skip_fault;

static void fault_gate(void)
{
    uint64_t gate = idt[GP];

    task_prepare();
    other.eip = (uint32_t)fault_task;
    task_runs = 0;
    idt[GP] = 0x30ull << 16 | 0x85ull << 40;
    expect(gp_fault, 0, -1, 0, "#GP through a task gate");
    idt[GP] = gate;
    ok(task_runs == 1 && task_code == 0xfff8, "and its error code");
    __asm__ volatile("clts");
}

/* ---- rings and gates ---- */
USER(user_int80, "mov $0x77, %eax; int $0x80")
USER(user_ds, "mov %ds, %eax; mov %es, %ecx; int $0x80")
USER(user_gate, "push $0x11111111; push $0x22222222; lcall $0x4b, $0; mov %esp, %ebx; int $0x80")
USER(user_gate16, "pushw $0x3333; lcall $0x4b, $0; mov %esp, %ebx; int $0x80")
USER(user_into, "mov $0x7fffffff, %eax; inc %eax; into; int $0x80")
USER(user_bound, "push $20; push $10; mov $5, %eax; bound %eax, (%esp); int $0x80")
USER(user_bound_ok, "push $20; push $10; mov $20, %eax; bound %eax, (%esp); int $0x80")
USER(user_in, "in $0x70, %al; int $0x80")
USER(user_in2, "mov $0x7f, %edx; in %dx, %ax; int $0x80")
USER(user_sgdt, "sub $8, %esp; sgdt (%esp); int $0x80")
USER(user_sti, "sti; int $0x80")
USER(user_arpl, "mov $0x10, %eax; mov $0x23, %ecx; arpl %cx, %ax; int $0x80")

__attribute__((naked)) static void gate32_target(void)
{
    __asm__ volatile(
        "mov %esp, %ss:saved; mov (%esp), %eax; mov %eax, %ss:saved+4; mov 4(%esp), %eax; mov "
        "%eax, %ss:saved+8\n"
        "mov 8(%esp), %eax; mov %eax, %ss:saved+12; mov 12(%esp), %eax; mov %eax, %ss:saved+16\n"
        "mov 16(%esp), %eax; mov %eax, %ss:saved+20; mov 20(%esp), %eax; mov %eax, %ss:saved+24\n"
        "mov %cs, %ss:saved+28; lret $8");
}
__attribute__((naked)) static void gate16_target(void)
{
    __asm__ volatile("mov %esp, %ss:saved; mov (%esp), %eax; mov %eax, %ss:saved+4; mov 4(%esp), "
                     "%eax; mov %eax, %ss:saved+8\n"
                     "mov 8(%esp), %eax; mov %eax, %ss:saved+12; int $0x81");
}

static void rings(void)
{
    uint32_t top = (uint32_t)user_stack + sizeof user_stack, at = (uint32_t)gate32_target;

    ok(user_call((void *)user_int80) == 0x80 && trap.eax == 0x77, "IRET to ring 3 and INT back");
    ok(trap.cs == USER_CODE32 && trap.ss == USER_DATA && trap.esp == top, "CS, SS, ESP of ring 3");
    user_call((void *)user_ds);
    ok((trap.eax & 0xffff) == 0 && (trap.ecx & 0xffff) == 0,
       "ring 0's data segments become null in ring 3");
    gdt[9] = (at & 0xffff) | 8ull << 16 | 2ull << 32 | 0xecull << 40 | (uint64_t)(at >> 16) << 48;
    ok(user_call((void *)user_gate) == 0x80, "call gate with two parameters, RETF 8");
    is(saved[0], (uint32_t)ring0_stack + sizeof ring0_stack - 24, "six dwords on ring 0's stack");
    is(saved[2], USER_CODE32, "return CS");
    ok(saved[3] == 0x22222222 && saved[4] == 0x11111111, "the parameters");
    ok(saved[5] == top - 8 && saved[6] == USER_DATA, "the old stack");
    is(saved[7] & 0xffff, 8, "CS in ring 0");
    is(trap.ebx, top, "RETF 8 releases them on both stacks");
    at = (uint32_t)gate16_target;
    if (at < 0x10000) {
        gdt[9] = (at & 0xffff) | 8ull << 16 | 1ull << 32 | 0xe4ull << 40;
        ok(user_call((void *)user_gate16) == 0x81, "16-bit call gate");
    }
    gdt[9] = 0;
    ok(user_call((void *)user_into) == OF, "INTO");
    ok(user_call((void *)user_bound) == BR, "BOUND below");
    ok(user_call((void *)user_bound_ok) == 0x80, "BOUND at the upper bound");
    ok(user_call((void *)user_in) == GP, "IN without a bitmap");
    tss.iomap = (uint16_t)offsetof(struct tss32, io);
    memset(tss.io, 0xff, sizeof tss.io);
    tss.io[0x70 / 8] = 0xfe;
    ok(user_call((void *)user_in) == 0x80, "IN that the bitmap permits");
    tss.io[0x7f / 8] = 0x7f;
    ok(user_call((void *)user_in2) == GP, "IN of two ports, one not permitted");
    ok(user_call((void *)user_sti) == GP, "STI with IOPL 0");
    ok(user_call((void *)user_arpl) == 0x80 && (trap.eax & 0xffff) == 0x13 && (trap.eflags & 0x40),
       "ARPL raises RPL");
    ok(user_call((void *)user_sgdt) == 0x80 || (read_cr4() & 0x800), "SGDT without UMIP");
    if (trap_call((trap_fn *)write_cr4, read_cr4() | 0x800) == -1) {
        ok(user_call((void *)user_sgdt) == GP, "SGDT with UMIP");
        write_cr4(read_cr4() & ~0x800u);
    } else {
        skip("SGDT with UMIP", "not there");
    }
}

/* ---- v8086 ---- */
#define V86_AT 0x9000

static void v86_put(const uint8_t *code, size_t n)
{
    memcpy((void *)V86_AT, code, n);
}

static void v86_enter(uint32_t eflags)
{
    uint32_t frame[] = {0x4444, 0x3333,           0x2222,      0x1111, 0x900,
                        0x800,  eflags | 0x20002, V86_AT >> 4, 0};

    iret_frame(frame, 9);
}

static void v8086(void)
{
    /* mov $0x5678, %ax; mov %ax, %ds; mov %ds, %bx; int $0x80 */
    static const uint8_t plain[] = {0xb8, 0x78, 0x56, 0x8e, 0xd8, 0x8c, 0xdb, 0xcd, 0x80};
    static const uint8_t cli[] = {0xfa}, pushf[] = {0x9c}, in[] = {0xe4, 0x70}, hlt[] = {0xf4},
                         lldt[] = {0x0f, 0x00, 0xd0};
    /* push $0; popf-like iret frame is privileged too */
    static const uint8_t iret[] = {0xcf};
    /* mov 0xffff, %ax over the end of DS */
    static const uint8_t over[] = {0xa1, 0xff, 0xff};
    static const uint8_t store[] = {0x31, 0xc0, 0x8e, 0xd8, 0xc7, 0x06,
                                    0x00, 0x70, 0xcd, 0xab, 0xcd, 0x80};

    v86_put(plain, sizeof plain);
    ok(trap_call(v86_enter, 0x3000) == 0x80, "v8086: INT with IOPL 3");
    ok((trap.eflags & 0x20000) && (trap.ebx & 0xffff) == 0x5678,
       "v8086: VM in the frame, segments are paragraphs");
    ok(trap.cs == V86_AT >> 4 && trap.eip == sizeof plain && trap.ss == 0x900 && trap.esp == 0x800,
       "v8086: CS:IP and SS:SP");
    ok(trap.v_es == 0x1111 && trap.v_ds == 0x5678 && trap.v_fs == 0x3333 && trap.v_gs == 0x4444,
       "v8086: data segments in the frame");
    ok(!((trap.ds | trap.es | trap.fs | trap.gs) & 0xffff), "v8086: and null in the handler");
    ok(trap_call(v86_enter, 0) == GP && trap.code == 0, "v8086: INT with IOPL 0");
    v86_put(cli, 1);
    ok(trap_call(v86_enter, 0) == GP, "v8086: CLI with IOPL 0");
    v86_put(pushf, 1);
    ok(trap_call(v86_enter, 0) == GP, "v8086: PUSHF with IOPL 0");
    v86_put(iret, 1);
    ok(trap_call(v86_enter, 0) == GP, "v8086: IRET with IOPL 0");
    v86_put(in, 2);
    tss.iomap = sizeof tss;
    ok(trap_call(v86_enter, 0x3000) == GP, "v8086: IN goes by the bitmap, not by IOPL");
    v86_put(hlt, 1);
    ok(trap_call(v86_enter, 0x3000) == GP, "v8086: HLT");
    v86_put(lldt, 3);
    ok(trap_call(v86_enter, 0x3000) == UD, "v8086: LLDT");
    v86_put(over, sizeof over);
    ok(trap_call(v86_enter, 0x3000) == GP, "v8086: a word over 64 KiB");
    v86_put(store, sizeof store);
    ok(trap_call(v86_enter, 0x3000) == 0x80 && *(volatile uint16_t *)0x7000 == 0xabcd,
       "v8086: a store");
}

int main(void)
{
    tables_load();
    limits();
    tasks();
    fault_gate();
    rings();
    v8086();
    return done();
}
