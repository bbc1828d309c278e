/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps: in memory against a plain array; persistent ones with qemu-img as the oracle,
 * after a proper end and after none. */
#include "block/bitmap.h"
#include "block/image.h"
#include "tap.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static struct loop *loop;
static char dir[] = "/var/tmp/hull-bitmap-XXXXXX";
static char file[64];
static uint64_t state = 1;

static uint64_t rnd(uint64_t below)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 20) % below;
}

static bool sh(const char *command)
{
    char text[2048];

    snprintf(text, sizeof text,
             "cd %s && { %s; } >log 2>&1 || { sed 's/^/# /' log | head; false; }", dir, command);
    fflush(stdout);
    return system(text) == 0;
}

static struct block *open_disk(bool readonly)
{
    struct block_config c = {.format = "qcow2", .readonly = readonly, .discard = true};
    struct err err = {0};
    struct block *b;

    snprintf(c.file, sizeof c.file, "%s", file);
    b = block_open(loop, &c, &err);
    if (!b)
        printf("# %s\n", err.text);
    return b;
}

static bool create(uint64_t size, uint32_t cluster, const char *backing)
{
    struct block_create c = {.file = file,
                             .format = "qcow2",
                             .size = size,
                             .cluster_size = cluster,
                             .backing = backing,
                             .backing_format = "raw"};
    struct err err = {0};

    unlink(file);
    return block_create(loop, &c, &err) || (printf("# %s\n", err.text), false);
}

static bool write_at(struct block *b, uint64_t at, uint64_t length)
{
    uint8_t *data = malloc(length);
    bool good;

    memset(data, 7, length);
    good = block_run(b, BLOCK_WRITE, 0, at, data, length) == 0;
    free(data);
    return good;
}

static uint64_t bytes_of(struct block *b, const char *name)
{
    struct block_bitmap *m = block_bitmap_find(b, name);

    return m && m->bit ? block_bitmap_bytes(m) : UINT64_MAX;
}

/* Random sets and resets against one byte per granule; ranges found against the same. */
static bool random_bits(uint32_t granularity)
{
    struct err err = {0};
    struct block *b = open_disk(false);
    struct block_bitmap *m = b ? block_bitmap_add(b, "r", granularity, 0, &err) : NULL;
    uint64_t n = m ? m->bits : 0, at = 0, from, length, count = 0;
    uint8_t *plain = calloc(1, n + 1);
    bool good = m != NULL;

    for (unsigned i = 0; i < 300 && good; i++) {
        uint64_t first = rnd(b->size), last = first + 1 + rnd(rnd(2) ? 100000 : 5000);
        bool set = rnd(3);

        last = min_u64(last, b->size);
        if (set)
            block_bitmap_set(m, first, last - first);
        else
            block_bitmap_reset(m, first, last - first);
        memset(plain + first / granularity, set,
               (last + granularity - 1) / granularity - first / granularity);
    }
    for (uint64_t i = 0; i < n; i++)
        count += plain[i];
    good = good && block_bitmap_bytes(m) == count * granularity;
    while (good && block_bitmap_next(m, at, &from, &length)) {
        for (uint64_t i = at / granularity; i < from / granularity; i++)
            good &= !plain[i];
        for (uint64_t i = from; i < from + length; i += granularity)
            good &= plain[i / granularity] == 1;
        at = from + length;
    }
    for (uint64_t i = (at + granularity - 1) / granularity; i < n; i++)
        good &= !plain[i];
    free(plain);
    block_close(b);
    return good;
}

static void test_memory(void)
{
    ok(create(3000 * 512, 0, NULL), "a disk");
    ok(random_bits(512), "bits of 512 bytes");
    ok(random_bits(4096), "bits of 4 KiB");
    ok(random_bits(1 << 20), "bits of 1 MiB");
}

static void test_freeze(void)
{
    struct err err = {0};
    struct block *b = open_disk(false);
    struct block_bitmap *m = block_bitmap_add(b, "f", 65536, 0, &err), *other;

    write_at(b, 0, 65536);
    ok(block_bitmap_bytes(m) == 65536, "a write marks");
    ok(block_bitmap_freeze(m, &err) && m->busy, "frozen");
    write_at(b, 131072, 512);
    ok(block_bitmap_bytes(m) == 65536, "nothing moves meanwhile");
    ok(!block_bitmap_clear(m, &err) && strstr(err.text, "in use by another operation"),
       "nor may a user change it");
    block_bitmap_thaw(m, false);
    ok(block_bitmap_bytes(m) == 131072, "a job that failed leaves both");
    block_bitmap_freeze(m, &err);
    write_at(b, 65536, 512);
    block_bitmap_thaw(m, true);
    ok(block_bitmap_bytes(m) == 65536, "one that is done leaves what came later");
    block_bitmap_enable(m, false, &err);
    write_at(b, 262144, 512);
    ok(block_bitmap_bytes(m) == 65536, "a disabled one stands still");
    other = block_bitmap_add(b, "o", 4096, BITMAP_DISABLED, &err);
    ok(other && block_bitmap_merge(other, m, &err) && block_bitmap_bytes(other) == 65536,
       "merged into a finer one");
    ok(!block_bitmap_add(b, "o", 0, 0, &err) && strstr(err.text, "already exists"), "a name twice");
    ok(!block_bitmap_add(b, "p", 1000, 0, &err) && strstr(err.text, "power of 2"), "granularity");
    block_close(b);
}

static void test_persistent(void)
{
    struct err err = {0};
    struct block *b;

    ok(create(64 << 20, 0, NULL), "a disk");
    b = open_disk(false);
    ok(b && block_bitmap_add(b, "one", 65536, BITMAP_PERSISTENT, &err) &&
           block_bitmap_add(b, "off", 4096, BITMAP_PERSISTENT | BITMAP_DISABLED, &err) &&
           block_bitmap_add(b, "memory", 65536, 0, &err),
       "three bitmaps");
    ok(write_at(b, 1 << 20, 200192), "a write");
    block_close(b);
    ok(sh("qemu-img check t && qemu-img info --output=json t | tr -d ' \\n' >i && cat i && grep -q "
          "'\"flags\":\\[\"auto\"\\],\"name\":\"one\",\"granularity\":65536' i && grep -q "
          "'\"flags\":\\[\\],\"name\":\"off\",\"granularity\":4096' i && ! grep -q memory i"),
       "qemu sees the persistent ones");
    ok(sh("qemu-io -f qcow2 -c 'write 40M 64k' t && qemu-img bitmap --enable t off && qemu-img "
          "check t"),
       "qemu writes, with them");
    b = open_disk(false);
    ok(b && bytes_of(b, "one") == 5 * 65536 && bytes_of(b, "off") == 0,
       "what qemu wrote is marked");
    ok(b && write_at(b, 0, 512) && bytes_of(b, "off") == 4096, "and what hull writes");
    ok(b && block_resize(b, 80 << 20, PREALLOC_OFF, &err) &&
           bytes_of(b, "one") == (6 + 256) * 65536,
       "a new part of the disk is marked");
    block_close(b);
    b = open_disk(true);
    ok(b && bytes_of(b, "one") == UINT64_MAX && block_bitmap_find(b, "one"), "read-only: listed");
    ok(b && block_bitmap_load(block_bitmap_find(b, "one"), &err) &&
           bytes_of(b, "one") == (6 + 256) * 65536,
       "and loaded when asked");
    block_close(b);
    ok(sh("qemu-img check t && qemu-img bitmap --add --disable t all && qemu-img bitmap --merge "
          "one "
          "t all && qemu-img bitmap --clear t one && qemu-img bitmap --remove t off"),
       "qemu changes them");
    b = open_disk(false);
    ok(b && bytes_of(b, "all") == (6 + 256) * 65536 && bytes_of(b, "one") == 0 &&
           !block_bitmap_find(b, "off"),
       "hull has them");
    ok(b && block_bitmap_remove(block_bitmap_find(b, "all"), &err) &&
           block_bitmap_remove(block_bitmap_find(b, "one"), &err),
       "and removes them");
    block_close(b);
    ok(sh("qemu-img check t && ! qemu-img info t | grep -q bitmaps"),
       "none are left, nothing leaks");
}

/* A process that ends without a word; `write`: after a flushed write. */
static void killed(bool write)
{
    pid_t pid = fork();

    if (pid == 0) {
        struct err err;
        struct block *b;

        loop = loop_open(&err);
        b = loop ? open_disk(false) : NULL;
        if (b && write) {
            write_at(b, 0, 4096);
            block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0);
        }
        _exit(b ? 0 : 1);
    }
    waitpid(pid, NULL, 0);
}

static void test_killed(void)
{
    struct err err = {0};
    struct block_bitmap *m;
    struct block *b;

    ok(create(8 << 20, 0, NULL) && sh("qemu-img bitmap --add t k"), "a bitmap");
    killed(false);
    b = open_disk(true);
    ok(b && !block_bitmap_find(b, "k")->inconsistent, "killed without a write: good");
    block_close(b);
    killed(true);
    b = open_disk(false);
    m = b ? block_bitmap_find(b, "k") : NULL;
    ok(m && m->inconsistent && !m->recording, "killed after a write: inconsistent");
    ok(m && !block_bitmap_clear(m, &err) && strstr(err.text, "inconsistent"), "of no use");
    block_close(b);
    ok(sh("qemu-img info t | grep -q in-use && qemu-img check t"), "qemu agrees");
    b = open_disk(false);
    ok(b && block_bitmap_remove(block_bitmap_find(b, "k"), &err), "it can be removed");
    block_close(b);
    ok(sh("qemu-img check t && ! qemu-img info t | grep -q bitmaps"), "and is gone");
}

/* The header's first sector is all that changes, wherever the backing file's name is. */
static void test_names(void)
{
    static const uint32_t sizes[] = {512, 1024, 2048, 4096, 65536};

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct err err = {0};
        struct block *b;
        bool good = sh("qemu-img create -f raw base 1M && cp base other") &&
                    create(1 << 20, sizes[i], "base");

        b = good ? open_disk(false) : NULL;
        good = b && block_bitmap_add(b, "n", 4096, BITMAP_PERSISTENT, &err) && write_at(b, 0, 512);
        block_close(b);
        good = good && sh("qemu-img check t && qemu-img info t | grep -q 'backing file: base'");
        b = good ? open_disk(false) : NULL;
        good = b && block_set_backing(b, "other", "raw", &err);
        block_close(b);
        good = good && sh("qemu-img check t && qemu-img info t | grep -q 'backing file: other' && "
                          "qemu-img info t | grep -q 'name: n'");
        b = good ? open_disk(false) : NULL;
        good = b && block_set_backing(b, NULL, NULL, &err) &&
               block_bitmap_remove(block_bitmap_find(b, "n"), &err);
        block_close(b);
        good = good && sh("qemu-img check t && ! qemu-img info t | grep backing");
        ok(good, "names and bitmaps in a header of %u bytes %s", sizes[i], err.text);
    }
}

int main(void)
{
    struct err err = {0};

    if (system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1") != 0) {
        tap_skip("bitmaps", "no qemu-img or qemu-io: apt-get install qemu-utils");
        return tap_done();
    }
    loop = loop_open(&err);
    if (!ok(loop && mkdtemp(dir), "set up"))
        return tap_done();
    snprintf(file, sizeof file, "%s/t", dir);
    test_memory();
    test_freeze();
    test_persistent();
    test_killed();
    test_names();
    loop_close(loop);
    sh("rm -f t base other i");
    ok(sh("cd / && rm -rf $OLDPWD"), "cleaned up");
    return tap_done();
}
