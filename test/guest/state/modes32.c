/* SPDX-License-Identifier: MIT */
/* Snippets and faults in real mode, 16-bit protected mode, v8086, and 32-bit protected mode without
 * paging, with paging and with PAE, in ring 0 and ring 3. */
#include "../lib32.h"
#include "snippets.h"
#include "state.h"

/* clang-format off */
#define TEXT(x) TEXT_(x)
#define TEXT_(x) #x
#define NOTE_FLAGS32(mask) "pushfl; popl 0x6000; andl $" TEXT(mask) ", 0x6000\n"
#define PIECE(code, prefix, name, text) \
    __asm__(".pushsection .data\n.code" #code "\n.globl " #prefix #name ", " #prefix #name "_end\n" \
            #prefix #name ":\n" SNIPPET_SEED text "ret\n" #prefix #name "_end:\n.code32\n.popsection"); \
    extern const char prefix##name[], prefix##name##_end[];
#define SNIPPET16(name, mask, text) PIECE(16, s16_, name, text NOTE_FLAGS32(mask) SNIPPET_NOTE)
#define SNIPPET32(name, mask, text) PIECE(32, s32_, name, text NOTE_FLAGS32(mask) SNIPPET_NOTE)
#define FAULT16(name, text) PIECE(16, f16_, name, text)
#define FAULT32(name, text) PIECE(32, f32_, name, text)
SNIPPETS(SNIPPET16)
SNIPPETS_NOT64(SNIPPET16)
FAULTS(FAULT16)
FAULTS_NOT64(FAULT16)
SNIPPETS(SNIPPET32)
SNIPPETS_NOT64(SNIPPET32)
FAULTS(FAULT32)
FAULTS_NOT64(FAULT32)
/* clang-format on */

struct piece {
    const char *code, *end;
};

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };

/* ---- what all modes start from ---- */

static void set_up(void)
{
    tables_load();
    write_cr4(read_cr4() | 0x600); /* OSFXSR, OSXMMEXCPT */
    write_cr0((read_cr0() & ~4u) | 0x22);
    tss.iomap = (uint16_t)offsetof(struct tss32, io);
    __asm__ volatile("fninit");
}

static void note_trap(int vector)
{
    SNIPPET_NOTES(note);
    note((uint32_t)vector);
    if (vector < 0)
        return;
    note(trap.code);
    note(trap.cs);
    note(trap.eip);
    trap.eflags &= ~0x10010u; /* TCG pushes no RF; AF is often undefined */
    note(trap.eflags);
    if ((trap.cs & 3) || (trap.eflags & 0x20000)) {
        note(trap.ss);
        note(trap.esp);
    }
    if (vector == DB)
        note(read_dr6());
    trap.esp_here = 0;
}

/* ---- 32 bits ---- */

static void call32(uint32_t code)
{
    __asm__ volatile("pushal; call *%0; popal" : : "r"(code) : "memory", "cc");
}

static uint8_t user_stub[] __attribute__((aligned(16))) = {0xff, 0xd0, 0xcd, 0x80}; /* call *%eax */

static void call_user(uint32_t code)
{
    uint32_t frame[] = {USER_DATA, (uint32_t)user_stack + sizeof user_stack, 0x3002, USER_CODE32,
                        (uint32_t)user_stub};

    __asm__ volatile("movw %w0, %%ds; movw %w0, %%es" : : "r"(USER_DATA));
    __asm__ volatile("movl %0, %%esi; movl $5, %%ecx\n1: pushl (%%esi); addl $4, %%esi; loop 1b; "
                     "movl %1, %%eax; iretl"
                     :
                     : "r"(frame), "b"(code)
                     : "eax", "ecx", "esi", "memory");
}

static uint32_t pd[1024] __attribute__((aligned(4096))), pt[1024] __attribute__((aligned(4096)));
static uint64_t pae[4] __attribute__((aligned(32))), pae_pd[4][512] __attribute__((aligned(4096))),
    pae_pt[512] __attribute__((aligned(4096)));

static void paging_on(void)
{
    for (uint32_t i = 0; i < 1024; i++) {
        pt[i] = i << 12 | P | W | U;
        pd[i] = i << 22 | P | W | U | PS;
    }
    pd[0] = (uint32_t)pt | P | W | U;
    write_cr4(read_cr4() | 0x10);
    write_cr3((uint32_t)pd);
    write_cr0(read_cr0() | 0x80010000);
}

static void pae_on(void)
{
    for (uint32_t i = 0; i < 4; i++) {
        pae[i] = (uint32_t)pae_pd[i] | P;
        for (uint32_t k = 0; k < 512; k++)
            pae_pd[i][k] = ((uint64_t)i << 30 | (uint64_t)k << 21) | P | W | U | PS;
    }
    for (uint32_t k = 0; k < 512; k++)
        pae_pt[k] = (uint64_t)k << 12 | P | W | U;
    pae_pd[0][0] = (uint32_t)pae_pt | P | W | U;
    write_cr4(read_cr4() | 0x20);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    write_cr3((uint32_t)pae);
    write_cr0(read_cr0() | 0x80010000);
}

static void flat(uintptr_t p)
{
    set_up();
    note_trap(trap_call(call32, (uint32_t)((struct piece *)p)->code));
}

static void paged(uintptr_t p)
{
    set_up();
    paging_on();
    note_trap(trap_call(call32, (uint32_t)((struct piece *)p)->code));
}

static void paged_pae(uintptr_t p)
{
    set_up();
    pae_on();
    note_trap(trap_call(call32, (uint32_t)((struct piece *)p)->code));
}

static void user(uintptr_t p)
{
    set_up();
    paging_on();
    note_trap(trap_call(call_user, (uint32_t)((struct piece *)p)->code));
}

/* ---- 16 bits ---- */

static void copy16(const struct piece *p)
{
    memcpy((void *)0x9000, p->code, (size_t)(p->end - p->code));
}

/* Every vector of real mode: notes number, IP, CS and FLAGS at 0x6f00, then returns from the piece.
 */
__asm__(".pushsection .data\n.code16\n.globl real_stub, real_stub_end\n"
        "real_stub: cli; cld; xorw %cx, %cx; movw %cx, %ds; popl 0x6f04; popw 0x6f08; "
        "movb %al, 0x6f00; movb $1, 0x6f01; movw $0x7bfe, %sp; ret\n"
        "real_stub_end:\n.code32\n.popsection");

static void real_vectors(void)
{
    extern char real_stub[], real_stub_end[];

    for (uint32_t v = 0; v < 0x80; v++) {
        uint8_t *to = (uint8_t *)(0xa000 + v * 8);

        if (v >= 8 && v < 16 && v != 13)
            continue;
        memcpy(to, (uint8_t[]){0xb0, (uint8_t)v, 0xe9}, 3); /* mov $v, %al; jmp real_stub */
        *(uint16_t *)(to + 3) = (uint16_t)(0xb000 - (0xa000 + v * 8 + 5));
        ((uint32_t *)0)[v] = 0xa000 + v * 8;
    }
    memcpy((void *)0xb000, real_stub, (size_t)(real_stub_end - real_stub));
}

static void in_real(uintptr_t p)
{
    extern char real_start[], real_end[];
    void real_call(void);

    set_up();
    real_vectors();
    memcpy((void *)0x8000, real_start, (size_t)(real_end - real_start));
    copy16((struct piece *)p);
    real_call();
    SNIPPET_NOTES(note);
    note(*(volatile uint32_t *)0x6f00);
    note(*(volatile uint32_t *)0x6f04);
    note(*(volatile uint16_t *)0x6f08);
}

/* A far call into the 16-bit segments 0x38 and 0x40; at 0x8e00: movw $0x9000, %ax; callw *%ax;
 * lretl */
__asm__(
    ".pushsection .text\n.globl call16\ncall16:\n"
    "pushal; movl %esp, saved_esp; movw $0x40, %ax; movw %ax, %ss; movl $0x7c00, %esp; "
    "movw %ax, %ds; movw %ax, %es\n"
    "lcall $0x38, $0x8e00\n"
    "movw $0x10, %ax; movw %ax, %ss; movw %ax, %ds; movw %ax, %es; movl saved_esp, %esp; popal; "
    "ret\n"
    ".popsection\n.pushsection .bss\nsaved_esp: .skip 4\n.popsection");
void call16(uint32_t unused);

static void protected16(uintptr_t p)
{
    static const uint8_t stub[] = {0xb8, 0x00, 0x90, 0xff, 0xd0, 0x66, 0xcb};

    set_up();
    memcpy((void *)0x8e00, stub, sizeof stub);
    copy16((struct piece *)p);
    note_trap(trap_call(call16, 0));
}

static void v86_enter(uint32_t unused)
{
    uint32_t frame[] = {0, 0, 0, 0, 0, 0x7c00, 0x23002, 0, 0x8e00};

    iret_frame(frame, 9);
}

static void v8086(uintptr_t p)
{
    static const uint8_t stub[] = {0xb8, 0x00, 0x90, 0xff,
                                   0xd0, 0xcd, 0x80}; /* as above; int $0x80 */

    set_up();
    paging_on();
    memcpy((void *)0x8e00, stub, sizeof stub);
    copy16((struct piece *)p);
    note_trap(trap_call(v86_enter, 0));
}

/* ---- the lists ---- */
/* clang-format off */
#define ARG(prefix, name) (uintptr_t)&(const struct piece){prefix##name, prefix##name##_end}
#define CASES(mode, run, snippet, fault) \
    SNIPPETS(snippet) SNIPPETS_NOT64(snippet) FAULTS(fault) FAULTS_NOT64(fault)
#define S(mode, run, prefix, name) {#mode "_" #name, run, ARG(prefix, name)},

#define S_REAL(name, mask, text) S(real, in_real, s16_, name)
#define F_REAL(name, text) S(real, in_real, f16_, name)
#define S_PROT16(name, mask, text) S(prot16, protected16, s16_, name)
#define F_PROT16(name, text) S(prot16, protected16, f16_, name)
#define S_V86(name, mask, text) S(v86, v8086, s16_, name)
#define F_V86(name, text) S(v86, v8086, f16_, name)
#define S_FLAT(name, mask, text) S(flat, flat, s32_, name)
#define F_FLAT(name, text) S(flat, flat, f32_, name)
#define S_PAGED(name, mask, text) S(paged, paged, s32_, name)
#define F_PAGED(name, text) S(paged, paged, f32_, name)
#define S_PAE(name, mask, text) S(pae, paged_pae, s32_, name)
#define F_PAE(name, text) S(pae, paged_pae, f32_, name)
#define S_USER(name, mask, text) S(user32, user, s32_, name)
#define F_USER(name, text) S(user32, user, f32_, name)

const struct state_case cases_modes[] = {
    CASES(real, in_real, S_REAL, F_REAL)
    CASES(prot16, protected16, S_PROT16, F_PROT16)
    CASES(v86, v8086, S_V86, F_V86)
    CASES(flat, flat, S_FLAT, F_FLAT)
    CASES(paged, paged, S_PAGED, F_PAGED)
    CASES(pae, paged_pae, S_PAE, F_PAE)
    CASES(user32, user, S_USER, F_USER)
    {0}};
/* clang-format on */

const struct state_case *const state_lists[] = {cases_modes, NULL};
