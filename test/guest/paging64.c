/* SPDX-License-Identifier: MIT */
/* 4-level paging, exhaustively: permissions at two levels x CR0.WP x CR4.SMEP x access x ring, for
 * 4 KiB, 2 MiB and 1 GiB pages; reserved bits; accessed and dirty bits; INVLPG; global pages. */
#include "lib64.h"
#include "paging.h"

#define NX     (1ull << 63)
#define TARGET 0x8000000000ull /* PML4 entry 1 */

static uint64_t pdpt[512] __attribute__((aligned(4096)));
static uint64_t pd[512] __attribute__((aligned(4096)));
static uint64_t pt[512] __attribute__((aligned(4096)));
static uint8_t page[2][4096] __attribute__((aligned(4096)));
static uint64_t *leaf, *upper;
uint64_t user_arg __attribute__((section(".userdata"))) = 1;

/* ---- accesses ---- */
static void kernel_read(uint64_t at)
{
    (void)*(volatile uint32_t *)at;
}

static void kernel_write(uint64_t at)
{
    *(volatile uint32_t *)(at + 64) = 0x5a5a5a5a;
}

static void kernel_fetch(uint64_t at)
{
    ((void (*)(void))(at + 16))();
}

__attribute__((naked, section(".user"))) static void user_read(void)
{
    __asm__ volatile("mov user_arg(%rip), %rax; mov (%rax), %ecx; int $0x80");
}

__attribute__((naked, section(".user"))) static void user_write(void)
{
    __asm__ volatile("mov user_arg(%rip), %rax; movl $0x5a5a5a5a, 64(%rax); int $0x80");
}

__attribute__((naked, section(".user"))) static void user_fetch(void)
{
    __asm__ volatile("mov user_arg(%rip), %rax; jmp *%rax");
}

/* The page fault's code; -1: none; -2: something else. */
static int try(uint64_t at, enum access access, bool user)
{
    static trap_fn *const kernel[] = {kernel_read, kernel_write, kernel_fetch};
    static void (*const outer[])(void) = {user_read, user_write, user_fetch};
    int vector;

    user_arg = at;
    vector = user ? user_call((void *)outer[access]) : trap_call(kernel[access], at);
    if (vector == (user ? 0x80 : -1))
        return -1;
    return vector == PF ? (int)trap.code : -2;
}

/* Leaf for page size 0: 4 KiB, 1: 2 MiB, 2: 1 GiB; everything above permits all. */
static void map(unsigned size)
{
    boot_pml4[1] = (uint64_t)pdpt | P | W | U;
    pdpt[0] = (uint64_t)pd | P | W | U;
    pd[0] = (uint64_t)pt | P | W | U;
    leaf = size == 0 ? pt : size == 1 ? pd : pdpt;
    upper = size == 0 ? pd : size == 1 ? pdpt : boot_pml4 + 1;
}

static uint64_t frame_of(unsigned size)
{
    return size ? PS : (uint64_t)page[0];
}

/* Where the page's data are: large pages map from 0, so the data are at their physical address. */
static uint64_t target(unsigned size)
{
    return TARGET + (size ? (uint64_t)page[0] : 0);
}

static void set_cr(bool wp, bool smep)
{
    write_cr0((read_cr0() & ~0x10000ul) | (wp ? 0x10000 : 0));
    write_cr4((read_cr4() & ~0x100000ul) | (smep ? 0x100000 : 0));
}

static bool check_one(unsigned size, const struct paging_case *c)
{
    int want = paging_expect(c), got;
    uint64_t at = target(size), last = at + (c->access == WRITE               ? 64
                                             : c->access == FETCH && !c->user ? 16
                                                                              : 0);

    *upper = (*upper & ~(uint64_t)(P | W | U | A | D | NX)) | c->upper | (c->upper_nx ? NX : 0);
    *leaf = frame_of(size) | c->leaf | (c->leaf_nx ? NX : 0);
    write_cr3(read_cr3());
    got = try(at, c->access, c->user);
    if (got != want || (got >= 0 && trap_cr2 != last)) {
        print(
            "# leaf %x upper %x nx %d%d wp %d smep %d access %d user %d: got %d want %d cr2 %llx\n",
            c->leaf, c->upper, c->leaf_nx, c->upper_nx, c->wp, c->smep, c->access, c->user, got,
            want, (unsigned long long)trap_cr2);
        return false;
    }
    if (got < 0 && (!(*leaf & A) || !(*upper & A) || !!(*leaf & D) != (c->access == WRITE))) {
        print("# leaf %llx upper %llx: accessed or dirty bit wrong\n", (unsigned long long)*leaf,
              (unsigned long long)*upper);
        return false;
    }
    return true;
}

static void exhaust(unsigned size, bool wp, bool smep)
{
    unsigned bad = 0, count = 0;
    struct paging_case c = {.wp = wp, .smep = smep, .nxe = true};

    map(size);
    set_cr(wp, smep);
    for (unsigned bits = 0; bits < 1u << 10 && bad < 5; bits++) {
        c.leaf = bits & 7;
        c.upper = (bits >> 3 & 3) << 1 | P;
        c.leaf_nx = bits >> 5 & 1;
        c.upper_nx = bits >> 6 & 1;
        c.user = bits >> 7 & 1;
        c.access = bits >> 8;
        if (c.access > FETCH)
            break;
        bad += !check_one(size, &c);
        count++;
    }
    ok(bad == 0, "%s pages, WP %d, SMEP %d: %u cases",
       size == 0   ? "4K"
       : size == 1 ? "2M"
                   : "1G",
       wp, smep, count);
    set_cr(true, false);
    map(size);
}

static void reserved_one(uint64_t *entry, uint64_t bits, const char *name)
{
    uint64_t old = *entry;
    int got;

    *entry |= bits;
    write_cr3(read_cr3());
    got = try(TARGET, WRITE, false);
    ok(got == 11, "reserved bit: %s", name);
    if (got != 11)
        print("# got %d\n", got);
    *entry = old;
}

static void reserved(void)
{
    map(0);
    pt[0] = (uint64_t)page[0] | P | W;
    reserved_one(pt, 1ull << 51, "address in a PTE");
    reserved_one(pd, 1ull << 51, "address in a PDE");
    reserved_one(pdpt, 1ull << 51, "address in a PDPTE");
    reserved_one(boot_pml4 + 1, 1ull << 51, "address in a PML4E");
    reserved_one(boot_pml4 + 1, PS, "PS in a PML4E");
    pd[0] = P | W | PS;
    reserved_one(pd, 1 << 13, "offset bits of a 2M page");
    pdpt[0] = P | W | PS;
    reserved_one(pdpt, 1 << 29, "offset bits of a 1G page");
    map(0);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
    reserved_one(pt, NX, "NX without EFER.NXE");
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
}

static void translation(void)
{
    volatile uint32_t *p = (uint32_t *)TARGET;
    uint64_t cr4 = read_cr4();

    map(0);
    *(uint32_t *)page[0] = 0x11111111;
    *(uint32_t *)page[1] = 0x22222222;
    pt[0] = 0;
    write_cr3(read_cr3());
    is((uint64_t)try(TARGET, READ, false), 0, "not present");
    pt[0] = (uint64_t)page[0] | P | W;
    is(*p, 0x11111111, "present without INVLPG");
    pt[0] = (uint64_t)page[1] | P | W;
    invlpg(TARGET);
    is(*p, 0x22222222, "INVLPG drops the translation");
    pt[0] = (uint64_t)page[0] | P | W;
    write_cr3(read_cr3());
    is(*p, 0x11111111, "CR3 drops the translation");
    pt[0] = (uint64_t)page[0] | P;
    invlpg(TARGET);
    is(*p, 0x11111111, "read only");
    pt[0] = (uint64_t)page[0] | P | W;
    is((uint64_t)try(TARGET, WRITE, false), (uint64_t)-1, "writable without INVLPG");
    write_cr4(cr4 | 0x80);
    pt[0] = (uint64_t)page[1] | P | W | G;
    invlpg(TARGET);
    is(*p, 0x22222222, "global page");
    write_cr4(cr4 & ~0x80ul);
    pt[0] = (uint64_t)page[0] | P | W;
    write_cr4(cr4);
    is(*p, 0x11111111, "CR4.PGE drops global pages");
    pd[0] = P | W | PS; /* a large page, and INVLPG of another address in it */
    invlpg(TARGET);
    is(*(volatile uint32_t *)(TARGET + (uint64_t)page[0]), 0x11111111, "large page");
    is(*(volatile uint32_t *)(TARGET + (uint64_t)page[1]), 0x22222222, "large page, next frame");
    map(0);
    pt[(uint64_t)page[1] >> 12 & 511] = (uint64_t)page[0] | P | W;
    invlpg(TARGET + (uint64_t)page[0]);
    if ((uint64_t)page[1] >> 21 == 0)
        is(*(volatile uint32_t *)(TARGET + (uint64_t)page[1]), 0x11111111,
           "INVLPG drops all of a large page");
}

static uint64_t straddle_at;

static void straddle(uint64_t arg)
{
    *(volatile uint64_t *)straddle_at = arg;
}

/* An access over a page end faults on the page that lacks it, and changes nothing. */
static void straddling(void)
{
    map(0);
    pt[0] = (uint64_t)page[0] | P | W;
    pt[1] = (uint64_t)page[1] | P;
    write_cr3(read_cr3());
    *(uint32_t *)(page[0] + 4092) = 0;
    straddle_at = TARGET + 4092;
    ok(trap_call(straddle, ~0ull) == PF && trap.code == 3, "store over a page end: #PF");
    is(trap_cr2, TARGET + 4096, "CR2 is the second page's first byte");
    is(*(uint32_t *)(page[0] + 4092), 0, "the first page is unchanged");
    pt[1] |= W;
    write_cr3(read_cr3());
    ok(trap_call(straddle, 0x1122334455667788) == -1, "store over a page end");
    ok(*(uint32_t *)(page[0] + 4092) == 0x55667788 && *(uint32_t *)page[1] == 0x11223344,
       "and its two halves");
}

static bool has_smep(void)
{
    uint32_t id[4];

    cpuid(7, 0, id);
    return id[1] >> 7 & 1;
}

int main(void)
{
    tables_load();
    boot_user_pages();
    for (unsigned i = 0; i < 2; i++) {
        static const uint8_t code[] = {0xcd, 0x80};

        memcpy(page[i], code, sizeof code);
        page[i][16] = 0xc3;
    }
    for (unsigned size = 0; size < 3; size++)
        for (unsigned mode = 0; mode < 4; mode++)
            if (mode < 2 || has_smep())
                exhaust(size, mode & 1, mode & 2);
    reserved();
    translation();
    straddling();
    return done();
}
