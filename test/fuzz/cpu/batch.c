/* SPDX-License-Identifier: MIT */
/* Running cases on all sides. See batch.h. */
#include "batch.h"
#include "compare.h"
#include "generate.h"
#include <string.h>

static uint8_t golden[FUZZ_PAGES * 4096]; /* what every case starts from */

static struct code_range { /* bytes of the case before, per side; the last is the host's */
    unsigned from, to;
} stale[SIDES + 1];

static uint8_t *memory_of(unsigned side)
{
    return side == SIDES ? native_memory() : guest_memory(side);
}

static void put_code(const struct fuzz_case *c, unsigned side)
{
    struct code_range *s = &stale[side];
    unsigned from = c->code_from, to = c->code_to;

    if (s->to) {
        from = from < s->from ? from : s->from;
        to = to > s->to ? to : s->to;
    }
    memcpy(memory_of(side) + PAGE_CODE * 4096 + from, c->code + from, to - from);
    if (side < SIDES)
        guest_code_written(side, from, to - from);
    *s = (struct code_range){c->code_from, c->code_to};
}

static void put_patch(const struct fuzz_case *c, unsigned side)
{
    unsigned at = c->patch_at;

    if (at < PAGE_DATA * 4096 || at + 64 > FUZZ_PAGES * 4096 || !fuzz_perm[at / 4096])
        return;
    memcpy(memory_of(side) + at, c->patch, 64);
}

static void restore_page(unsigned side, unsigned page)
{
    memcpy(memory_of(side) + page * 4096, golden + page * 4096, 4096);
}

static bool page_changed(unsigned side, unsigned page)
{
    return fuzz_perm[page] && memcmp(memory_of(side) + page * 4096, golden + page * 4096, 4096);
}

bool fuzz_batch_open(struct fuzz_batch *b, struct err *err)
{
    if (!native_open(err))
        return false;
    for (unsigned i = 0; i < SIDES; i++) {
        if (!guest_open(i, native_cs32(), err))
            return false;
    }
    fuzz_golden(golden);
    for (unsigned i = 0; i <= SIDES; i++) {
        memcpy(memory_of(i), golden, sizeof golden);
        if (i < SIDES)
            guest_code_written(i, 0, 2 * 4096);
    }
    for (unsigned i = 0; i < FUZZ_BATCH; i++)
        memset(b->item[i].c.code, 0xcc, sizeof b->item[i].c.code);
    return true;
}

/* ---- one case on one side ---- */

static void run_native(struct fuzz_batch *b, struct fuzz_item *it)
{
    it->host = (struct fuzz_state){0};
    it->differences = -1;
    it->first_page = b->saves;
    put_code(&it->c, SIDES);
    put_patch(&it->c, SIDES);
    native_run(&it->c, &it->host);
    for (unsigned p = PAGE_DATA; p < FUZZ_PAGES; p++) {
        if (!page_changed(SIDES, p))
            continue;
        b->saved[b->saves].page = (uint8_t)p;
        memcpy(b->saved[b->saves++].bytes, native_memory() + p * 4096, 4096);
        restore_page(SIDES, p);
    }
    it->pages = b->saves - it->first_page;
}

/* The host's memory as the case left it, or as it was before. */
static void show_native_memory(const struct fuzz_batch *b, const struct fuzz_item *it, bool after)
{
    for (unsigned i = 0; i < it->pages; i++) {
        const struct fuzz_saved *s = &b->saved[it->first_page + i];

        memcpy(native_memory() + s->page * 4096, (after ? s->bytes : golden + s->page * 4096),
               4096);
    }
}

/* Differences, or -1: nothing to compare. */
static int run_guest(struct fuzz_batch *b, struct fuzz_item *it, enum side side)
{
    const struct fuzz_case *c = &it->c;
    struct fuzz_state soft = {0};
    int n = -1;

    put_code(c, side);
    put_patch(c, side);
    if (it->host.vector < FUZZ_TIMEOUT)
        guest_run(side, c, &soft);
    if (!fuzz_incomparable(c, &it->host, &soft) &&
        (side == SIDE_INTERPRETER || !fuzz_calls_nowhere(c, &it->host))) {
        show_native_memory(b, it, true);
        n = (int)fuzz_compare(c, &it->host, &soft, side == SIDE_JIT, native_memory(),
                              guest_memory(side), it->text, sizeof it->text);
        show_native_memory(b, it, false);
    }
    if (n == 0) { /* it changed what the host changed */
        for (unsigned i = 0; i < it->pages; i++)
            restore_page(side, b->saved[it->first_page + i].page);
        return 0;
    }
    for (unsigned p = PAGE_DATA; p < FUZZ_PAGES; p++) {
        if (page_changed(side, p))
            restore_page(side, p);
    }
    return n;
}

static void run_items(struct fuzz_batch *b, struct fuzz_item *it, unsigned count, enum side side)
{
    if (!guest_works(side))
        return;
    guest_begin(side);
    for (unsigned i = 0; i < count; i++) {
        int n;

        if (it[i].differences > 0 || (side != SIDE_INTERPRETER && it[i].c.mode != X86_MODE_64))
            continue;
        n = run_guest(b, &it[i], side);
        it[i].side = side;
        it[i].differences = n > it[i].differences ? n : it[i].differences;
        b->compared[side] += n >= 0;
    }
}

void fuzz_batch_run(struct fuzz_batch *b)
{
    native_set_gs(FUZZ_GS_BASE);
    for (unsigned i = 0; i < b->count; i++)
        run_native(b, &b->item[i]);
    for (unsigned side = 0; side < SIDES; side++)
        run_items(b, b->item, b->count, side);
}

static bool same_saved(const struct fuzz_batch *b, const struct fuzz_item *x,
                       const struct fuzz_item *y)
{
    bool same = x->pages == y->pages;

    for (unsigned i = 0; same && i < x->pages; i++)
        same =
            !memcmp(&b->saved[x->first_page + i], &b->saved[y->first_page + i], sizeof b->saved[0]);
    return same;
}

/* False: the host did something else than before. */
static bool host_is_steady(struct fuzz_batch *b, struct fuzz_item *it)
{
    static struct fuzz_item before;

    before = *it;
    native_set_gs(FUZZ_GS_BASE);
    run_native(b, it);
    if (memcmp(&before.host, &it->host, sizeof it->host) || !same_saved(b, &before, it))
        return false;
    it->differences = before.differences;
    return true;
}

void fuzz_batch_again(struct fuzz_batch *b, unsigned i)
{
    unsigned saves = b->saves;

    for (unsigned again = 0; b->item[i].differences > 0 && again < 2; again++) {
        if (host_is_steady(b, &b->item[i]))
            continue;
        for (unsigned side = 0; side < SIDES; side++)
            run_items(b, &b->item[i], 1, side);
    }
    b->saves = saves;
}
