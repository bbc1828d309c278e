/* SPDX-License-Identifier: MIT */
/* The front of every disk image: chooses the format, checks each request once, counts, completes.
 *
 * submit -> checks here -> the format's submit -> ... loop ... -> block_done -> the submitter's
 * done(). After this file a request lies inside the disk, on sector boundaries, with buffers that
 * add up to its length, and writes only where writing is allowed; formats rely on it. */
#include "block/block.h"
#include "block/format.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Probed in this order; raw takes whatever is left, so it is last. */
static const struct block_ops *const formats[] = {&raw_ops};

/* Formats that users have and that this version cannot read: better said than booted as raw. */
static const struct foreign {
    const char *name;
    unsigned at, len;
    const char *magic;
} foreign[] = {
    {"qcow2", 0, 4, "QFI\xfb"},
    {"vmdk", 0, 4, "KDMV"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
};

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

static const struct block_ops *format_by_name(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    }
    return NULL;
}

static const struct foreign *foreign_by_name(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++) {
        if (strcmp(foreign[i].name, name) == 0)
            return &foreign[i];
    }
    return NULL;
}

static bool refuse_foreign(const char *file, const struct foreign *f, struct err *err)
{
    return err_set(err, ENOTSUP,
                   "%s: format %s comes with a later version: qemu-img convert -O raw makes a raw "
                   "copy",
                   file, f->name);
}

static const struct block_ops *format_probe(const char *file, const void *head, size_t len,
                                            struct err *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++) {
        const struct foreign *f = &foreign[i];

        if (f->at + f->len <= len && memcmp((const char *)head + f->at, f->magic, f->len) == 0) {
            refuse_foreign(file, f, err);
            return NULL;
        }
    }
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        if (formats[i]->probe(head, len))
            return formats[i];
    }
    return &raw_ops;
}

static const struct block_ops *format_choose(struct block *b, struct image_file *f, struct err *err)
{
    const struct block_config *c = &b->config;
    const struct block_ops *ops;
    /* O_DIRECT wants memory, offset and length aligned; a short answer is fine. */
    _Alignas(4096) char head[4096];
    ssize_t got;

    if (c->format[0]) {
        const struct foreign *other = foreign_by_name(c->format);

        ops = format_by_name(c->format);
        if (other)
            refuse_foreign(c->file, other, err);
        else if (!ops)
            err_set(err, EINVAL, "%s: unknown format \"%s\": formats are raw", c->file, c->format);
        return ops;
    }
    got = pread(f->fd, head, sizeof head, 0);
    if (got < 0) {
        err_set(err, errno, "%s: cannot be read: %s", c->file, strerror(errno));
        return NULL;
    }
    return format_probe(c->file, head, (size_t)got, err);
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

struct block *block_open(struct loop *loop, const struct block_config *config, struct err *err)
{
    struct block *b = calloc(1, sizeof *b);
    struct image_file *f = calloc(1, sizeof *f);

    if (!b || !f) {
        err_set(err, ENOMEM, "%s: out of memory", config->file);
        goto free_block;
    }
    b->loop = loop;
    b->config = *config;
    b->sector_size = 512;
    b->file = f;
    b->finish.run = finish_ready;
    list_init(&b->ready);
    if (!image_file_open(f, config, err))
        goto free_block;
    b->readonly = f->readonly;
    b->rotational = f->rotational;
    b->ops = format_choose(b, f, err);
    if (!b->ops || !b->ops->open(b, err))
        goto close_file;
    return b;
close_file:
    image_file_close(f);
free_block:
    free(f);
    free(b);
    return NULL;
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

void block_done(struct block *b, struct block_req *req, int result)
{
    b->in_flight--;
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

bool block_idle(const struct block *b)
{
    return b->in_flight == 0;
}

void block_close(struct block *b)
{
    if (!b)
        return;
    while (!block_idle(b))
        loop_turn(b->loop, UINT64_MAX);
    b->ops->close(b);
    image_file_close(b->file);
    free(b->file);
    free(b);
}
