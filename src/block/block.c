/* SPDX-License-Identifier: MIT */
/* The front of every node: checks each request once, counts, completes. (open.c makes the nodes.)
 *
 * submit -> checks here -> the format's submit -> ... loop ... -> block_done -> the submitter's
 * done(). After this file a request lies inside the disk, on sector boundaries, with buffers that
 * add up to its length, and writes only where writing is allowed; formats rely on it. */
#include "block/bitmap.h"
#include "block/block.h"
#include "block/format.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const cache_words[] = {
    [CACHE_WRITEBACK] = "writeback",
    [CACHE_NONE] = "none",
    [CACHE_UNSAFE] = "unsafe",
    [CACHE_WRITETHROUGH] = "writethrough",
};

bool block_cache_parse(enum block_cache *cache, const char *word, struct err *err)
{
    *cache = CACHE_WRITEBACK;
    if (!*word)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(cache_words); i++) {
        *cache = (enum block_cache)i;
        if (strcmp(cache_words[i], word) == 0)
            return true;
    }
    return err_set(err, EINVAL, "cache=%.40s: writeback, none, unsafe and writethrough are known",
                   word);
}

static void finish_ready(struct call *c)
{
    struct block *b = container_of(c, struct block, finish);

    while (!list_empty(&b->ready)) {
        struct block_req *req = container_of(b->ready.next, struct block_req, link);

        list_remove(&req->link);
        block_done(b, req, req->result);
    }
}

struct block *block_new(struct loop *loop, const struct block_config *config)
{
    struct block *b = calloc(1, sizeof *b);

    if (!b)
        return NULL;
    b->loop = loop;
    b->config = *config;
    b->sector_size = 512;
    b->finish.run = finish_ready;
    list_init(&b->ready);
    list_init(&b->bitmaps);
    return b;
}

static bool is_data(enum block_op op)
{
    return op == BLOCK_READ || op == BLOCK_WRITE;
}

static bool iov_fits(const struct block_req *req)
{
    uint64_t left = req->length;

    for (int i = 0; i < req->iov_count; i++) {
        if (req->iov[i].iov_len > left)
            return false;
        left -= req->iov[i].iov_len;
    }
    return left == 0;
}

/* 0, or why the request is refused. */
static int request_check(const struct block *b, const struct block_req *req)
{
    uint64_t mask = b->sector_size - 1;

    if (req->op != BLOCK_READ && req->op != BLOCK_FLUSH && b->readonly)
        return -EROFS;
    if (req->op == BLOCK_FLUSH)
        return 0;
    if (((req->offset | req->length) & mask) != 0)
        return -EINVAL;
    if (req->offset > b->size || req->length > b->size - req->offset)
        return -EINVAL;
    if (is_data(req->op) && !iov_fits(req))
        return -EINVAL;
    if (req->op == BLOCK_DISCARD && !b->can_discard)
        return -EOPNOTSUPP;
    return 0;
}

static void count_begin(struct block *b, const struct block_req *req)
{
    switch (req->op) {
    case BLOCK_READ: b->reads++; break;
    case BLOCK_WRITE:
    case BLOCK_WRITE_ZEROES: b->writes++; break;
    case BLOCK_FLUSH: b->flushes++; break;
    case BLOCK_DISCARD: break;
    }
}

void block_submit(struct block *b, struct block_req *req)
{
    int refused = request_check(b, req);

    b->in_flight++;
    count_begin(b, req);
    if (refused)
        block_done_later(b, req, refused);
    else if (req->length == 0 && req->op != BLOCK_FLUSH)
        block_done_later(b, req, 0);
    else
        b->ops->submit(b, req);
}

/* A request that was refused wrote nothing, and may lie anywhere. */
static void mark_written(struct block *b, const struct block_req *req)
{
    if (request_check(b, req) == 0)
        block_bitmap_mark(b, req->offset, req->length);
}

void block_done(struct block *b, struct block_req *req, int result)
{
    b->in_flight--;
    if (req->flags & BLOCK_REQ_INTERNAL) {
        req->done(req, result);
        return;
    }
    if (!list_empty(&b->bitmaps) && req->op != BLOCK_READ && req->op != BLOCK_FLUSH && req->length)
        mark_written(b, req);
    if (result < 0)
        b->errors++;
    else if (req->op == BLOCK_READ)
        b->bytes_read += req->length;
    else if (req->op == BLOCK_WRITE)
        b->bytes_written += req->length;
    req->done(req, result);
}

void block_done_later(struct block *b, struct block_req *req, int result)
{
    req->result = result;
    list_add(&b->ready, &req->link);
    loop_post(b->loop, &b->finish);
}

uint64_t block_end(struct block *b)
{
    struct stat st;

    if (b->file && !b->file->is_device && fstat(b->file->fd, &st) == 0)
        b->end = (uint64_t)st.st_size;
    return b->end;
}

bool block_idle(const struct block *b)
{
    return b->in_flight == 0;
}

struct waited {
    struct block_req req;
    int result;
    bool done;
};

static void on_waited(struct block_req *req, int result)
{
    struct waited *w = container_of(req, struct waited, req);

    w->result = result;
    w->done = true;
}

int block_run(struct block *b, enum block_op op, unsigned flags, uint64_t offset, void *data,
              uint64_t length)
{
    struct iovec iov = {data, length};
    struct waited w = {.req = {.op = op,
                               .flags = flags,
                               .offset = offset,
                               .length = length,
                               .iov = &iov,
                               .iov_count = data ? 1 : 0,
                               .done = on_waited}};

    block_submit(b, &w.req);
    while (!w.done)
        loop_turn(b->loop, UINT64_MAX);
    return w.result;
}

void block_close(struct block *b)
{
    if (!b)
        return;
    while (!block_idle(b))
        loop_turn(b->loop, UINT64_MAX);
    b->ops->close(b);
    block_free(b);
}

void block_free(struct block *b)
{
    loop_unpost(b->loop, &b->finish); /* it may be posted although nothing is left to finish */
    block_bitmap_free_all(b);
    block_close(b->backing);
    block_close(b->data);
    block_close(b->under);
    if (b->file)
        image_file_close(b->file);
    free(b->file);
    free(b);
}
