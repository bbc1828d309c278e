/* SPDX-License-Identifier: MIT */
/* fuzz-cpu: one instruction or a short sequence, run by the host CPU and by the soft engine,
 * compared.
 *
 * main.c makes a seed per case; generate.c turns it into code bytes, a start state and memory;
 * native.c runs it in this process and guest.c in a soft vCPU that maps the same linear addresses;
 * compare.c looks at what both left. Both runs end in a fault: normally the fetch from the page
 * after the code, so a wrong instruction length shows as a wrong RIP. */
#ifndef HULL_FUZZ_CPU_H
#define HULL_FUZZ_CPU_H

#include "base/err.h"
#include "engine/x86/form.h"
#include "engine/x86/insn.h"

/* The test's linear addresses. The same pages appear at LOW, reachable with 32-bit addresses, and
 * at HIGH. Pages not named are not mapped. */
#define FUZZ_LOW  0x10000000ull
#define FUZZ_HIGH 0x654310000000ull
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

#define FUZZ_SEQUENCE 4
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
    } broken;                        /* the bytes (or the last of them) are no instruction */
    bool use_fs;                     /* an FS override occurs: the native side must switch FS */
    struct insn insn[FUZZ_SEQUENCE]; /* as decoded; count 0 when the bytes do not decode */
    unsigned insns;
};

/* native.c */
bool native_open(struct err *err);
void native_close(void);
uint8_t *native_memory(void); /* FUZZ_PAGES pages, all writable */
uint16_t native_cs32(void);   /* selector of 32-bit code; 0: this host cannot run any */
void native_run(const struct fuzz_case *c, struct fuzz_state *end);

/* guest.c */
bool guest_open(uint16_t cs32, struct err *err);
void guest_close(void);
uint8_t *guest_memory(void); /* FUZZ_PAGES pages */
void guest_code_written(unsigned offset,
                        unsigned length); /* in the code pages: decoded code is stale */
void guest_run(const struct fuzz_case *c, struct fuzz_state *end);
void guest_kick(void); /* from the watchdog: a run that does not end */

#endif
