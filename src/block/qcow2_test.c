/* SPDX-License-Identifier: MIT */
/* qcow2 with qemu-img and qemu-io as the oracle: random images of every option mix, written by one
 * side and read by the other. Usage: qcow2_test [HISTORIES [SEED]]. */
#include "block/image.h"
#include "tap.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct loop *loop;
static char dir[] = "/var/tmp/hull-qcow2-XXXXXX";
static uint64_t state;

static uint64_t rnd(uint64_t below)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 20) % below;
}

static bool sh(const char *fmt, ...) PRINTF_LIKE(1, 2);
static bool sh(const char *fmt, ...)
{
    char text[16384];
    va_list ap;
    int n = snprintf(text, sizeof text, "cd %s && exec >log 2>&1 && ", dir);

    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    if (system(text) == 0)
        return true;
    printf("# failed: %.3000s\n", text + n);
    snprintf(text, sizeof text, "grep -v 'wrote\\|ops/sec' %s/log | sed 's/^/# /' | head -20", dir);
    fflush(stdout);
    return system(text) == 1000;
}

static const char *path(const char *name)
{
    static char text[4][256];
    static unsigned n;
    char *p = text[n++ % 4];

    snprintf(p, 256, "%s/%s", dir, name);
    return p;
}

static struct block *open_image(const char *name, const char *format, bool readonly)
{
    struct block_config c = {.readonly = readonly, .discard = true};
    struct err err = {0};
    struct block *b;

    snprintf(c.file, sizeof c.file, "%s", path(name));
    snprintf(c.format, sizeof c.format, "%s", format);
    b = block_open(loop, &c, &err);
    if (!b)
        printf("# %s\n", err.text);
    return b;
}

static bool holds(struct block *b, const uint8_t *want, uint64_t size)
{
    uint64_t step = 512 * (1 + rnd(4000));
    uint8_t *got = malloc(step);
    bool same = b->size == size;

    if (!same)
        printf("# size %llu, not %llu\n", (unsigned long long)b->size, (unsigned long long)size);
    for (uint64_t at = 0; at < size && same; at += step) {
        uint64_t n = min_u64(step, size - at);
        int failed = block_run(b, BLOCK_READ, 0, at, got, n);

        same = !failed && memcmp(got, want + at, n) == 0;
        for (uint64_t i = 0; i < n && !same; i++)
            if (failed || got[i] != want[at + i]) {
                printf("# differs at %llu: %02x, not %02x (%d)\n", (unsigned long long)(at + i),
                       got[i], want[at + i], failed);
                break;
            }
    }
    free(got);
    return same;
}

struct options {
    char text[256]; /* for qemu-img -o */
    struct block_create c;
};

static void random_options(struct options *o)
{
    static const unsigned sizes[] = {512, 1024, 4096, 16384, 65536, 65536, 1 << 20, 2 << 20};
    struct block_create *c = &o->c;
    bool v2 = rnd(8) == 0;

    memset(o, 0, sizeof *o);
    c->format = "qcow2";
    c->version = v2 ? 2 : 3;
    c->cluster_size = sizes[rnd(8)];
    c->refcount_bits = v2 ? 16 : 1u << rnd(7);
    c->lazy_refcounts = !v2 && rnd(4) == 0;
    c->extended_l2 = !v2 && c->cluster_size >= 16384 && rnd(3) == 0;
    c->zstd = !v2 && rnd(2);
    snprintf(o->text, sizeof o->text, "compat=%s,cluster_size=%u,refcount_bits=%u%s%s%s",
             v2 ? "0.10" : "1.1", c->cluster_size, c->refcount_bits,
             c->lazy_refcounts ? ",lazy_refcounts=on" : "", c->extended_l2 ? ",extended_l2=on" : "",
             c->zstd ? ",compression_type=zstd" : "");
}

/* A few writes by qemu-io, repeated in the shadow. */
static bool qemu_writes(const char *name, uint8_t *shadow, uint64_t size, uint32_t cluster,
                        unsigned count)
{
    char commands[12000] = "";
    size_t n = 0;
    unsigned packed = size / 4 > 2 * cluster ? (unsigned)rnd(4) : 0;

    for (unsigned i = 0; i < count && n < sizeof commands - 200; i++) {
        uint64_t at = 512 * rnd(size / 512), length = 512 * (1 + rnd(rnd(8) ? 64 : 2000));
        unsigned what = (unsigned)rnd(10), byte = 1 + (unsigned)rnd(254);

        length = min_u64(length, size - at);
        if (i < packed) { /* QEMU compresses only what was never written: one in each stretch */
            at = align_down(size / packed * i, cluster) + (i ? cluster : 0);
            length = min_u64(cluster, size - at);
            n += (size_t)snprintf(commands + n, sizeof commands - n,
                                  " -c 'write -c -P %u %llu %llu'", byte, (unsigned long long)at,
                                  (unsigned long long)length);
            memset(shadow + at, (int)byte, length);
        } else if (what < 3) {
            n += (size_t)snprintf(commands + n, sizeof commands - n, " -c 'write -z%s %llu %llu'",
                                  rnd(2) ? " -u" : "", (unsigned long long)at,
                                  (unsigned long long)length);
            memset(shadow + at, 0, length);
        } else {
            n += (size_t)snprintf(commands + n, sizeof commands - n, " -c 'write -P %u %llu %llu'",
                                  byte, (unsigned long long)at, (unsigned long long)length);
            memset(shadow + at, (int)byte, length);
        }
    }
    return sh("qemu-io -f qcow2 %s %s", commands, name);
}

/* qemu writes, hull reads: one image, perhaps over another. */
static bool read_history(void)
{
    struct options o;
    uint64_t size = 512 * (100 + rnd(20000)), base_size = 512 * (100 + rnd(20000));
    uint8_t *shadow = calloc(1, size + base_size);
    bool backed = rnd(2), raw = rnd(3) == 0, good;
    struct block *b = NULL;

    random_options(&o);
    if (backed) {
        good = raw ? sh("qemu-img create -f raw base %llu", (unsigned long long)base_size)
                   : sh("qemu-img create -f qcow2 -o %s base %llu", o.text,
                        (unsigned long long)base_size);
        good = good && (raw ? sh("qemu-io -f raw -c 'write -P 77 512 40000' base")
                            : qemu_writes("base", shadow, base_size, o.c.cluster_size, 10));
        if (raw)
            memset(shadow + 512, 77, min_u64(40000, base_size - 512));
        random_options(&o);
        good = good && sh("qemu-img create -f qcow2 -o %s -b base -F %s top %llu", o.text,
                          raw ? "raw" : "qcow2", (unsigned long long)size);
        if (base_size < size)
            memset(shadow + base_size, 0, size - base_size);
    } else {
        good = sh("qemu-img create -f qcow2 -o %s top %llu", o.text, (unsigned long long)size);
    }
    good = good && qemu_writes("top", shadow, size, o.c.cluster_size, 5 + (unsigned)rnd(30));
    b = good ? open_image("top", "qcow2", true) : NULL;
    good = b && holds(b, shadow, size);
    block_close(b);
    if (!good)
        printf("# options %s, backing %d raw %d\n", o.text, backed, raw);
    free(shadow);
    return good;
}

enum { BATCH = 8 };

struct one {
    struct block_req req;
    struct iovec iov[3];
    uint8_t *data;
    bool done;
    int result;
};

static void one_done(struct block_req *req, int result)
{
    struct one *o = container_of(req, struct one, req);

    o->done = true;
    o->result = result;
}

static void make_one(struct one *o, uint64_t at, uint64_t length, uint32_t cluster, uint8_t *shadow)
{
    unsigned what = (unsigned)rnd(12);
    uint64_t first = 512 * rnd(length / 512 + 1), second = 512 * rnd((length - first) / 512 + 1);

    o->done = false;
    o->req =
        (struct block_req){.op = BLOCK_WRITE, .offset = at, .length = length, .done = one_done};
    if (what < 3) {
        o->req.op = what ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
        o->req.flags = what == 1 ? BLOCK_REQ_UNMAP : 0;
        /* A discard reads as zeroes, or as before: asked again afterwards. */
        if (what)
            memset(shadow + at, 0, length);
        return;
    }
    if (what == 11 && length >= cluster)
        o->req.flags = BLOCK_REQ_COMPRESS;
    if (what == 10)
        o->req.flags = BLOCK_REQ_FUA;
    o->data = aligned_alloc(512, length);
    for (uint64_t i = 0; i < length; i++)
        o->data[i] = o->req.flags & BLOCK_REQ_COMPRESS ? (uint8_t)(i / 3000 + what + at / 512)
                                                       : (uint8_t)(i * 7 + at / 512 + (i >> 9));
    memcpy(shadow + at, o->data, length);
    o->iov[0] = (struct iovec){o->data, first};
    o->iov[1] = (struct iovec){o->data + first, second};
    o->iov[2] = (struct iovec){o->data + first + second, length - first - second};
    o->req.iov = o->iov;
    o->req.iov_count = 3;
}

/* Some requests at once, next to each other but not over each other: clusters are shared. */
static bool batch(struct block *b, uint8_t *shadow, uint32_t cluster)
{
    struct one o[BATCH] = {0};
    unsigned n = 1 + (unsigned)rnd(BATCH);
    uint64_t at = 512 * rnd(b->size / 512);
    bool good = true;

    for (unsigned i = 0; i < n; i++) {
        uint64_t length = 512 * (1 + rnd(rnd(4) ? 40 : 1500));

        if (rnd(4) == 0)
            at = align_up(at, cluster), length = align_up(length, cluster);
        if (at >= b->size) {
            n = i;
            break;
        }
        length = min_u64(length, b->size - at);
        make_one(&o[i], at, length, cluster, shadow);
        at += length + 512 * rnd(3);
        block_submit(b, &o[i].req);
    }
    if (rnd(3) == 0)
        good = block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0) == 0;
    for (unsigned i = 0; i < n; i++) {
        while (!o[i].done)
            loop_turn(loop, UINT64_MAX);
        if (o[i].result) {
            printf("# op %d of %llu at %llu: %s\n", o[i].req.op,
                   (unsigned long long)o[i].req.length, (unsigned long long)o[i].req.offset,
                   strerror(-o[i].result));
            good = false;
        }
        if (o[i].req.op == BLOCK_DISCARD)
            block_run(b, BLOCK_READ, 0, o[i].req.offset, shadow + o[i].req.offset, o[i].req.length);
        free(o[i].data);
    }
    return good;
}

static bool save(const char *name, const uint8_t *data, uint64_t size)
{
    FILE *f = fopen(path(name), "w");
    bool good = f && fwrite(data, 1, size, f) == size;

    return f && fclose(f) == 0 && good;
}

static bool said(bool good, const struct err *err)
{
    if (!good)
        printf("# %s\n", err->text);
    return good;
}

/* Internal snapshots and sizes, between batches. `kept` is what the one snapshot holds. */
struct kept {
    uint8_t *data;
    uint64_t size;
};

static bool reshape(struct block *b, uint8_t *shadow, uint64_t *size, uint64_t room, bool narrow,
                    struct kept *k)
{
    struct err err = {0};
    uint64_t to;

    switch (rnd(6)) {
    case 0:
        if (k->data || narrow)
            return true;
        k->data = malloc(room);
        memcpy(k->data, shadow, *size);
        k->size = *size;
        return said(block_snapshot_create(b, "kept", &err), &err);
    case 1:
        if (!k->data)
            return true;
        memcpy(shadow, k->data, k->size);
        *size = k->size;
        return said(block_snapshot_apply(b, "kept", &err), &err);
    case 2:
        if (!k->data)
            return true;
        free(k->data);
        k->data = NULL;
        return said(block_snapshot_delete(b, "kept", &err), &err);
    case 3:
        if (k->data || b->backing)
            return true;
        to = 512 * (1 + rnd(room / 512));
        if (to > *size)
            memset(shadow + *size, 0, to - *size);
        *size = to;
        return said(block_resize(b, to, PREALLOC_OFF, &err), &err);
    default: return true;
    }
}

static bool is_clean(struct block *b)
{
    struct block_check c = {0};
    struct err err = {0};

    if (!said(block_check(b, 0, &c, &err), &err))
        return false;
    if (c.corruptions || c.leaks)
        printf("# own check: %llu corruptions, %llu leaks\n", (unsigned long long)c.corruptions,
               (unsigned long long)c.leaks);
    return !c.corruptions && !c.leaks;
}

/* hull makes and writes, qemu-img checks and compares; hull opens it again and goes on. */
static bool write_history(void)
{
    struct options o;
    struct err err = {0};
    uint64_t size = 512 * (100 + rnd(12000)), base_size = 512 * (100 + rnd(12000));
    uint64_t room = size + base_size;
    uint8_t *shadow = calloc(1, room);
    bool backed = rnd(2), good = true;
    struct kept k = {0};
    struct block *b;

    random_options(&o);
    o.c.file = path("top");
    o.c.size = size;
    if (backed) {
        good = sh("qemu-img create -f qcow2 base %llu", (unsigned long long)base_size) &&
               qemu_writes("base", shadow, base_size, 65536, 10);
        memset(shadow + base_size, 0, room - base_size);
        o.c.backing = "base";
        o.c.backing_format = "qcow2";
    }
    unlink(o.c.file);
    good = good && (block_create(loop, &o.c, &err) || (printf("# %s\n", err.text), false));
    for (unsigned round = 0; round < 3 && good; round++) {
        b = open_image("top", "qcow2", false);
        good = b != NULL;
        for (unsigned i = 0; good && i < 12; i++)
            good = batch(b, shadow, o.c.cluster_size) &&
                   reshape(b, shadow, &size, room, o.c.refcount_bits < 8, &k);
        good = good && holds(b, shadow, size) && is_clean(b);
        block_close(b);
        good = good && save("shadow", shadow, size) && sh("qemu-img check -f qcow2 top") &&
               sh("qemu-img compare -f qcow2 -F raw top shadow");
    }
    if (!good)
        printf("# options %s, backing %d, size %llu\n", o.text, backed, (unsigned long long)size);
    free(shadow);
    free(k.data);
    return good;
}

static bool create_history(void)
{
    struct options o;
    struct err err = {0};
    uint64_t size = 512 * (1 + rnd(1 << 22));
    bool good;

    random_options(&o);
    o.c.file = path("new");
    o.c.size = size;
    good = block_create(loop, &o.c, &err);
    if (!good)
        printf("# %s\n", err.text);
    good = good && sh("qemu-img check -f qcow2 new") &&
           sh("qemu-io -f qcow2 -c 'write -P 3 0 512' new && qemu-img check -f qcow2 new");
    if (!good)
        printf("# options %s size %llu\n", o.text, (unsigned long long)size);
    return good;
}

static bool many(const char *what, bool (*one)(void), unsigned count, uint64_t seed)
{
    unsigned good = 0;

    for (unsigned i = 0; i < count; i++) {
        state = (seed + i) * 0x9e3779b97f4a7c15ULL;
        if (one())
            good++;
        else
            printf("# %s: seed %llu\n", what, (unsigned long long)(seed + i));
    }
    return ok(good == count, "%s: %u of %u", what, good, count);
}

/* ---- one thing each ---- */

static bool refused(const char *name, const char *format, const char *want)
{
    struct block_config c = {.readonly = true};
    struct err err = {0};
    struct block *b;

    snprintf(c.file, sizeof c.file, "%s", path(name));
    snprintf(c.format, sizeof c.format, "%s", format);
    b = block_open(loop, &c, &err);
    block_close(b);
    printf("# %s\n", b ? "opened" : err.text);
    return !b && strstr(err.text, want);
}

static bool poke(const char *name, uint64_t at, uint8_t value)
{
    FILE *f = fopen(path(name), "r+");
    bool good = f && fseek(f, (long)at, SEEK_SET) == 0 && fputc(value, f) == value;

    return f && fclose(f) == 0 && good;
}

static void test_chains(void)
{
    struct block *b;

    ok(sh("qemu-img create -f qcow2 a.qcow2 1M && "
          "qemu-img create -f qcow2 -b a.qcow2 -F qcow2 b.qcow2 && "
          "qemu-img rebase -u -b b.qcow2 -F qcow2 a.qcow2"),
       "two images over each other");
    ok(refused("a.qcow2", "qcow2", "meets itself"), "a circle");
    ok(sh("qemu-img rebase -u -b a.qcow2 -F qcow2 a.qcow2") &&
           refused("a.qcow2", "", "meets itself"),
       "an image over itself");
    ok(sh("qemu-img rebase -u -b nbd://localhost/x -F raw a.qcow2") &&
           refused("a.qcow2", "", "is no file"),
       "a URL is no file");
    ok(sh("rm -f *.qcow2; qemu-img create -f raw plain 1M && "
          "qemu-img create -f qcow2 -b plain -F raw guess.img") &&
           refused("guess.img", "", "say format=qcow2"),
       "a guess may not name other files");
    ok(sh("mv guess.img guess.qcow2"), "renamed");
    b = open_image("guess.qcow2", "", true);
    ok(b && b->backing, "a name that says qcow2 is the user's word");
    block_close(b);
}

static void test_broken(void)
{
    ok(sh("qemu-img create -f qcow2 x 1M"), "an image");
    ok(poke("x", 79, 0x80) && refused("x", "", "does not know: bit 7"), "an unknown feature");
    ok(poke("x", 79, 0) && poke("x", 40, 0x7f) && refused("x", "", "L1 table is not inside"),
       "L1 table outside");
    ok(poke("x", 40, 0) && poke("x", 36, 0xff) && refused("x", "", "L1 table is too large"),
       "huge L1 table");
    ok(poke("x", 36, 0) && poke("x", 45, 0) && refused("x", "", "lies over its header"),
       "L1 table over the header");
    ok(poke("x", 45, 3) && poke("x", 23, 30) && refused("x", "", "clusters of 2^30"), "clusters");
}

static void test_dirty(void)
{
    struct block *b;

    ok(sh("qemu-img create -f qcow2 -o lazy_refcounts=on d 1M && "
          "qemu-io -f qcow2 -c 'write -P 9 0 300000' -c abort d || true"),
       "qemu dies with lazy refcounts");
    ok(sh("test $(od -An -tu1 -j79 -N1 d) = 1"), "and leaves the dirty mark");
    b = open_image("d", "qcow2", false);
    ok(b && is_clean(b), "opened for writing it is mended");
    block_close(b);
    ok(sh("qemu-img check d && qemu-io -r -c 'read -P 9 0 300000' d"), "and qemu agrees");
}

static void test_preallocation(void)
{
    struct block_create c = {.format = "qcow2", .size = 1 << 20, .preallocation = PREALLOC_FULL};
    struct block_extent e = {0};
    struct err err = {0};
    struct block *b;

    c.file = path("full");
    ok(said(block_create(loop, &c, &err), &err), "preallocated");
    b = open_image("full", "qcow2", true);
    ok(b && block_map(b, 0, b->size, &e, &err) && e.data && e.length == c.size, "all of it");
    block_close(b);
    ok(sh("qemu-img check full"), "and qemu agrees");
    c.preallocation = PREALLOC_METADATA;
    ok(said(block_create(loop, &c, &err), &err) && sh("qemu-img check full"), "metadata only");
}

static void test_data_file(void)
{
    struct block_create c = {.format = "qcow2", .size = 2 << 20, .data_file = "data"};
    static uint8_t shadow[2 << 20];
    struct err err = {0};
    struct block *b;

    c.file = path("ext");
    ok(said(block_create(loop, &c, &err), &err), "an external data file");
    ok(qemu_writes("ext", shadow, sizeof shadow, 4 << 20, 12), "qemu writes");
    b = open_image("ext", "qcow2", false);
    ok(b && holds(b, shadow, sizeof shadow), "hull reads");
    for (unsigned i = 0; b && i < 10; i++)
        batch(b, shadow, 65536);
    ok(b && holds(b, shadow, sizeof shadow) && is_clean(b), "hull writes");
    block_close(b);
    ok(save("shadow", shadow, sizeof shadow) && sh("qemu-img check -f qcow2 ext") &&
           sh("qemu-img compare -f qcow2 -F raw ext shadow"),
       "qemu reads");
}

static void test_snapshots(void)
{
    struct block_config c = {.readonly = true, .format = "qcow2", .snapshot = "one"};
    struct block_snapshot *list = NULL;
    struct err err = {0};
    unsigned count = 0;
    uint8_t byte[512];
    struct block *b;

    ok(sh("qemu-img create -f qcow2 s 1M && qemu-io -f qcow2 -c 'write -P 1 0 1M' s && qemu-img "
          "snapshot -c one s && qemu-io -f qcow2 -c 'write -P 2 0 512k' s"),
       "qemu takes a snapshot");
    snprintf(c.file, sizeof c.file, "%s", path("s"));
    b = block_open(loop, &c, &err);
    ok(b && block_run(b, BLOCK_READ, 0, 0, byte, 512) == 0 && byte[0] == 1, "hull reads it");
    block_close(b);
    b = open_image("s", "qcow2", false);
    ok(b && block_snapshot_list(b, &list, &count, &err) && count == 1 &&
           strcmp(list[0].name, "one") == 0,
       "lists it");
    free(list);
    ok(b && said(block_snapshot_create(b, "two", &err), &err), "takes another");
    ok(b && said(block_snapshot_delete(b, "one", &err), &err) && is_clean(b), "deletes it");
    block_close(b);
    ok(sh("qemu-img check s && qemu-io -f qcow2 -c 'write -P 3 0 1M' s && qemu-img snapshot -a two "
          "s && "
          "qemu-io -f qcow2 -c 'read -P 2 0 512k' -c 'read -P 1 512k 512k' s && qemu-img check s"),
       "qemu goes back to hull's");
}

static const struct {
    const char *what;
    bool (*one)(void);
} histories[] = {
    {"written by hull, checked and read by qemu", write_history},
    {"made by qemu, read by hull", read_history},
    {"made by hull, taken by qemu", create_history},
};

int main(int argc, char **argv)
{
    unsigned count = argc > 1 ? (unsigned)atoi(argv[1]) : 4;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct err err = {0};

    if (system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1") != 0) {
        tap_skip("qcow2", "no qemu-img or qemu-io: apt-get install qemu-utils");
        return tap_done();
    }
    loop = loop_open(&err);
    if (!ok(loop && mkdtemp(dir), "set up"))
        return tap_done();
    test_chains();
    test_broken();
    test_dirty();
    test_preallocation();
    test_data_file();
    test_snapshots();
    for (unsigned i = 0; i < ARRAY_SIZE(histories); i++)
        many(histories[i].what, histories[i].one, count, seed);
    loop_close(loop);
    sh("rm -rf %s", dir);
    return tap_done();
}
