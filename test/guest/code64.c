/* SPDX-License-Identifier: MIT */
/* Code that changes: by itself, through aliases, in the running block, by DMA-like stores; and
 * string instructions that fault in the middle. */
#include "lib64.h"

#define ALIAS 0x8000000000ull /* PML4 entry 1: the same frames again */

static uint8_t code[8192] __attribute__((aligned(4096)));
static uint64_t pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096)));
static uint64_t pt[512] __attribute__((aligned(4096)));

static void map_alias(void)
{
    boot_pml4[1] = (uint64_t)pdpt | 3;
    pdpt[0] = (uint64_t)pd | 3;
    pd[0] = (uint64_t)pt | 3;
    pt[0] = (uint64_t)code | 3;
    pt[1] = (uint64_t)(code + 4096) | 3;
    pt[2] = pt[0];
    pt[3] = 0;
    write_cr3(read_cr3());
}

static void copy(void *to, const void *from, uint64_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static int run(const void *at)
{
    int v;

    __asm__ volatile("call *%1" : "=a"(v) : "r"(at) : "rcx", "rdx", "memory");
    return v;
}

/* mov $n, %eax; ret */
static void put_function(volatile uint8_t *at, uint32_t n)
{
    at[0] = 0xb8;
    *(volatile uint32_t *)(at + 1) = n;
    at[5] = 0xc3;
}

static void rewriting(void)
{
    bool good = true;

    put_function(code, 1);
    is((uint64_t)run(code), 1, "written, then run");
    put_function(code, 2);
    is((uint64_t)run(code), 2, "rewritten");
    for (unsigned i = 0; i < 1000; i++) {
        put_function(code, i);
        good &= run(code) == (int)i;
    }
    ok(good, "a thousand times");
    put_function((uint8_t *)ALIAS, 77);
    is((uint64_t)run(code), 77, "rewritten through an alias");
    is((uint64_t)run((void *)ALIAS), 77, "and run through it");
    put_function(code, 78);
    is((uint64_t)run((void *)(ALIAS + 8192)), 78, "run through a third address");
    pt[2] = pt[1];
    put_function(code + 4096, 5);
    invlpg(ALIAS + 8192);
    is((uint64_t)run((void *)(ALIAS + 8192)), 5, "the address now maps another frame");
    code[512] = 9; /* data beside code in the same page */
    is((uint64_t)run(code), 78, "a store beside the code");
    for (unsigned i = 0; i < sizeof code / 8; i++)
        ((volatile uint64_t *)code)[i] = 0x9090909090909090;
    put_function(code + 4094, 0x01020304); /* over the page end */
    is((uint64_t)run(code + 4000), 0x01020304, "an instruction over a page end");
    code[4097] = 0x55;
    is((uint64_t)run(code + 4000), 0x01550304, "changed in its second page");
    put_function(code, 0x11);
    copy(code + 1, "\x22\x33\x44\x55", 4);
    is((uint64_t)run(code), 0x55443322, "rewritten by a string instruction");
    __asm__ volatile("lock incb %0" : "+m"(code[1]));
    is((uint64_t)run(code), 0x55443323, "by a locked instruction");
}

/* movb $7, next+1(%rip): the store changes the very next instruction. */
__attribute__((naked, section(".userdata"))) static void self_change(void)
{
    __asm__ volatile("movb $7, 1f+1(%rip); 1: mov $1, %eax; movb $1, 1b+1(%rip); ret");
}

__attribute__((naked, section(".userdata"))) static void loop_change(void)
{
    __asm__ volatile("xor %eax, %eax; mov $10, %ecx; 1: add $0, %eax; incb 1b+2(%rip); dec %ecx; "
                     "jnz 1b; movb $0, 1b+2(%rip); ret");
}

static void itself(void)
{
    is((uint64_t)run(self_change), 7, "a store into the next instruction");
    is((uint64_t)run(self_change), 7, "again");
    is((uint64_t)run(loop_change), 45, "a loop that changes its own addend");
}

/* ---- strings that fault ---- */
static uint64_t rdi, rsi, rcx;

static void rep_movs(uint64_t arg)
{
    __asm__ volatile("rep movsb" : "+D"(rdi), "+S"(rsi), "+c"(rcx) : : "memory");
}

static void rep_stosq(uint64_t arg)
{
    __asm__ volatile("rep stosq" : "+D"(rdi), "+c"(rcx) : "a"(0x4242424242424242) : "memory");
}

static void repe_cmps(uint64_t arg)
{
    __asm__ volatile("repe cmpsb" : "+D"(rdi), "+S"(rsi), "+c"(rcx) : : "memory", "cc");
}

static void strings(void)
{
    uint64_t hole = ALIAS + 3 * 4096;

    map_alias();
    memset(code, 0x33, sizeof code);
    rdi = hole - 16, rsi = (uint64_t)code, rcx = 64;
    ok(trap_call(rep_movs, 0) == PF && trap.code == 2, "REP MOVSB into a hole");
    ok(trap.rdi == hole && trap.rsi == (uint64_t)code + 16 && trap.rcx == 48,
       "RDI, RSI, RCX are where it stopped");
    is(trap_cr2, hole, "CR2 is the first byte of the hole");
    ok((trap.rflags & 0x10000) != 0, "RF is set");
    rdi = hole - 24 + 4, rcx = 8;
    ok(trap_call(rep_stosq, 0) == PF && trap.rcx == 6 && trap.rdi == hole - 4,
       "REP STOSQ: an element over the end");
    rdi = (uint64_t)code, rsi = hole - 8, rcx = 100;
    memset(code, 0x33, sizeof code);
    ok(trap_call(repe_cmps, 0) == PF && trap.rcx == 92 && trap.rsi == hole,
       "REPE CMPSB from a hole");
    rdi = hole, rsi = (uint64_t)code, rcx = 0;
    ok(trap_call(rep_movs, 0) == -1, "a count of 0 touches nothing");
    /* overlap: the pattern repeats */
    for (unsigned i = 0; i < 64; i++)
        code[i] = (uint8_t)i;
    copy(code + 3, code, 32);
    ok(code[3] == 0 && code[4] == 1 && code[5] == 2 && code[6] == 0 && code[34] == 1,
       "REP MOVSB with overlap repeats");
    for (unsigned i = 0; i < 64; i++)
        code[i] = (uint8_t)i;
    copy((void *)(ALIAS + 3), code, 32);
    ok(code[6] == 0 && code[34] == 1, "the same through an alias");
}

int main(void)
{
    tables_load();
    boot_user_pages();
    map_alias();
    rewriting();
    itself();
    strings();
    return done();
}
