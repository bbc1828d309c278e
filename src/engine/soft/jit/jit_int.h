/* SPDX-License-Identifier: MIT */
/* The JIT's own structures. See doc/jit.md.
 *
 * Invariants
 *  1. A translation runs only while its block's bytes, and the bytes it looked ahead at, are what
 *     they were: a change raises the page's generation and sets PEND_CODE, which every way from
 *     block to block except forward links inside a page looks at (cache.c).
 *  2. Direct links join blocks of one page at the linear address they were made for; everything
 * else goes through the jump table, whose entries are dropped when translations of addresses
 * change.
 *  3. Who jumps through the jump table has the target in T0 and the guest's flags in cpu->arith;
 * who takes a direct link has the flags in EFLAGS if the target needs them. */
#ifndef HULL_SOFT_JIT_INT_H
#define HULL_SOFT_JIT_INT_H

#include "engine/soft/block.h"
#include "engine/soft/jit/emit.h"
#include "engine/soft/jit/jit.h"
#include "engine/soft/tlb.h"

#define JIT_SLOTS   65536u /* of a jump table: by the low 16 bits of RIP */
#define JIT_HASH    8192u
#define JIT_PAGES   4096u /* hash of pages with translations */
#define JIT_LOOK    40u   /* bytes looked ahead at behind a branch */
#define LOOKS_MAX   2u
#define JIT_LIST    8192u
#define JIT_ALIASES 6u /* translations of one block for different linear addresses */

struct jit_site { /* a patchable jump: rel32 field, and the stub that it leads to while unlinked */
    uint8_t *field, *stub;
    struct jit_site *next; /* of those linked to one translation */
    uint64_t rip;          /* of the target */
    bool backward;
};

struct jit_meta { /* an instruction that translated code may hand to its handler */
    struct insn insn;
    uint64_t rip;
    bool ends;    /* control does not come back behind it */
    uint8_t left; /* instructions of its block from this one on */
    int8_t undo;  /* what a branch to an address that is not canonical did to RSP */
};

struct jit_look {  /* bytes that a translation's flag liveness depends on */
    uint16_t at;   /* offset in page */
    uint16_t need; /* flags */
    uint8_t len;
    uint8_t copy[JIT_LOOK];
};

struct trans {
    uint64_t rip, phys;
    struct trans *hash_next, *page_next, *alias; /* alias: same block, other rip */
    struct jit_page *page;
    struct block *block;                   /* interpreter's; NULL: its arena was reset */
    uint8_t *table_entry, *polled, *entry; /* in the writable view */
    struct jit_site *incoming;
    uint32_t code_bytes;
    uint16_t bytes, insns;
    bool user, dead;
    uint8_t looks;
    struct jit_look *look;
    const uint8_t *copy; /* of the guest's bytes */
};

struct jit_page {
    struct code_page *page;
    const uint8_t *host; /* of the page */
    struct jit_page *next;
    struct trans *first;
    uint32_t generation;
    uint32_t lines;
    unsigned drops; /* lately */
    uint64_t drops_since_ns, banned_until_ns;
};

struct jit_list { /* slots of a jump table that are in use, by address half */
    uint16_t *slot;
    unsigned count;
};

struct jit {
    struct soft_cpu *cpu;
    struct soft_jit_options opt;
    uint8_t *rw;
    ptrdiff_t to_exec; /* add to a writable address */
    size_t size, hot_start, cold_start;
    struct buf hot, cold;
    /* stubs, in the writable view */
    uint8_t *leave_flags, *leave, *op, *end, *miss, *vec_in;
    bool wide;                                                 /* the guest has YMM registers */
    uint64_t (*enter)(struct soft_cpu *cpu, const void *code); /* jit_site or 0 */
    int32_t tlb, table;         /* offsets from GS: tables of the TLB; jump tables */
    const void **slots;         /* [2][JIT_SLOTS] */
    struct jit_list used[2][2]; /* [user][half] */
    uint8_t *pool;              /* metadata: sites, looks, copies */
    size_t pool_used, pool_size;
    struct jit_meta *meta;
    unsigned metas, metas_max;
    struct trans *trans;
    unsigned transes, transes_max;
    struct trans *hash[JIT_HASH];
    struct jit_page *page_hash[JIT_PAGES];
    struct jit_page *page; /* all of them */
    unsigned pages, pages_max;
    struct soft_jit_counters n;
};

/* cpu->vec_live: 0 while C runs, so that XMM, YMM and MXCSR are then in struct soft_cpu. */
enum { VEC_SSE = 1, VEC_AVX = 2 };

#define GS(member) ((int32_t)offsetof(struct soft_cpu, member))
#define GS_REG(n)  (GS(reg) + 8 * (int32_t)(n))

/* code.c */
bool jit_code_open(struct jit *j, size_t size);
void jit_code_close(struct jit *j);

/* stubs.c */
void jit_make_stubs(struct jit *j);

/* translate.c: NULL if it cannot be. */
struct trans *jit_translate(struct jit *j, struct block *b, uint64_t rip);

/* cache.c */
void *jit_pool(struct jit *j, size_t size); /* never NULL: room was checked */
struct trans *jit_find(struct jit *j, uint64_t phys, uint64_t rip, bool user);
bool jit_publish(struct jit *j, struct trans *t, struct block *b);
void jit_table_set(struct jit *j, struct trans *t);
void jit_link(struct jit *j, struct jit_site *s, struct trans *t);
void jit_kill(struct jit *j, struct trans *t);
/* The same for one that is not being looked at by a check of its page. */
void jit_kill_in_page(struct jit *j, struct trans *t);
bool jit_banned(struct jit *j, struct block *b);
/* Gives a new block the translations of its code that are there already; true: there are some. */
bool jit_attach(struct jit *j, struct block *b);

/* map.c: what perf(1) is told */
void jit_map_open(struct jit *j);
void jit_map_add(struct jit *j, const uint8_t *from, const uint8_t *to, const char *what,
                 const struct trans *t);

/* verify.c */
bool jit_verify(struct jit *j, const uint8_t *from, const uint8_t *to);

static inline const uint8_t *jit_exec(const struct jit *j, const uint8_t *rw)
{
    return rw + j->to_exec;
}

#endif
