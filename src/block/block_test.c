/* SPDX-License-Identifier: MIT */
/* Raw images over real files: data, ranges, holes, locks, full file systems, and what users do
 * wrong. */
#include "block/block.h"
#include "loop/uring.h"
#include "tap.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct loop *loop;
static char dir[] = "/var/tmp/hull-block-XXXXXX";

struct wait {
    struct block_req req;
    int result;
    bool done, submitting, inside;
};

static void on_done(struct block_req *req, int result)
{
    struct wait *w = container_of(req, struct wait, req);

    w->inside = w->submitting;
    w->result = result;
    w->done = true;
}

static void submit(struct block *b, struct wait *w)
{
    w->done = false;
    w->submitting = true;
    w->req.done = on_done;
    block_submit(b, &w->req);
    w->submitting = false;
}

static int finish(struct wait *w)
{
    while (!w->done)
        loop_turn(loop, UINT64_MAX);
    return w->inside ? -EDEADLK : w->result;
}

static int run(struct block *b, enum block_op op, unsigned flags, uint64_t offset, void *data,
               uint64_t len)
{
    struct iovec iov = {data, len};
    struct wait w = {.req = {.op = op,
                             .flags = flags,
                             .offset = offset,
                             .length = len,
                             .iov = &iov,
                             .iov_count = data ? 1 : 0}};

    submit(b, &w);
    return finish(&w);
}

static char *path(const char *name)
{
    static char text[4][PATH_MAX];
    static int n;
    char *p = text[n++ % 4];

    snprintf(p, PATH_MAX, "%s/%s", dir, name);
    return p;
}

static char *make(const char *name, uint64_t size)
{
    char *p = path(name);
    int fd = open(p, O_RDWR | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        printf("Bail out! cannot make %s\n", p);
    close(fd);
    return p;
}

static struct block_config config_for(const char *file)
{
    struct block_config c = {.discard = true};

    snprintf(c.file, sizeof c.file, "%s", file);
    return c;
}

static struct block *open_it(const char *file, enum block_cache cache)
{
    struct block_config c = config_for(file);
    struct err err = {0};
    struct block *b;

    c.cache = cache;
    b = block_open(loop, &c, &err);
    if (!b)
        printf("# %s\n", err.text);
    return b;
}

static bool refused(const char *file, bool readonly, const char *format, const char *want)
{
    struct block_config c = config_for(file);
    struct err err = {0};
    struct block *b;

    c.readonly = readonly;
    snprintf(c.format, sizeof c.format, "%s", format);
    b = block_open(loop, &c, &err);
    if (b) {
        block_close(b);
        return false;
    }
    printf("# %s\n", err.text);
    return strstr(err.text, want) && strstr(err.text, file);
}

static long blocks_of(const char *file)
{
    struct stat st;

    return stat(file, &st) == 0 ? (long)st.st_blocks : -1;
}

static void fill(uint8_t *p, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
}

/* Scattered, overlapping in pages, at odd memory addresses; a shadow copy says what must come back.
 */
static bool random_io(struct block *b, uint8_t *shadow, unsigned rounds)
{
    static uint8_t buffer[300 << 10];
    unsigned seed = 7;

    for (unsigned n = 0; n < rounds; n++) {
        struct iovec iov[5], before[5];
        struct wait w = {.req = {.iov = iov, .iov_count = 5}};
        uint64_t sectors = 5 + (unsigned)rand_r(&seed) % 500;
        uint64_t offset = (uint64_t)rand_r(&seed) % (b->size / 512 - sectors) * 512;
        bool write = rand_r(&seed) & 1;
        uint8_t *at = buffer + (n % 3) * 4 + (n & 1) * 512;
        uint64_t part = sectors / 5 * 512;

        for (int i = 0; i < 5; i++)
            iov[i] =
                (struct iovec){at + (uint64_t)i * part, i < 4 ? part : sectors * 512 - 4 * part};
        memcpy(before, iov, sizeof iov);
        if (write)
            fill(at, sectors * 512, n);
        w.req.op = write ? BLOCK_WRITE : BLOCK_READ;
        w.req.offset = offset;
        w.req.length = sectors * 512;
        submit(b, &w);
        if (finish(&w) != 0 || memcmp(before, iov, sizeof iov) != 0)
            return false;
        if (write)
            memcpy(shadow + offset, at, sectors * 512);
        else if (memcmp(shadow + offset, at, sectors * 512) != 0)
            return false;
    }
    return true;
}

static bool file_equals(const char *file, const uint8_t *shadow, size_t size)
{
    uint8_t *got = malloc(size);
    int fd = open(file, O_RDONLY);
    bool same = fd >= 0 && read(fd, got, size) == (ssize_t)size && memcmp(got, shadow, size) == 0;

    close(fd);
    free(got);
    return same;
}

static void test_data(enum block_cache cache, const char *name)
{
    enum { SIZE = 4 << 20 };
    uint8_t *shadow = calloc(1, SIZE);
    char *file = make("data", SIZE);
    struct block *b = open_it(file, cache);
    uint8_t sector[512];

    if (!b) { /* a file system without O_DIRECT */
        tap_skip(name, "cannot be opened so here");
        free(shadow);
        return;
    }
    ok(b->size == SIZE && b->sector_size == 512, "%s: size", name);
    ok(random_io(b, shadow, 150), "%s: random reads and writes agree with a copy", name);
    memset(sector, 0x5a, 512);
    memcpy(shadow + 1024, sector, 512);
    ok(run(b, BLOCK_WRITE, BLOCK_REQ_FUA, 1024, sector, 512) == 0, "%s: write with FUA", name);
    ok(run(b, BLOCK_FLUSH, 0, 0, NULL, 0) == 0, "%s: flush", name);
    ok(run(b, BLOCK_WRITE_ZEROES, 0, 1536, NULL, 100 * 512) == 0,
       "%s: write zeroes, part of a block", name);
    memset(shadow + 1536, 0, 100 * 512);
    ok(run(b, BLOCK_READ, 0, 1536, sector, 512) == 0 && memcmp(sector, shadow + 1536, 512) == 0,
       "%s: zeroes read back", name);
    block_close(b);
    ok(file_equals(file, shadow, SIZE), "%s: the file holds it all", name);
    free(shadow);
}

/* Writers of neighbouring sectors in one block, all in flight together. */
static void test_neighbours(enum block_cache cache, const char *name)
{
    enum { COUNT = 64 };
    static struct wait w[COUNT];
    static uint8_t data[COUNT][512];
    static struct iovec iov[COUNT];
    char *file = make("near", COUNT * 512);
    struct block *b = open_it(file, cache);
    bool good = true;

    if (!b) {
        tap_skip(name, "cannot be opened so here");
        return;
    }
    for (int i = 0; i < COUNT; i++) {
        memset(data[i], i + 1, 512);
        iov[i] = (struct iovec){data[i], 512};
        w[i].req = (struct block_req){.op = BLOCK_WRITE,
                                      .offset = (uint64_t)i * 512,
                                      .length = 512,
                                      .iov = &iov[i],
                                      .iov_count = 1};
        submit(b, &w[i]);
    }
    ok(!block_idle(b), "%s: requests are in flight", name);
    for (int i = 0; i < COUNT; i++)
        good &= finish(&w[i]) == 0;
    ok(good && block_idle(b), "%s: neighbours in flight together", name);
    block_close(b);
    ok(file_equals(file, data[0], sizeof data), "%s: none undid another", name);
}

static void test_holes(void)
{
    enum { SIZE = 8 << 20 };
    char *file = make("holes", SIZE);
    struct block *b = open_it(file, CACHE_WRITEBACK);
    uint8_t *data = malloc(SIZE);
    long full, after;
    bool zero = true;

    fill(data, SIZE, 3);
    ok(run(b, BLOCK_WRITE, 0, 0, data, SIZE) == 0 && run(b, BLOCK_FLUSH, 0, 0, NULL, 0) == 0,
       "fill");
    full = blocks_of(file);
    ok(run(b, BLOCK_DISCARD, 0, 1 << 20, NULL, 4 << 20) == 0, "discard");
    after = blocks_of(file);
    ok(after <= full - (4 << 20) / 512, "discard gives %ld of %ld blocks back", full - after, full);
    ok(run(b, BLOCK_READ, 0, 1 << 20, data, 4 << 20) == 0, "discarded range reads");
    for (int i = 0; i < 4 << 20; i++)
        zero &= data[i] == 0;
    ok(zero, "as zeroes");
    ok(run(b, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, 0, NULL, SIZE) == 0, "write zeroes with unmap");
    ok(blocks_of(file) <= 16, "leaves a hole");
    block_close(b);
    ok(truncate(file, SIZE) == 0 && blocks_of(file) <= 16, "size is unchanged");
    free(data);
}

static void test_checks(void)
{
    char *file = make("checks", 1 << 20);
    struct block *b = open_it(file, CACHE_WRITEBACK);
    struct block_config c = config_for(file);
    struct err err;
    uint8_t data[1024] = {0};
    struct iovec iov = {data, 1024};
    struct wait w = {.req = {.op = BLOCK_READ, .length = 512, .iov = &iov, .iov_count = 1}};

    ok(run(b, BLOCK_READ, 0, 1 << 20, data, 512) == -EINVAL, "read past the end");
    ok(run(b, BLOCK_WRITE, 0, (1 << 20) - 512, data, 1024) == -EINVAL, "write over the end");
    ok(run(b, BLOCK_READ, 0, UINT64_MAX - 511, data, 512) == -EINVAL, "offset near 2^64");
    ok(run(b, BLOCK_DISCARD, 0, 512, NULL, UINT64_MAX - 511) == -EINVAL, "length near 2^64");
    ok(run(b, BLOCK_READ, 0, 100, data, 512) == -EINVAL, "offset off a sector");
    ok(run(b, BLOCK_READ, 0, 0, data, 100) == -EINVAL, "length off a sector");
    submit(b, &w);
    ok(finish(&w) == -EINVAL, "buffers longer than the request");
    ok(b->errors == 7, "errors are counted");
    ok(run(b, BLOCK_READ, 0, 0, NULL, 0) == 0, "an empty read is no error");
    ok(run(b, BLOCK_WRITE, 0, 0, data, 512) == 0 && b->writes == 2 && b->bytes_written == 512,
       "counters");
    block_close(b);
    c.readonly = true;
    b = block_open(loop, &c, &err);
    ok(run(b, BLOCK_WRITE, 0, 0, data, 512) == -EROFS, "write to a read-only disk");
    ok(run(b, BLOCK_DISCARD, 0, 0, NULL, 512) == -EROFS, "discard on a read-only disk");
    ok(run(b, BLOCK_READ, 0, 0, data, 512) == 0 && run(b, BLOCK_FLUSH, 0, 0, NULL, 0) == 0,
       "reads and flush");
    block_close(b);
}

/* What another process gets when it opens `file`: 0 or an errno. */
static int other_opens(const char *file, bool readonly)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct block_config c = config_for(file);
        struct err err = {0};
        struct loop *l = loop_open(&err);
        struct block *b;

        c.readonly = readonly;
        b = block_open(l, &c, &err);
        _exit(b ? 0 : err.code);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_locks(void)
{
    char *file = make("lock", 1 << 20), *name = path("other-name"), *hard = path("hard");
    struct block *b = open_it(file, CACHE_WRITEBACK);
    struct block_config c = config_for(file);
    struct err err;

    ok(symlink(file, name) == 0 && link(file, hard) == 0, "other names");
    ok(other_opens(file, false) == EBUSY, "a second writer is refused");
    ok(other_opens(file, true) == EBUSY, "a reader beside a writer is refused");
    ok(other_opens(name, false) == EBUSY, "through a symbolic link too");
    ok(other_opens(hard, false) == EBUSY, "through a hard link too");
    ok(refused(file, false, "", "in use by another machine"), "the same process too");
    block_close(b);
    ok(other_opens(file, false) == 0, "free after close");
    c.readonly = true;
    b = block_open(loop, &c, &err);
    ok(other_opens(file, true) == 0, "two readers");
    ok(other_opens(file, false) == EBUSY, "a writer beside a reader is refused");
    block_close(b);
}

static void test_killed_owner(void)
{
    char *file = make("killed", 1 << 20);
    int pipes[2], status;
    char byte;
    pid_t pid;

    if (pipe(pipes) != 0)
        return;
    pid = fork();
    if (pid == 0) {
        struct block_config c = config_for(file);
        struct err err;

        block_open(loop_open(&err), &c, &err); /* the parent's ring is the parent's */
        if (write(pipes[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    ok(read(pipes[0], &byte, 1) == 1 && other_opens(file, false) == EBUSY, "held by a process");
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    ok(other_opens(file, false) == 0, "free when that is killed");
    close(pipes[0]);
    close(pipes[1]);
}

static void test_refusals(void)
{
    char *file = path("qcow2");
    int fd = open(file, O_RDWR | O_CREAT, 0600);

    ok(fd >= 0 && pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0) == 8 && ftruncate(fd, 65536) == 0,
       "a qcow2 head");
    close(fd);
    ok(refused(file, false, "", "clusters of 2^0 bytes"), "broken qcow2, by its head");
    ok(refused(file, false, "qcow2", "clusters of 2^0 bytes"), "broken qcow2, by name");
    ok(refused(file, false, "rwa", "unknown format \"rwa\""), "unknown format");
    ok(refused(path("missing"), false, "", "No such file"), "missing");
    ok(refused(dir, false, "", "is a directory"), "a directory");
    ok(refused("/dev/null", false, "", "character device"), "a character device");
    ok(refused(make("odd", 1000), false, "",
               "is 1000 bytes, not a multiple of 512: grow it with truncate -s"),
       "odd size");
    ok(refused(make("empty", 0), false, "", "is empty"), "empty");
    ok(mkfifo(path("pipe"), 0600) == 0 && refused(path("pipe"), true, "", "a pipe"),
       "a pipe, without waiting");
}

static void test_unreadable(void)
{
    char *file = make("private", 4096);
    pid_t pid;
    int status;

    chmod(file, 0400);
    chmod(dir, 0755);
    pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(3);
        if (!refused(file, false, "",
                     "Permission denied: change its permissions, or add readonly=on"))
            _exit(1);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "no permission");
}

static void test_shorter(void)
{
    char *file = make("shorter", 1 << 20);
    struct block *b = open_it(file, CACHE_WRITEBACK);
    uint8_t data[4096];

    ok(truncate(file, 4096) == 0, "someone cuts the file");
    ok(run(b, BLOCK_READ, 0, 8192, data, 4096) == -EIO, "reading beyond fails, and does not hang");
    block_close(b);
}

static void test_full(void)
{
    uint8_t data[65536];
    struct block *b;
    char *file;
    int result = 0;

    mkdir(path("small"), 0700);
    if (mount("none", path("small"), "tmpfs", 0, "size=1m") != 0) {
        tap_skip("a full file system", "cannot mount a tmpfs");
        return;
    }
    file = make("small/disk", 8 << 20);
    b = open_it(file, CACHE_WRITEBACK);
    fill(data, sizeof data, 1);
    for (uint64_t at = 0; at < b->size && result == 0; at += sizeof data)
        result = run(b, BLOCK_WRITE, 0, at, data, sizeof data);
    ok(result == -ENOSPC, "a full file system: ENOSPC arrives");
    ok(run(b, BLOCK_DISCARD, 0, 0, NULL, 512 << 10) == 0,
       "discard makes room (tmpfs punches holes)");
    ok(run(b, BLOCK_WRITE, 0, 4 << 20, data, sizeof data) == 0, "and writing works again");
    ok(run(b, BLOCK_WRITE_ZEROES, 0, 4 << 20, NULL, sizeof data - 512) == 0,
       "write zeroes without ZERO_RANGE: written");
    ok(run(b, BLOCK_READ, 0, 4 << 20, data, sizeof data) == 0 && data[0] == 0 && data[65023] == 0 &&
           data[65024] != 0,
       "exactly as far as asked");
    block_close(b);
    umount(path("small"));
}

static void test_config(void)
{
    enum block_cache cache;
    struct err err;

    ok(block_cache_parse(&cache, "", &err) && cache == CACHE_WRITEBACK, "cache: the default");
    ok(block_cache_parse(&cache, "none", &err) && cache == CACHE_NONE, "cache: a word");
    ok(!block_cache_parse(&cache, "maybe", &err) && strstr(err.text, "maybe"), "cache: %s",
       err.text);
}

static void test_all(void)
{
    test_data(CACHE_WRITEBACK, "writeback");
    test_data(CACHE_NONE, "none");
    test_data(CACHE_WRITETHROUGH, "writethrough");
    test_data(CACHE_UNSAFE, "unsafe");
    test_neighbours(CACHE_WRITEBACK, "writeback");
    test_neighbours(CACHE_NONE, "none");
    test_holes();
    test_checks();
    test_shorter();
}

int main(void)
{
    char command[PATH_MAX + 16];
    struct err err = {0};

    if (!mkdtemp(dir) || !(loop = loop_open(&err))) {
        printf("Bail out! %s\n", err.text);
        return 1;
    }
    unshare(CLONE_NEWNS); /* so that the small tmpfs cannot stay behind; without the right, it is
                             skipped */
    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    printf("# io_uring: %d\n", loop_has_uring(loop));
    test_config();
    test_all();
    test_locks();
    test_killed_owner();
    test_refusals();
    test_unreadable();
    test_full();
    loop_close(loop);
    loop_forbid_uring(true);
    loop = loop_open(&err);
    ok(!loop_has_uring(loop), "again with threads");
    test_all();
    loop_close(loop);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return tap_done() | (system(command) != 0);
}
