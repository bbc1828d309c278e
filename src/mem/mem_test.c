/* SPDX-License-Identifier: MIT */
/* Ranges are checked without overflow, copies are all or nothing, writes are logged and announced.
 */
#include "mem/mem.h"
#include "tap.h"
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct mem m;
static uint64_t seen_offset, seen_len, seen_calls;

static void on_written(struct mem_watcher *w, struct mem_region *r, uint64_t offset, size_t len)
{
    (void)w;
    (void)r;
    seen_offset = offset;
    seen_len = len;
    seen_calls++;
}

static void test_add(void)
{
    struct err e = {0};

    mem_init(&m);
    ok(mem_add(&m, "high", 4 * GiB, 1 * MiB, false, &e), "high region");
    ok(mem_add(&m, "low", 0, 4 * MiB, false, &e), "low region added later");
    ok(mem_add(&m, "rom", 4 * GiB - 64 * KiB, 64 * KiB, true, &e), "ROM just below 4 GiB");
    ok(m.region[0].base == 0 && m.region[2].base == 4 * GiB, "sorted");
    ok(!mem_add(&m, "x", 4 * MiB - PAGE_SIZE, 2 * PAGE_SIZE, false, &e) && e.code == EEXIST,
       "overlap with one below");
    ok(!mem_add(&m, "x", 4 * GiB - 128 * KiB, 128 * KiB, false, &e), "overlap with one above");
    ok(!mem_add(&m, "x", 8 * MiB, 100, false, &e) && e.code == EINVAL, "odd size");
    ok(!mem_add(&m, "x", -PAGE_SIZE, 2 * PAGE_SIZE, false, &e), "wraps round");
    ok(!mem_add(&m, "x", 8 * MiB, 0, false, &e), "empty");
    ok(!mem_add(&m, "x", 8 * GiB, 1ULL << 62, false, &e) && strstr(e.text, "--memory"),
       "absurd size: %s", e.text);
    ok(m.count == 3, "failures leave nothing");
    ok(((uintptr_t)m.region[0].host & (2 * MiB - 1)) == 0, "aligned for huge pages");
    ok(((uintptr_t)m.region[1].host & (2 * MiB - 1)) == 2 * MiB - 64 * KiB &&
           m.region[1].fd_offset == 2 * MiB - 64 * KiB,
       "as the guest sees it");
}

static void test_at(void)
{
    ok(mem_at(&m, 0, 4 * MiB) == m.region[0].host, "whole region");
    ok(mem_at(&m, 0, 4 * MiB + 1) == NULL, "one byte too many");
    ok(mem_at(&m, 4 * MiB - 1, 1) == m.region[0].host + 4 * MiB - 1, "last byte");
    ok(mem_at(&m, 4 * MiB, 1) == NULL && mem_at(&m, 4 * MiB, 0) == NULL, "past the end");
    ok(mem_at(&m, 16, SIZE_MAX) == NULL && mem_at(&m, UINT64_MAX, 2) == NULL, "lengths that wrap");
    ok(mem_at(&m, 4 * GiB - 8, 16) == NULL, "mem_at never crosses regions");
    ok(mem_at(&m, 4 * GiB - 8, 8) != NULL && mem_at_writable(&m, 4 * GiB - 8, 8) == NULL,
       "ROM is not writable");
}

static void test_copy(void)
{
    uint8_t in[32], out[32];

    memset(in, 0xa5, sizeof in);
    ok(mem_write(&m, 4 * GiB - 16, in, 32) == -EFAULT && *(uint8_t *)mem_at(&m, 4 * GiB, 1) == 0,
       "write into ROM: nothing");
    ok(mem_load(&m, 4 * GiB - 16, in, 32) == 0, "mem_load fills ROM, across regions");
    memset(out, 0, sizeof out);
    ok(mem_read(&m, 4 * GiB - 16, out, 32) == 0 && memcmp(in, out, 32) == 0, "read across regions");
    memset(out, 0x11, sizeof out);
    ok(mem_read(&m, 4 * MiB - 16, out, 32) == -EFAULT && out[0] == 0x11,
       "read into a hole: nothing");
    ok(mem_write(&m, 4 * MiB - 16, in, 32) == -EFAULT &&
           *(uint8_t *)mem_at(&m, 4 * MiB - 16, 1) == 0,
       "write into a hole: nothing");
    ok(mem_read(&m, 12 * MiB, out, 0) == 0, "no bytes are always there");
    ok(mem_read(&m, UINT64_MAX - 4, out, 32) == -EFAULT, "read that wraps");
}

static void test_dirty(void)
{
    struct mem_watcher w = {on_written};
    struct err e;
    uint8_t b[9000] = {1};

    m.watcher = &w;
    mem_write(&m, 100, b, 10);
    ok(seen_calls == 1 && seen_offset == 100 && seen_len == 10, "watcher told with the log off");
    ok(mem_log_start(&m, &e) && m.region[0].dirty[0] == 0, "log starts clean");
    mem_write(&m, 62 * PAGE_SIZE + 4095, b, 2 + 2 * PAGE_SIZE);
    ok(m.region[0].dirty[0] == 3ULL << 62 && m.region[0].dirty[1] == 3, "bits across words");
    mem_dirty(&m, 4 * GiB, 1 * MiB);
    ok(m.region[2].dirty[0] == ~0ULL && m.region[2].dirty[3] == ~0ULL, "whole region");
    mem_dirty(&m, 0, 0);
    ok((m.region[0].dirty[0] & 1) == 0, "no bytes, no bit");
    mem_log_stop(&m);
    ok(m.region[0].dirty == NULL, "log stops");
    m.watcher = NULL;
}

static void test_guard(void)
{
    uint8_t *end = m.region[0].host + m.region[0].size;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile uint8_t *)end = 1;
        _exit(0);
    }
    waitpid(pid, &status, 0);
    /* The sanitizers turn the signal into an exit status of their own. */
    ok((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) ||
           (WIFEXITED(status) && WEXITSTATUS(status) != 0),
       "guard page stops an overrun");
    ok(ftruncate(m.region[0].fd, 0) != 0, "the memfd cannot be shrunk");
}

/* Reserved huge pages, if this host has some; else what it says. */
static void test_huge(void)
{
    struct mem h;
    struct err e = {0};

    mem_init(&h);
    ok(!mem_use_huge(&h, 1ULL << 50, &e) && strstr(e.text, "sysctl vm.nr_hugepages="),
       "too many: %s", e.text);
    if (!mem_use_huge(&h, 4 * MiB, &e)) {
        ok(true, "huge memory # SKIP %s", e.text);
        return;
    }
    ok(mem_add(&h, "small", 0, 640 * KiB, false, &e) &&
           mem_add(&h, "huge", 768 * KiB, 4 * MiB - 768 * KiB, false, &e) && h.region[1].huge &&
           !h.region[0].huge,
       "huge memory");
    *(char *)mem_at(&h, 4 * MiB - 1, 1) = 1;
    ok(((uintptr_t)h.region[1].host & (2 * MiB - 1)) == 768 * KiB, "as the guest sees it");
    mem_close(&h);
}

int main(void)
{
    test_add();
    test_huge();
    test_at();
    test_copy();
    test_dirty();
    test_guard();
    mem_close(&m);
    ok(m.count == 0 && mem_at(&m, 0, 1) == NULL, "closed");
    return tap_done();
}
