/* SPDX-License-Identifier: MIT */
/* The page walker against the rules of SDM volume 3, 4.6 and 4.7, written down a second time: every
 * combination of entry bits, control bits and access; then the other paging modes, large pages,
 * accessed and dirty bits. */
#include "engine/soft/testguest.h"
#include "tap.h"

#define NX     BIT(63)
#define WP     BIT(16)
#define SMEP   BIT(20)
#define SMAP   BIT(21)
#define LINEAR 0x40005678ULL
#define NO     UINT32_MAX /* no fault */

static struct guest g;

static uint64_t *entry64(uint64_t table, unsigned index)
{
    return mem_at(&g.mem, table + index * 8, 8);
}

struct rights {
    bool p, w, u, nx, wp, smep, smap, ac, user, nxe;
    enum mem_access access;
};

/* Error code of the fault, or NO. */
static uint32_t expected(const struct rights *r)
{
    bool fetch = r->access == ACCESS_FETCH, write = r->access == ACCESS_WRITE, allowed;
    uint32_t code = (write ? 2 : 0) | (r->user ? 4 : 0) | (fetch && (r->nxe || r->smep) ? 16 : 0);

    if (!r->p)
        return code;
    if (r->nx && !r->nxe)
        return code | 1 | 8;
    if (r->user)
        allowed = r->u && (!write || r->w) && !(fetch && r->nx);
    else if (fetch)
        allowed = !r->nx && !(r->smep && r->u);
    else
        allowed = !(r->smap && r->u && !r->ac) && (!write || r->w || !r->wp);
    return allowed ? NO : code | 1;
}

static bool try_rights(const struct rights *r)
{
    struct soft_cpu *cpu = g.cpu;
    uint64_t pte = 0x300000 | r->p | r->w << 1 | r->u << 2 | (r->nx ? NX : 0), now;
    struct soft_page page;
    uint32_t code, want = expected(r);

    *entry64(GUEST_PT, 5) = pte;
    cpu->cr0 = 0x80000033 | (r->wp ? WP : 0);
    cpu->cr4 = 0x6a0 | (r->smep ? SMEP : 0) | (r->smap ? SMAP : 0);
    cpu->efer = 0x500 | (r->nxe ? 0x800 : 0);
    cpu->rflags = FL_FIXED | (r->ac ? FL_AC : 0);
    code = soft_walk(cpu, LINEAR, r->access, r->user, &page);
    now = *entry64(GUEST_PT, 5);
    if (want != NO)
        return code == (want | WALK_FAULT) && now == pte;
    return code == 0 && page.phys == 0x300000 &&
           now == (pte | 0x20 | (r->access == ACCESS_WRITE ? 0x40 : 0));
}

static void test_rights(void)
{
    unsigned bad = 0, count = 0;

    for (unsigned bits = 0; bits < 1024; bits++) {
        for (enum mem_access a = ACCESS_READ; a <= ACCESS_FETCH; a++) {
            struct rights r = {.p = bits & 1,
                               .w = bits >> 1 & 1,
                               .u = bits >> 2 & 1,
                               .nx = bits >> 3 & 1,
                               .wp = bits >> 4 & 1,
                               .smep = bits >> 5 & 1,
                               .smap = bits >> 6 & 1,
                               .ac = bits >> 7 & 1,
                               .user = bits >> 8 & 1,
                               .nxe = bits >> 9 & 1,
                               .access = a};

            count++;
            if (!try_rights(&r) && ++bad <= 5)
                printf("# wrong: bits %x access %d\n", bits, a);
        }
    }
    ok(bad == 0, "%u of %u rights wrong", bad, count);
}

static uint32_t walk(uint64_t linear, enum mem_access access, struct soft_page *page)
{
    return soft_walk(g.cpu, linear, access, false, page);
}

static void reset_modes(void)
{
    g.cpu->cr0 = 0x80010033;
    g.cpu->cr3 = GUEST_PML4;
    g.cpu->cr4 = 0x6a0;
    g.cpu->efer = 0xd00;
    g.cpu->rflags = FL_FIXED;
}

static void test_levels(void)
{
    struct soft_page page;
    uint64_t *pdpt = entry64(GUEST_PML4 + 0x1000, 2), *pd = entry64(GUEST_PML4 + 0x2000, 3);

    reset_modes();
    *pdpt = 0x87;
    ok(walk(0x80123456, ACCESS_WRITE, &page) == 0 && page.phys == 0x123000 && page.large,
       "1 GiB page");
    ok(*pdpt == 0xe7, "its A and D bits");
    *pdpt = 0x87 | BIT(13);
    ok(walk(0x80123456, ACCESS_READ, &page) == (WALK_FAULT | 9), "reserved bit in it");
    *pdpt = 0;
    *pd = 0x600000 | 0x187;
    ok(walk(0x612345, ACCESS_READ, &page) == 0 && page.phys == 0x612000 && page.global,
       "2 MiB page, global");
    ok(*pd == (0x600000 | 0x1a7), "A but not D");
    *pd |= BIT(45);
    ok(walk(0x612345, ACCESS_READ, &page) == (WALK_FAULT | 9), "address beyond MAXPHYADDR");
    *pd = 0x600087;
    *entry64(GUEST_PML4, 1) = 0x87;
    ok(walk(BIT(39), ACCESS_READ, &page) == (WALK_FAULT | 9), "PS in a PML4 entry");
    *entry64(GUEST_PML4, 1) = 0;
}

static void test_legacy(void)
{
    struct soft_cpu *cpu = g.cpu;
    struct soft_page page;
    uint32_t *dir = mem_at(&g.mem, 0x500000, 4096), *table = mem_at(&g.mem, 0x501000, 4096);
    uint64_t *pd = mem_at(&g.mem, 0x502000, 4096);

    reset_modes();
    cpu->efer = 0;
    cpu->cr4 = 0x10; /* PSE */
    cpu->cr3 = 0x500000;
    dir[1] = 0x501007;
    table[2] = 0x345003;
    dir[2] = 0x00c00087 | 1 << 13; /* 4 MiB page, address bit 32 */
    ok(walk(0x402abc, ACCESS_WRITE, &page) == 0 && page.phys == 0x345000 && !page.user,
       "32-bit page");
    ok(dir[1] == 0x501027 && table[2] == 0x345063, "A and D bits of 32-bit entries");
    ok(walk(0x812345, ACCESS_READ, &page) == 0 && page.phys == 0x100c12000ULL, "PSE-36: %llx",
       (unsigned long long)page.phys);
    dir[2] |= BIT(21);
    ok(walk(0x812345, ACCESS_READ, &page) == (WALK_FAULT | 9), "its reserved bit");
    cpu->cr4 = 0;
    ok(walk(0x812345, ACCESS_READ, &page) == WALK_FAULT, "without PSE the PS bit means nothing");
    cpu->cr4 = 0x20; /* PAE */
    cpu->pdpte[1] = 0x502001;
    cpu->pdpte[0] = 0;
    pd[3] = 0x800000 | 0x83;
    ok(walk(0x40600010, ACCESS_READ, &page) == 0 && page.phys == 0x800000, "PAE large page");
    ok(walk(0x10, ACCESS_READ, &page) == WALK_FAULT, "PDPTE not present");
    pd[3] |= BIT(55);
    ok(walk(0x40600010, ACCESS_READ, &page) == (WALK_FAULT | 9), "PAE reserves bits 62-52");
    cpu->cr0 &= ~BIT(31);
    cpu->a20_mask = ~BIT(20);
    ok(walk(0x345678, ACCESS_READ, &page) == 0 && page.phys == 0x245000, "no paging, A20 off");
    cpu->a20_mask = ~0ULL;
}

static void test_translate(void)
{
    uint64_t phys;

    reset_modes();
    *entry64(GUEST_PT, 5) = 0x300001;
    ok(soft_translate(g.cpu, LINEAR, &phys) && phys == 0x300678, "translation for debuggers");
    ok(*entry64(GUEST_PT, 5) == 0x300001, "leaves no trace");
    *entry64(GUEST_PT, 5) = 0;
    ok(!soft_translate(g.cpu, LINEAR, &phys), "unmapped");
}

int main(void)
{
    struct err err = {0};

    if (!ok(guest_open(&g, &err), "guest opens %s", err.text))
        return tap_done();
    test_rights();
    test_levels();
    test_legacy();
    test_translate();
    guest_close(&g);
    return tap_done();
}
