/* SPDX-License-Identifier: MIT */
/* Translations: finding, linking, dropping.
 *
 * A page's translations are checked against its bytes when its generation has changed (page.h);
 * those that differ are killed: links to them lead to their stubs again, the jump table forgets
 * them. Code memory is not reused until everything is dropped, so a vCPU in the middle of a killed
 * translation just leaves it after the instruction that changed it. */
#include "engine/soft/jit/jit_int.h"
#include "engine/soft/jit/run.h"
#include <time.h>

#define DROPS_MAX 16u /* of a page within a second, until it is interpreted for a while */
#define SECOND    1000000000ull

void *jit_pool(struct jit *j, size_t size)
{
    void *p = j->pool + j->pool_used;

    j->pool_used += align_up(size, 8);
    return p;
}

static unsigned hash_of(uint64_t phys, uint64_t rip)
{
    return (unsigned)((phys ^ phys >> 13 ^ rip >> 12) & (JIT_HASH - 1));
}

struct trans *jit_find(struct jit *j, uint64_t phys, uint64_t rip, bool user)
{
    struct trans *t = j->hash[hash_of(phys, rip)];

    while (t && (t->phys != phys || t->rip != rip || t->user != user))
        t = t->hash_next;
    return t;
}

/* ---- pages ---- */

static unsigned page_hash(const struct code_page *p)
{
    return (unsigned)((uintptr_t)p / sizeof *p * 0x9e3779b1u >> 20) % JIT_PAGES;
}

static struct jit_page *find_page(struct jit *j, const struct code_page *p)
{
    struct jit_page *g = j->page_hash[page_hash(p)];

    while (g && g->page != p)
        g = g->next;
    return g;
}

static struct jit_page *need_page(struct jit *j, struct block *b)
{
    struct jit_page *g = find_page(j, b->page[0]), **head;

    if (g)
        return g;
    g = &j->page[j->pages++];
    head = &j->page_hash[page_hash(b->page[0])];
    *g = (struct jit_page){.page = b->page[0],
                           .host = (const uint8_t *)((uintptr_t)b->host[0] & PAGE_MASK),
                           .next = *head,
                           .generation = b->generation[0]};
    *head = g;
    return g;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

bool jit_banned(struct jit *j, struct block *b)
{
    struct jit_page *g = find_page(j, b->page[0]);

    if (g == NULL || g->banned_until_ns == 0)
        return false;
    if (now_ns() < g->banned_until_ns)
        return true;
    g->banned_until_ns = 0;
    return false;
}

/* Not where translation is forced: such pages are to be translated again and again. */
static void page_dropped(struct jit *j, struct jit_page *g)
{
    uint64_t now = now_ns();

    if (j->opt.threshold == 1)
        return;
    if (now - g->drops_since_ns > SECOND) {
        g->drops_since_ns = now;
        g->drops = 0;
    }
    if (++g->drops >= DROPS_MAX) {
        g->drops = 0;
        g->banned_until_ns = now + SECOND;
        j->n.banned++;
    }
}

/* Tells the page that all lines a translation depends on are code; true: its bytes are still those.
 */
static bool same_bytes(const struct jit_page *g, const struct trans *t)
{
    if (memcmp(g->host + (t->phys & ~PAGE_MASK), t->copy, t->bytes) != 0)
        return false;
    for (unsigned i = 0; i < t->looks; i++) {
        if (memcmp(g->host + t->look[i].at, t->look[i].copy, t->look[i].len) != 0)
            return false;
    }
    return true;
}

static uint32_t lines_of(const struct trans *t)
{
    uint32_t lines = code_lines(t->phys & ~PAGE_MASK, t->bytes);

    for (unsigned i = 0; i < t->looks; i++)
        lines |= code_lines(t->look[i].at, t->look[i].len);
    return lines;
}

static void protect(struct jit *j, struct jit_page *g)
{
    struct soft_ram ram = {.code = g->page, .host = (uint8_t *)(uintptr_t)g->host};

    soft_code_added(j->cpu, &ram, g->lines);
    g->generation = atomic_load(&g->page->generation);
}

/* The page's code changed: what still has its bytes stays. */
static void recheck(struct jit *j, struct jit_page *g)
{
    struct trans **link = &g->first;
    bool killed = false;

    if (*link == NULL) {
        g->generation = atomic_load(&g->page->generation);
        return;
    }
    protect(j, g);
    g->lines = 0;
    while (*link) {
        struct trans *t = *link;

        if (same_bytes(g, t)) {
            g->lines |= lines_of(t);
            link = &t->page_next;
            continue;
        }
        *link = t->page_next;
        jit_kill(j, t);
        killed = true;
    }
    if (killed)
        page_dropped(j, g);
}

void soft_jit_serve(struct soft_cpu *cpu)
{
    struct jit *j = cpu->jit;

    atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_CODE);
    if (j == NULL)
        return;
    for (unsigned i = 0; i < j->pages; i++) {
        struct jit_page *g = &j->page[i];

        if (atomic_load_explicit(&g->page->generation, memory_order_relaxed) != g->generation)
            recheck(j, g);
    }
}

/* False: the code changed meanwhile. */
bool jit_publish(struct jit *j, struct trans *t, struct block *b)
{
    struct jit_page *g = need_page(j, b);
    struct trans **head = &j->hash[hash_of(t->phys, t->rip)];

    g->lines |= lines_of(t);
    if (atomic_load(&g->page->generation) != g->generation)
        recheck(j, g);
    else
        protect(j, g);
    if (!same_bytes(g, t))
        return false;
    g->lines |= lines_of(t);
    t->page = g;
    t->page_next = g->first;
    g->first = t;
    t->hash_next = *head;
    *head = t;
    t->block = b;
    t->alias = b->jit;
    b->jit = t;
    return true;
}

/* ---- links ---- */

void jit_link(struct jit *j, struct jit_site *s, struct trans *t)
{
    s->next = t->incoming;
    t->incoming = s;
    e_patch(s->field, s->backward ? t->polled : t->entry);
}

static void unlink_block(struct jit *j, struct trans *t)
{
    struct trans **p;

    if (t->block == NULL)
        return;
    for (p = &t->block->jit; *p && *p != t; p = &(*p)->alias)
        ;
    if (*p)
        *p = t->alias;
    if (t->block->jit == NULL)
        soft_block_plain(j->cpu, t->block);
    t->block = NULL;
}

void jit_kill(struct jit *j, struct trans *t)
{
    const void **slot = &j->slots[(t->user ? JIT_SLOTS : 0) + (t->rip & (JIT_SLOTS - 1))];
    struct trans **p = &j->hash[hash_of(t->phys, t->rip)];

    for (struct jit_site *s = t->incoming; s; s = s->next)
        e_patch(s->field, s->stub);
    t->incoming = NULL;
    if (*slot == jit_exec(j, t->table_entry))
        *slot = jit_exec(j, j->miss);
    while (*p && *p != t)
        p = &(*p)->hash_next;
    if (*p)
        *p = t->hash_next;
    unlink_block(j, t);
    t->dead = true;
    j->n.killed++;
}

void jit_kill_in_page(struct jit *j, struct trans *t)
{
    struct trans **p = &t->page->first;

    while (*p && *p != t)
        p = &(*p)->page_next;
    if (*p)
        *p = t->page_next;
    jit_kill(j, t);
    j->n.evicted++;
}

bool jit_attach(struct jit *j, struct block *b)
{
    struct jit_page *g = find_page(j, b->page[0]);

    if (g == NULL || g->generation != b->generation[0])
        return false;
    for (struct trans *t = g->first; t; t = t->page_next) {
        if (t->phys == b->phys && t->user == !!(b->key & KEY_USER) && t->bytes == b->bytes &&
            t->block != b) {
            unlink_block(j, t);
            t->block = b;
            t->alias = b->jit;
            b->jit = t;
        }
    }
    return b->jit != NULL;
}

/* ---- the jump table ---- */

static void clear_list(struct jit *j, unsigned user, unsigned half)
{
    struct jit_list *l = &j->used[user][half];
    const void **table = j->slots + (user ? JIT_SLOTS : 0);

    for (unsigned i = 0; i < l->count; i++)
        table[l->slot[i]] = jit_exec(j, j->miss);
    l->count = 0;
}

void jit_table_set(struct jit *j, struct trans *t)
{
    struct jit_list *l = &j->used[t->user][t->rip >> 63];
    const void **slot = &j->slots[(t->user ? JIT_SLOTS : 0) + (t->rip & (JIT_SLOTS - 1))];

    if (*slot == jit_exec(j, t->table_entry))
        return;
    if (l->count == JIT_LIST)
        clear_list(j, t->user, t->rip >> 63);
    l->slot[l->count++] = (uint16_t)t->rip;
    *slot = jit_exec(j, t->table_entry);
}

void soft_jit_forget_jumps(struct soft_cpu *cpu, unsigned half)
{
    if (cpu->jit == NULL)
        return;
    clear_list(cpu->jit, 0, half);
    clear_list(cpu->jit, 1, half);
}

/* ---- everything ---- */

void soft_jit_detach_all(struct soft_cpu *cpu)
{
    struct jit *j = cpu->jit;

    for (unsigned i = 0; j && i < j->transes; i++) {
        j->trans[i].block = NULL;
        j->trans[i].alias = NULL;
    }
}

void soft_jit_flush(struct soft_cpu *cpu)
{
    struct jit *j = cpu->jit;

    if (j == NULL)
        return;
    for (unsigned i = 0; i < j->transes; i++) {
        struct trans *t = &j->trans[i];

        if (t->block) {
            t->block->jit = NULL;
            soft_block_plain(cpu, t->block);
        }
    }
    soft_jit_forget_jumps(cpu, 0);
    soft_jit_forget_jumps(cpu, 1);
    memset(j->hash, 0, sizeof j->hash);
    memset(j->page_hash, 0, sizeof j->page_hash);
    j->transes = j->pages = j->metas = 0;
    j->pool_used = 0;
    j->hot.p = j->rw + j->hot_start;
    j->cold.p = j->rw + j->cold_start;
    j->n.flushes++;
}
