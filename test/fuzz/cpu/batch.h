/* SPDX-License-Identifier: MIT */
/* Cases run side by side: first all of them on the host, then all in each soft vCPU. Changing sides
 * costs system calls (GS belongs to the JIT, and to the test natively), so it is done once for many
 * cases. */
#ifndef HULL_FUZZ_BATCH_H
#define HULL_FUZZ_BATCH_H

#include "fuzz.h"

#define FUZZ_BATCH 64
#define FUZZ_TEXT  4096

struct fuzz_saved { /* a page that a native run left changed */
    uint8_t page;
    uint8_t bytes[4096];
};

struct fuzz_item {
    struct fuzz_case c;
    int form;
    struct fuzz_state host;
    unsigned first_page, pages; /* of fuzz_batch.saved */
    int differences;            /* the largest number on any side; -1: nothing to compare */
    enum side side;             /* that differs */
    char text[FUZZ_TEXT];       /* how */
};

struct fuzz_batch {
    struct fuzz_item item[FUZZ_BATCH];
    unsigned count;
    struct fuzz_saved saved[(FUZZ_BATCH + 2) * (FUZZ_PAGES - PAGE_DATA)]; /* 2: run again */
    unsigned saves;
    uint64_t compared[SIDES];
};

bool fuzz_batch_open(struct fuzz_batch *b, struct err *err);
/* Runs all of its items. */
void fuzz_batch_run(struct fuzz_batch *b);
/* After that, for an item that differs. A hypervisor below may have emulated an instruction, and
 * not well: if the host does not do the same again, everything is compared anew. What the soft
 * engine did differently stays, for it may not meet the same TLB and translations again. */
void fuzz_batch_again(struct fuzz_batch *b, unsigned i);

#endif
