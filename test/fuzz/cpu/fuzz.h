/* SPDX-License-Identifier: MIT */
/* fuzz-cpu: one instruction, a short sequence or a small program, run by the host CPU, by the soft
 * engine's interpreter and by its JIT, compared.
 *
 * main.c makes a seed per case; generate.c and program.c turn it into code bytes, a start state and
 * memory; native.c runs it in this process and guest.c in soft vCPUs that map the same linear
 * addresses, many at a time (batch.c); compare.c looks at what they left. All runs end in a fault:
 * normally the fetch from the page after the code, so a wrong instruction length shows as a wrong
 * RIP. */
#ifndef HULL_FUZZ_CPU_H
#define HULL_FUZZ_CPU_H

#include "base/err.h"
#include "engine/x86/form.h"
#include "engine/x86/insn.h"

/* The test's linear addresses. The same pages appear at LOW, reachable with 32-bit addresses, and
 * at HIGH. Pages not named are not mapped. */
#define FUZZ_LOW  0x10000000ull
#define FUZZ_HIGH 0x654310100000ull /* other slots of the soft engine's TLB than LOW */
enum fuzz_page {
    PAGE_CODE = 1, /* two pages, execute and read */
    PAGE_DATA = 5, /* two pages, read and write */
    PAGE_RO = 8,   /* read-only, then writable, then read-only */
    PAGE_RW = 9,
    PAGE_RO2 = 10,
    PAGE_STACK = 12, /* two pages, read and write */
    FUZZ_PAGES = 15,
};
enum { PERM_NONE, PERM_READ = 1, PERM_WRITE = 2, PERM_EXEC = 4 };
extern const uint8_t fuzz_perm[FUZZ_PAGES];

#define FUZZ_GS_BASE (FUZZ_LOW + (PAGE_DATA + 1) * 4096 - 64)
#define FUZZ_FS_BASE (FUZZ_HIGH + (PAGE_RW + 1) * 4096 - 64)

enum { /* selectors as Linux's, so that reading a segment register gives the same */
       FUZZ_CS64 = 0x33,
       FUZZ_CS32 = 0x23,
       FUZZ_CS32_LDT = 0x0f, /* where the kernel has no such segment */
       FUZZ_DS = 0x2b,
};

enum {
    FUZZ_TIMEOUT = 0xfe,
    FUZZ_LOST = 0xff
}; /* vectors of runs that did not end in an exception */

struct fuzz_state {                                  /* where a run starts, and what it left */
    uint8_t xsave[832] __attribute__((aligned(64))); /* standard format: x87, SSE, AVX */
    uint64_t reg[16], rip, rflags;
    uint16_t cs, ss;
    /* of the exception that ended it */
    uint32_t error;
    uint64_t cr2; /* 0 unless #PF */
    uint8_t vector;
};

#define FUZZ_SEQUENCE 4  /* instructions, as a rule */
#define FUZZ_PROGRAM  96 /* at most, in a program */
struct fuzz_case {
    uint64_t seed;
    enum x86_mode mode;
    struct fuzz_state start;
    uint8_t code[2 * 4096]; /* what the code pages hold; only code_from..code_to differ from INT3 */
    unsigned code_from, code_to; /* offsets into both code pages */
    uint64_t base;               /* FUZZ_LOW or FUZZ_HIGH: where the code runs */
    uint8_t patch[64]; /* goes to patch_at in the pages before the run, if that is writable or
                          read-only data */
    unsigned patch_at;
    enum {
        FUZZ_GOOD,
        FUZZ_BAD_INVALID,
        FUZZ_BAD_CUT
    } broken;                       /* the bytes (or the last of them) are no instruction */
    bool use_fs;                    /* an FS override occurs: the native side must switch FS */
    struct insn insn[FUZZ_PROGRAM]; /* as decoded; count 0 when the bytes do not decode */
    unsigned insns;
    bool program;
};

/* native.c */
bool native_open(struct err *err);
void native_close(void);
uint8_t *native_memory(void); /* FUZZ_PAGES pages, all writable */
uint16_t native_cs32(void);   /* selector of 32-bit code; 0: this host cannot run any */
void native_run(const struct fuzz_case *c, struct fuzz_state *end);
void native_set_gs(uint64_t base);

/* guest.c: soft vCPUs, each with a machine of its own. */
enum side {
    SIDE_INTERPRETER,
    SIDE_JIT,         /* translates every block when it is first entered */
    SIDE_JIT_PRECISE, /* and keeps flags that nothing reads: right in the frames of faults, too */
    SIDES
};
extern const char *const fuzz_side_name[SIDES];
bool guest_open(enum side side, uint16_t cs32, struct err *err);
void guest_close(void);                /* all of them */
bool guest_works(enum side side);      /* false: not open, or the host refuses its memory */
uint8_t *guest_memory(enum side side); /* FUZZ_PAGES pages */
/* In the code pages: decoded code is stale. */
void guest_code_written(enum side side, unsigned offset, unsigned length);
/* Before runs on this side, after those on another. */
void guest_begin(enum side side);
void guest_run(enum side side, const struct fuzz_case *c, struct fuzz_state *end);
void guest_kick(void); /* from the watchdog: a run that does not end */
/* From a signal: a fault of the host's. Ends the run if translated code may be at fault, else
 * false. */
bool guest_died(void);
/* Instructions in blocks that were translated so far. */
uint64_t guest_translated(enum side side);

#endif
