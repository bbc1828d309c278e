/* SPDX-License-Identifier: MIT */
/* A temporary disk against a copy in memory: random reads, writes and zeroes of all alignments,
 * many at once; the image below never changes. */
#include "block/block.h"
#include "tap.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define DISK    (1 * MiB + 1536) /* its last piece is a short one */
#define SECTORS (DISK / 512)
#define DEPTH   16

static struct loop *loop;
static uint8_t *model, *below;
static uint64_t seed = 88172645463325252ULL;

struct job {
    struct block_req req;
    struct iovec iov[2];
    uint8_t *data;
    uint64_t at, len;
    bool busy;
    int result;
};

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void on_done(struct block_req *req, int result)
{
    struct job *j = container_of(req, struct job, req);

    j->busy = false;
    j->result = result;
}

/* With one that is under way, or over and not yet looked at. */
static bool overlaps(const struct job *jobs, uint64_t at, uint64_t len)
{
    for (unsigned i = 0; i < DEPTH; i++)
        if (jobs[i].len && at < jobs[i].at + jobs[i].len && jobs[i].at < at + len)
            return true;
    return false;
}

static void begin(struct block *b, struct job *j, uint64_t at, uint64_t len)
{
    unsigned kind = random64() % 8;
    uint64_t cut = len / 512 > 1 ? (1 + random64() % (len / 512 - 1)) * 512 : len;

    j->at = at;
    j->len = len;
    j->busy = true;
    j->iov[0] = (struct iovec){j->data, cut};
    j->iov[1] = (struct iovec){j->data + cut, len - cut};
    j->req = (struct block_req){.op = kind < 3   ? BLOCK_READ
                                      : kind < 7 ? BLOCK_WRITE
                                                 : BLOCK_WRITE_ZEROES,
                                .offset = at,
                                .length = len,
                                .iov = j->iov,
                                .iov_count = len > cut ? 2 : 1,
                                .done = on_done};
    if (j->req.op == BLOCK_WRITE) {
        for (uint64_t i = 0; i < len; i++)
            j->data[i] = (uint8_t)random64();
        memcpy(model + at, j->data, len);
    } else if (j->req.op == BLOCK_WRITE_ZEROES) {
        j->req.iov_count = 0;
        memset(model + at, 0, len);
    }
    block_submit(b, &j->req);
}

/* Waits until it is over; false if it failed or read something else than was written. */
static bool end(struct job *j)
{
    if (!j->len)
        return true;
    while (j->busy)
        loop_turn(loop, UINT64_MAX);
    return j->result == 0 && (j->req.op != BLOCK_READ || !memcmp(model + j->at, j->data, j->len));
}

static void test_random(struct block *b)
{
    static struct job jobs[DEPTH];
    unsigned wrong = 0, checks = 0;

    for (unsigned i = 0; i < DEPTH; i++)
        jobs[i].data = malloc(64 * KiB);
    for (unsigned n = 0; n < 4000; n++) {
        struct job *j = &jobs[n % DEPTH];
        uint64_t at = random64() % SECTORS * 512;
        uint64_t len = (1 + random64() % (random64() & 1 ? 16 : 128)) * 512;

        wrong += !end(j);
        checks++;
        j->len = 0;
        len = min_u64(len, DISK - at);
        if (!overlaps(jobs, at, len))
            begin(b, j, at, len);
    }
    for (unsigned i = 0; i < DEPTH; i++) {
        wrong += !end(&jobs[i]);
        free(jobs[i].data);
    }
    ok(!wrong, "%u requests, %u of them wrong", checks, wrong);
}

static void test_whole(struct block *b)
{
    struct job j = {.data = malloc(DISK), .at = 0, .len = DISK, .busy = true};

    j.iov[0] = (struct iovec){j.data, DISK};
    j.req = (struct block_req){
        .op = BLOCK_READ, .length = DISK, .iov = j.iov, .iov_count = 1, .done = on_done};
    block_submit(b, &j.req);
    ok(end(&j), "all of the disk is as it should be");
    free(j.data);
}

int main(void)
{
    char path[] = "/var/tmp/hull-cow-XXXXXX";
    int fd = mkstemp(path);
    struct block_config config = {.readonly = true, .discard = true};
    struct err err = {0};
    struct block *base, *b;
    uint8_t *after = malloc(DISK);

    model = malloc(DISK);
    below = malloc(DISK);
    for (unsigned i = 0; i < DISK; i++)
        model[i] = below[i] = (uint8_t)random64();
    if (write(fd, below, DISK) != DISK)
        return 1;
    loop = loop_open(&err);
    snprintf(config.file, sizeof config.file, "%s", path);
    base = block_open(loop, &config, &err);
    b = base ? block_temporary(base, &err) : NULL;
    if (!ok(b != NULL && !b->readonly && b->size == DISK, "opens %s", err.text))
        return tap_done();
    base = block_open(loop, &config, &err);
    ok(base != NULL, "the image below can be shared %s", err.text);
    block_close(base);
    test_random(b);
    test_whole(b);
    block_close(b);
    ok(pread(fd, after, DISK, 0) == DISK && !memcmp(after, below, DISK),
       "the image below is as it was");
    unlink(path);
    close(fd);
    free(after);
    free(model);
    free(below);
    loop_close(loop);
    return tap_done();
}
