/* SPDX-License-Identifier: MIT */
/* 32-bit and PAE paging, exhaustively: permissions at two levels x CR0.WP x CR4.SMEP x access x
 * ring, for small and large pages; reserved bits; PDPTEs, which are loaded and checked with CR3. */
#include "lib32.h"
#include "paging.h"

#define TARGET 0x40000000u

static uint32_t dir[1024] __attribute__((aligned(4096)));
static uint32_t low_table[1024]
    __attribute__((aligned(4096))); /* the first 4 MiB, where this image lies */
static uint32_t table[1024] __attribute__((aligned(4096)));
static uint64_t pdpt[4] __attribute__((aligned(32)));
static uint64_t pae_dir[4][512] __attribute__((aligned(4096)));
static uint64_t pae_low[2][512] __attribute__((aligned(4096)));
static uint64_t pae_table[512] __attribute__((aligned(4096)));
static uint8_t page[4096] __attribute__((aligned(4096)));
static uint8_t user_page[4096]
    __attribute__((aligned(4096))); /* ring 3 code, its stack at the end */
static bool pae, large;

/* ---- accesses ---- */
static void kernel_read(uint32_t at)
{
    (void)*(volatile uint32_t *)at;
}

static void kernel_write(uint32_t at)
{
    *(volatile uint32_t *)(at + 64) = 0x5a5a5a5a;
}

static void kernel_fetch(uint32_t at)
{
    ((void (*)(void))(at + 16))();
}

static void user_at(uint32_t code)
{
    uint32_t frame[] = {USER_DATA, (uint32_t)user_page + 4096, 2, USER_CODE32, code};

    __asm__ volatile("mov %w0, %%ds" : : "r"(USER_DATA));
    iret_frame(frame, 5);
}

/* mov TARGET, %eax or movl $..., TARGET + 64, then INT 0x80; fetches go to TARGET itself. */
static uint32_t user_code(enum access access, uint32_t at)
{
    uint8_t *p = user_page;

    if (access == FETCH)
        return at;
    if (access == READ) {
        *p++ = 0xa1;
        memcpy(p, &at, 4);
        p += 4;
    } else {
        at += 64;
        *p++ = 0xc7, *p++ = 0x05;
        memcpy(p, &at, 4);
        memset(p + 4, 0x5a, 4);
        p += 8;
    }
    *p++ = 0xcd, *p++ = 0x80;
    return (uint32_t)user_page;
}

static int try(uint32_t at, enum access access, bool user)
{
    static trap_fn *const kernel[] = {kernel_read, kernel_write, kernel_fetch};
    int vector = user ? trap_call(user_at, user_code(access, at)) : trap_call(kernel[access], at);

    if (vector == (user ? 0x80 : -1))
        return -1;
    return vector == PF ? (int)trap.code : -2;
}

/* ---- tables ---- */
static uint32_t target(void)
{
    return TARGET + (large ? (uint32_t)page : 0);
}

static void map(unsigned leaf, unsigned upper, bool leaf_nx, bool upper_nx)
{
    const uint64_t nx = 1ull << 63;

    if (pae) {
        pae_dir[1][0] = large ? PS | leaf | (leaf_nx ? nx : 0)
                              : (uint32_t)pae_table | upper | (upper_nx ? nx : 0);
        pae_table[0] = (uint32_t)page | leaf | (leaf_nx ? nx : 0);
    } else {
        dir[TARGET >> 22] = large ? PS | leaf : (uint32_t)table | upper;
        table[0] = (uint32_t)page | leaf;
    }
    write_cr3(read_cr3());
}

static uint32_t leaf_low(void)
{
    if (pae)
        return (uint32_t)(large ? pae_dir[1][0] : pae_table[0]);
    return large ? dir[TARGET >> 22] : table[0];
}

static void identity(void)
{
    uint32_t user = (uint32_t)user_page;

    for (unsigned i = 0; i < 1024; i++) {
        low_table[i] = i << 12 | P | W | (i == user >> 12 ? U : 0);
        pae_low[i / 512][i % 512] = low_table[i];
    }
    dir[0] = (uint32_t)low_table | P | W | U;
    for (unsigned i = 0; i < 2; i++)
        pae_dir[0][i] = (uint32_t)pae_low[i] | P | W | U;
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = (uint32_t)pae_dir[i] | P;
}

static void paging(bool on)
{
    write_cr0(read_cr0() & 0x7fffffff);
    if (!on)
        return;
    write_cr4((read_cr4() & ~0x30u) | (pae ? 0x20 : 0) | 0x10);
    write_cr3(pae ? (uint32_t)pdpt : (uint32_t)dir);
    write_cr0(read_cr0() | 0x80000000);
}

/* ---- the checks ---- */
static bool check_one(const struct paging_case *c)
{
    int want = paging_expect(c), got;
    uint32_t last = target() + (c->access == WRITE ? 64 : c->access == FETCH && !c->user ? 16 : 0);

    map(c->leaf, c->upper, c->leaf_nx, c->upper_nx);
    got = try(target(), c->access, c->user);
    if (got != want || (got >= 0 && trap_cr2 != last)) {
        print("# leaf %x upper %x nx %d%d wp %d smep %d access %d user %d: got %d want %d cr2 %x\n",
              c->leaf, c->upper, c->leaf_nx, c->upper_nx, c->wp, c->smep, c->access, c->user, got,
              want, trap_cr2);
        return false;
    }
    if (got < 0 && (!(leaf_low() & A) || !!(leaf_low() & D) != (c->access == WRITE))) {
        print("# leaf %x: accessed or dirty bit wrong\n", leaf_low());
        return false;
    }
    return true;
}

static void exhaust(bool wp, bool smep)
{
    struct paging_case c = {.wp = wp, .smep = smep, .nxe = pae};
    unsigned bad = 0, count = 0;

    write_cr0((read_cr0() & ~0x10000u) | (wp ? 0x10000 : 0));
    write_cr4((read_cr4() & ~0x100000u) | (smep ? 0x100000 : 0));
    for (unsigned bits = 0; bits < 3u << 8 && bad < 5; bits++) {
        c.leaf = bits & 7;
        c.upper = large ? P | W | U : (bits >> 3 & 3) << 1 | P;
        c.leaf_nx = pae && (bits >> 5 & 1);
        c.upper_nx = pae && !large && (bits >> 6 & 1);
        c.user = bits >> 7 & 1;
        c.access = bits >> 8;
        bad += !check_one(&c);
        count++;
    }
    ok(bad == 0, "%s, %s pages, WP %d, SMEP %d: %u cases", pae ? "PAE" : "32-bit",
       large ? "large" : "4K", wp, smep, count);
    write_cr4(read_cr4() & ~0x100000u);
}

static bool has_smep(void)
{
    uint32_t id[4];

    cpuid(7, 0, id);
    return id[1] >> 7 & 1;
}

static void all_modes(void)
{
    for (unsigned i = 0; i < 2; i++) {
        large = i;
        for (unsigned mode = 0; mode < 4; mode++)
            if (mode < 2 || has_smep())
                exhaust(mode & 1, mode & 2);
    }
}

static void load_cr3(uint32_t v)
{
    write_cr3(v);
}

static void pdptes(void)
{
    uint64_t old = pdpt[1];

    large = false;
    map(P | W, P | W, false, false);
    is((uint32_t)try(TARGET, READ, false), (uint32_t)-1, "PAE: mapped");
    pdpt[1] = 0;
    is((uint32_t)try(TARGET, READ, false), (uint32_t)-1,
       "PDPTEs are not read again before CR3 is loaded");
    write_cr3(read_cr3());
    is((uint32_t)try(TARGET, READ, false), 0, "and then they are");
    pdpt[1] = old | W;
    ok(trap_call(load_cr3, (uint32_t)pdpt) == GP, "reserved bit in a PDPTE: MOV to CR3 faults");
    pdpt[1] = old;
    write_cr3((uint32_t)pdpt);
    pae_table[0] |= 1ull << 52;
    write_cr3(read_cr3());
    ok((try(TARGET, READ, false) & 8) != 0, "PAE: reserved bit in a PTE");
}

/* 4 MiB pages above 4 GiB do not exist in this guest's memory; the reserved bit is there all the
 * same. */
static void reserved32(void)
{
    large = true;
    map(P | W, 0, false, false);
    dir[TARGET >> 22] |= 1u << 21;
    write_cr3(read_cr3());
    ok((try(TARGET, READ, false) & 8) != 0, "32-bit: reserved bit in a 4M page");
}

int main(void)
{
    tables_load();
    page[0] = 0xcd, page[1] = 0x80, page[16] = 0xc3;
    identity();
    paging(true);
    all_modes();
    reserved32();
    paging(false);
    pae = true;
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    identity();
    paging(true);
    all_modes();
    pdptes();
    paging(false);
    return done();
}
