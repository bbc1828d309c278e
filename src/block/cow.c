/* SPDX-License-Identifier: MIT */
/* A disk whose writes are dropped at its end: they go to a scratch file without a name, everything
 * else is read from the image below, which may be shared by many machines.
 *
 *   read   runs of pieces: present in the scratch file -> it, others -> the image below
 *   write  -> scratch file; a piece (4 KiB) that is written in part only is filled from below first
 *
 * Which pieces are present is known in memory only. Fills are done one request at a time, so that
 * two writes to different parts of one piece cannot undo each other; whole pieces need none. */
#include "block/block.h"
#include "block/format.h"
#include "loop/uring.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define PIECE 4096u

struct cow {
    struct block *base; /* ours */
    int fd;
    uint64_t *present;   /* bit per piece */
    struct list waiting; /* requests that need a fill */
    struct block_req *filling;
    struct block_req fill;     /* the read from below */
    struct file_req fill_file; /* and the write to the scratch file */
    struct iovec fill_iov;
    uint64_t fill_piece;
    uint8_t *buffer; /* one piece */
    struct block *block;
};

/* One part of a request, on one side. */
struct part {
    struct file_req file;
    struct block_req below;
    struct whole *whole;
    int iov_count;
    struct iovec iov[];
};

struct whole { /* a request and how many of its parts are under way */
    struct block *b;
    struct block_req *req;
    unsigned parts;
    int result;
};

static struct cow *cow_of(struct block *b)
{
    return b->priv;
}

static bool present(const struct cow *c, uint64_t piece)
{
    return c->present[piece / 64] >> piece % 64 & 1;
}

static void set_present(struct cow *c, uint64_t first, uint64_t end)
{
    for (uint64_t p = first; p < end; p++)
        c->present[p / 64] |= BIT(p % 64);
}

/* ---- parts ---- */

static void part_release(struct whole *w, int result)
{
    struct block *b = w->b;
    struct block_req *req = w->req;

    if (result < 0 && !w->result)
        w->result = result;
    if (--w->parts)
        return;
    result = w->result;
    free(w);
    block_done(b, req, result);
}

static void part_end(struct part *p, int result)
{
    struct whole *w = p->whole;

    free(p);
    part_release(w, result);
}

static void below_done(struct block_req *req, int result)
{
    part_end(container_of(req, struct part, below), result);
}

/* Moves past `done` bytes; false if nothing is left. */
static bool part_advance(struct part *p, size_t done)
{
    p->file.offset += done;
    p->file.length -= done;
    while (done && p->file.iov_count) {
        struct iovec *v = (struct iovec *)p->file.iov;
        size_t take = min_size(done, v->iov_len);

        v->iov_base = (uint8_t *)v->iov_base + take;
        v->iov_len -= take;
        done -= take;
        if (!v->iov_len) {
            p->file.iov++;
            p->file.iov_count--;
        }
    }
    return p->file.length > 0;
}

static void file_done(struct file_req *req, int result)
{
    struct part *p = container_of(req, struct part, file);
    struct block *b = p->whole->b;

    if (result > 0 && part_advance(p, (size_t)result))
        file_submit(b->loop, req);
    else if (result == 0 && req->op == FILE_READ && req->length) { /* past its end: a hole */
        for (int i = 0; i < req->iov_count; i++)
            memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
        part_end(p, 0);
    } else
        part_end(p, result < 0 ? result : result == 0 && req->length ? -EIO : 0);
}

/* The iovecs of `len` bytes at `skip` in the request. */
static int slice(const struct block_req *req, uint64_t skip, uint64_t len, struct iovec *to)
{
    int count = 0;

    for (int i = 0; i < req->iov_count && len; i++) {
        const struct iovec *v = &req->iov[i];
        size_t part;

        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        part = min_size(v->iov_len - skip, len);
        to[count++] = (struct iovec){(uint8_t *)v->iov_base + skip, part};
        len -= part;
        skip = 0;
    }
    return count;
}

static void submit_part(struct whole *w, uint64_t at, uint64_t len, bool scratch)
{
    const struct block_req *req = w->req;
    struct cow *c = cow_of(w->b);
    struct part *p = calloc(1, sizeof *p + (size_t)req->iov_count * sizeof p->iov[0]);

    w->parts++;
    if (!p) {
        part_release(w, -ENOMEM);
        return;
    }
    p->whole = w;
    p->iov_count = slice(req, at - req->offset, len, p->iov);
    if (scratch) {
        p->file = (struct file_req){.op = req->op == BLOCK_READ ? FILE_READ : FILE_WRITE,
                                    .fd = c->fd,
                                    .offset = at,
                                    .length = len,
                                    .iov = p->iov,
                                    .iov_count = p->iov_count,
                                    .done = file_done};
        file_submit(w->b->loop, &p->file);
    } else {
        p->below = (struct block_req){.op = BLOCK_READ,
                                      .offset = at,
                                      .length = len,
                                      .iov = p->iov,
                                      .iov_count = p->iov_count,
                                      .done = below_done};
        block_submit(c->base, &p->below);
    }
}

/* With one part held, so that it cannot end while parts are still being made. */
static struct whole *whole_begin(struct block *b, struct block_req *req)
{
    struct whole *w = calloc(1, sizeof *w);

    if (!w)
        block_done_later(b, req, -ENOMEM);
    else
        *w = (struct whole){.b = b, .req = req, .parts = 1};
    return w;
}

/* Gives the held part back, from the loop and not inside submit. */
static void whole_submitted(struct whole *w)
{
    struct block *b = w->b;
    struct block_req *req = w->req;
    int result = w->result;

    if (--w->parts)
        return;
    free(w);
    block_done_later(b, req, result);
}

static void cow_read(struct block *b, struct block_req *req)
{
    struct cow *c = cow_of(b);
    struct whole *w = whole_begin(b, req);
    uint64_t at = req->offset, end = req->offset + req->length;

    while (w && at < end) {
        bool here = present(c, at / PIECE);
        uint64_t to = (at / PIECE + 1) * PIECE;

        while (to < end && present(c, to / PIECE) == here)
            to += PIECE;
        to = min_u64(to, end);
        submit_part(w, at, to - at, here);
        at = to;
    }
    if (w)
        whole_submitted(w);
}

/* ---- writes ---- */

/* The piece that this request would write in part and that is not there yet; UINT64_MAX: none. */
static uint64_t to_fill(const struct cow *c, const struct block_req *req)
{
    uint64_t first = req->offset, last = req->offset + req->length;

    if (first % PIECE && !present(c, first / PIECE))
        return first / PIECE;
    if (last % PIECE && !present(c, last / PIECE))
        return last / PIECE;
    return UINT64_MAX;
}

static void scratch_write(struct block *b, struct block_req *req)
{
    struct whole *w = whole_begin(b, req);

    if (!w)
        return;
    set_present(cow_of(b), req->offset / PIECE, (req->offset + req->length + PIECE - 1) / PIECE);
    submit_part(w, req->offset, req->length, true);
    whole_submitted(w);
}

static void zeroes_done(struct file_req *file, int result)
{
    struct part *p = container_of(file, struct part, file);

    part_end(p, result);
}

/* Whole pieces become holes of the scratch file; what is left at the ends was filled before. */
static void scratch_zero(struct block *b, struct block_req *req)
{
    struct cow *c = cow_of(b);
    struct whole *w = whole_begin(b, req);
    struct part *p = w ? calloc(1, sizeof *p) : NULL;

    if (!w)
        return;
    if (p) {
        set_present(c, req->offset / PIECE, (req->offset + req->length + PIECE - 1) / PIECE);
        w->parts++;
        p->whole = w;
        p->file = (struct file_req){.op = FILE_FALLOCATE,
                                    .fd = c->fd,
                                    .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    .offset = req->offset,
                                    .length = req->length,
                                    .done = zeroes_done};
        file_submit(b->loop, &p->file);
    } else
        w->result = -ENOMEM;
    whole_submitted(w);
}

static void write_now(struct block *b, struct block_req *req)
{
    if (req->op == BLOCK_WRITE)
        scratch_write(b, req);
    else
        scratch_zero(b, req);
}

/* ---- fills ---- */

static void fill_next(struct cow *c);

static void fill_failed(struct cow *c, int result)
{
    struct block_req *req = c->filling;

    c->filling = NULL;
    block_done(c->block, req, result < 0 ? result : -EIO);
    fill_next(c);
}

static void fill_written(struct file_req *file, int result)
{
    struct cow *c = container_of(file, struct cow, fill_file);

    if (result != (int)c->fill_iov.iov_len) {
        fill_failed(c, result);
        return;
    }
    set_present(c, c->fill_piece, c->fill_piece + 1);
    fill_next(c);
}

static void fill_read(struct block_req *fill, int result)
{
    struct cow *c = container_of(fill, struct cow, fill);

    if (result < 0) {
        fill_failed(c, result);
        return;
    }
    c->fill_file = (struct file_req){.op = FILE_WRITE,
                                     .fd = c->fd,
                                     .offset = fill->offset,
                                     .length = fill->length,
                                     .iov = &c->fill_iov,
                                     .iov_count = 1,
                                     .done = fill_written};
    file_submit(c->block->loop, &c->fill_file);
}

static void fill_begin(struct cow *c, uint64_t piece)
{
    uint64_t at = piece * PIECE;

    c->fill_piece = piece;
    c->fill_iov = (struct iovec){c->buffer, min_u64(PIECE, c->block->size - at)};
    c->fill = (struct block_req){.op = BLOCK_READ,
                                 .offset = at,
                                 .length = c->fill_iov.iov_len,
                                 .iov = &c->fill_iov,
                                 .iov_count = 1,
                                 .done = fill_read};
    block_submit(c->base, &c->fill);
}

/* Goes on with the request that fills, then with those that wait. */
static void fill_next(struct cow *c)
{
    for (;;) {
        struct block_req *req;
        uint64_t piece;

        if (!c->filling && list_empty(&c->waiting))
            return;
        if (!c->filling) {
            c->filling = container_of(c->waiting.next, struct block_req, link);
            list_remove(&c->filling->link);
        }
        piece = to_fill(c, c->filling);
        if (piece != UINT64_MAX) {
            fill_begin(c, piece);
            return;
        }
        req = c->filling;
        c->filling = NULL;
        write_now(c->block, req);
    }
}

static void cow_write(struct block *b, struct block_req *req)
{
    struct cow *c = cow_of(b);

    if (to_fill(c, req) == UINT64_MAX) {
        write_now(b, req);
        return;
    }
    list_add(&c->waiting, &req->link);
    if (!c->filling)
        fill_next(c);
}

/* ---- the block ---- */

static void cow_submit(struct block *b, struct block_req *req)
{
    switch (req->op) {
    case BLOCK_READ: cow_read(b, req); break;
    case BLOCK_WRITE:
    case BLOCK_WRITE_ZEROES: cow_write(b, req); break;
    case BLOCK_FLUSH: /* nothing outlives the machine */
    case BLOCK_DISCARD: block_done_later(b, req, 0); break;
    }
}

static void cow_close(struct block *b)
{
    struct cow *c = cow_of(b);

    block_close(c->base);
    if (c->fd >= 0)
        close(c->fd);
    free(c->present);
    free(c->buffer);
    free(c);
}

static const struct block_ops cow_ops = {
    .name = "raw", /* what the guest and query-block see is the image below */
    .submit = cow_submit,
    .close = cow_close,
};

static int open_scratch(struct err *err)
{
    const char *dir = getenv("TMPDIR");
    int fd;

    dir = dir && *dir ? dir : "/var/tmp";
    fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        err_set(err, errno, "%s: no file for a disk's temporary changes: %s; set TMPDIR", dir,
                strerror(errno));
    return fd;
}

/* A block with the shape of the one below. */
static struct block *shaped_as(struct block *base)
{
    struct block *b = malloc(sizeof *b);

    if (!b)
        return NULL;
    *b = *base;
    b->ops = &cow_ops;
    b->priv = NULL;
    b->file = NULL;
    b->under = b->backing = b->data = NULL;
    b->readonly = b->config.readonly = false;
    b->can_discard = b->config.discard;
    b->can_zero = true;
    b->in_flight = 0;
    b->finish = (struct call){.run = base->finish.run};
    list_init(&b->ready);
    list_init(&b->bitmaps);
    return b;
}

struct block *block_temporary(struct block *base, struct err *err)
{
    struct block *b = shaped_as(base);
    struct cow *c = calloc(1, sizeof *c);
    int fd = b && c ? open_scratch(err) : -1;

    if (c) {
        c->present = calloc(base->size / PIECE / 64 + 1, 8);
        c->buffer = aligned_alloc(PIECE, PIECE);
    }
    if (!b || !c || !c->present || !c->buffer)
        err_set(err, ENOMEM, "no memory for a temporary disk");
    else if (fd >= 0) {
        c->base = base;
        c->fd = fd;
        c->block = b;
        list_init(&c->waiting);
        b->priv = c;
        return b;
    }
    if (c) {
        free(c->present);
        free(c->buffer);
    }
    if (fd >= 0)
        close(fd);
    free(c);
    free(b);
    block_close(base);
    return NULL;
}
