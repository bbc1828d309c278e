/* SPDX-License-Identifier: MIT */
/* Raw images: the disk's bytes are the file's bytes.
 *
 * A request is a little machine that lives in its scratch space. raw_step gives its next file
 * operation to the loop, raw_stepped takes the result:
 *
 *   read, write      transfer ... transfer [sync]      a transfer may be short: the rest follows
 *   flush            sync
 *   discard          fallocate
 *   write zeroes     fallocate, or where the file system has none: transfers of zeroes [sync]
 *
 * Under cache=none memory must be aligned as O_DIRECT asks. A transfer that is not goes through a
 * bounce buffer; a write that does not fill whole blocks reads them first, alone, so that two
 * writes to one block cannot undo each other. */
#include "block/format.h"
#include "block/image.h"
#include "loop/uring.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BOUNCE_MAX = 1 << 20,
    ZERO_CHUNK = 64 << 10,
    ZERO_IOV = 64,
};

#define SIZE_LIMIT (1ULL << 62) /* of a node below a format, which has no size of its own */

struct raw {
    uint32_t align; /* O_DIRECT's, or 1 */
    bool no_punch;  /* the file system said that it cannot; learnt once */
    bool no_zero_range;
    struct block_req *alone; /* a read-modify-write in progress, or NULL */
    unsigned active;         /* requests that have been started */
    struct list waiting;     /* behind a read-modify-write, in order */
    struct log_limit limit;
};

enum raw_stage { STAGE_TRANSFER, STAGE_FILL, STAGE_FALLOCATE, STAGE_ZERO, STAGE_SYNC };

struct raw_req { /* in block_req.scratch */
    struct file_req file;
    struct block *b;
    uint64_t at;        /* bytes done */
    struct iovec piece; /* what the file operation uses when not the submitter's own iov */
    struct iovec kept;  /* the entry of iov that a short transfer has shortened, as it was */
    int index;          /* the first entry not wholly done */
    uint16_t stage;
    bool shortened, alone;
    void *bounce; /* NULL, or BOUNCE_MAX bytes */
};
_Static_assert(sizeof(struct raw_req) <= sizeof(((struct block_req *)0)->scratch),
               "scratch too small");

static const char zeroes[ZERO_CHUNK] __attribute__((aligned(4096)));
static struct iovec zero_iov[ZERO_IOV]; /* all entries alike: filled in raw_open */

static void raw_stepped(struct file_req *file, int result);
static void raw_step(struct block *b, struct block_req *req);

static struct raw_req *scratch(struct block_req *req)
{
    return (struct raw_req *)(void *)req->scratch;
}

static struct block_req *owner(struct raw_req *r)
{
    return container_of((uint64_t(*)[24])(void *)r, struct block_req, scratch);
}

static bool wants_sync(const struct block *b, const struct block_req *req)
{
    if (req->op != BLOCK_WRITE && req->op != BLOCK_WRITE_ZEROES)
        return false;
    return b->config.cache == CACHE_WRITETHROUGH ||
           ((req->flags & BLOCK_REQ_FUA) && b->config.cache != CACHE_UNSAFE);
}

/* Puts a shortened entry of the submitter's iov back as it was. */
static void iov_restore(struct block_req *req, struct raw_req *r)
{
    if (r->shortened)
        req->iov[r->index] = r->kept;
    r->shortened = false;
}

static void iov_advance(struct block_req *req, struct raw_req *r, uint64_t bytes)
{
    while (bytes || (r->index < req->iov_count && req->iov[r->index].iov_len == 0)) {
        struct iovec *v = &req->iov[r->index];

        if (bytes < v->iov_len) {
            if (!r->shortened)
                r->kept = *v;
            r->shortened = true;
            v->iov_base = (char *)v->iov_base + bytes;
            v->iov_len -= bytes;
            return;
        }
        bytes -= v->iov_len;
        iov_restore(req, r);
        r->index++;
    }
}

/* Copies between the bounce buffer and the submitter's memory at the current place; does not
 * advance. */
static void iov_copy(struct block_req *req, struct raw_req *r, char *bounce, uint64_t bytes)
{
    if (req->op == BLOCK_WRITE_ZEROES) {
        memset(bounce, 0, bytes);
        return;
    }
    for (int i = r->index; bytes; i++) {
        size_t n = min_u64(bytes, req->iov[i].iov_len);

        if (req->op == BLOCK_READ)
            memcpy(req->iov[i].iov_base, bounce, n);
        else
            memcpy(bounce, req->iov[i].iov_base, n);
        bounce += n;
        bytes -= n;
    }
}

/* The rest of the submitter's memory. */
static void iov_zero(struct block_req *req, struct raw_req *r)
{
    for (int i = r->index; i < req->iov_count; i++)
        memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
}

static void submit_file(struct block *b, struct raw_req *r, enum file_op op, uint64_t offset,
                        const struct iovec *iov, int count)
{
    r->file.op = op;
    r->file.fd = b->file->fd;
    r->file.offset = offset;
    r->file.iov = iov;
    r->file.iov_count = count;
    r->file.length = 0;
    for (int i = 0; i < count; i++)
        r->file.length += iov[i].iov_len;
    r->file.done = raw_stepped;
    file_submit(b->loop, &r->file);
}

static bool memory_aligned(const struct block_req *req, const struct raw_req *r, uint32_t align)
{
    for (int i = r->index; i < req->iov_count; i++) {
        if (((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) & (align - 1))
            return false;
    }
    return true;
}

/* The whole blocks around the next part of the request, as much as the bounce buffer takes. */
static uint64_t window(const struct raw *raw, const struct block_req *req, const struct raw_req *r,
                       uint64_t *length)
{
    uint64_t from = req->offset + r->at;
    uint64_t start = align_down(from, raw->align);

    *length = min_u64(BOUNCE_MAX, align_up(req->offset + req->length, raw->align) - start);
    return start;
}

static bool fills_blocks(const struct raw *raw, const struct block_req *req)
{
    return ((req->offset | req->length) & (raw->align - 1)) == 0;
}

static void step_bounce(struct block *b, struct block_req *req)
{
    struct raw *raw = b->priv;
    struct raw_req *r = scratch(req);
    uint64_t length, start = window(raw, req, r, &length);
    uint64_t skip = req->offset + r->at - start;

    r->piece = (struct iovec){r->bounce, length};
    if (req->op == BLOCK_READ || (r->stage == STAGE_FILL && !fills_blocks(raw, req))) {
        submit_file(b, r, FILE_READ, start, &r->piece, 1);
        return;
    }
    r->stage = STAGE_TRANSFER;
    iov_copy(req, r, (char *)r->bounce + skip, min_u64(length - skip, req->length - r->at));
    submit_file(b, r, FILE_WRITE, start, &r->piece, 1);
}

static void step_fallocate(struct block *b, struct block_req *req)
{
    struct raw *raw = b->priv;
    struct raw_req *r = scratch(req);
    bool punch = req->op == BLOCK_DISCARD || ((req->flags & BLOCK_REQ_UNMAP) && !raw->no_punch);

    r->file.op = FILE_FALLOCATE;
    r->file.fd = b->file->fd;
    r->file.mode = (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
    r->file.offset = req->offset;
    r->file.length = req->length;
    r->file.done = raw_stepped;
    file_submit(b->loop, &r->file);
}

static void step_zero(struct block *b, struct block_req *req)
{
    struct raw_req *r = scratch(req);
    uint64_t left = req->length - r->at;

    if (left >= ZERO_CHUNK) {
        submit_file(b, r, FILE_WRITE, req->offset + r->at, zero_iov,
                    (int)min_u64(left / ZERO_CHUNK, ZERO_IOV));
        return;
    }
    r->piece = (struct iovec){(void *)zeroes, left};
    submit_file(b, r, FILE_WRITE, req->offset + r->at, &r->piece, 1);
}

static void raw_step(struct block *b, struct block_req *req)
{
    struct raw_req *r = scratch(req);

    switch ((enum raw_stage)r->stage) {
    case STAGE_TRANSFER:
        if (r->bounce) {
            r->stage = STAGE_FILL;
            step_bounce(b, req);
        } else {
            int count = req->iov_count - r->index;

            submit_file(b, r, req->op == BLOCK_READ ? FILE_READ : FILE_WRITE, req->offset + r->at,
                        req->iov + r->index, count < IOV_MAX ? count : IOV_MAX);
        }
        break;
    case STAGE_FILL: step_bounce(b, req); break;
    case STAGE_FALLOCATE: step_fallocate(b, req); break;
    case STAGE_ZERO: step_zero(b, req); break;
    case STAGE_SYNC: submit_file(b, r, FILE_FSYNC, 0, NULL, 0); break;
    }
}

static void start_waiting(struct block *b);

static void raw_end(struct block *b, struct block_req *req, int result)
{
    struct raw *raw = b->priv;
    struct raw_req *r = scratch(req);

    iov_restore(req, r);
    free(r->bounce);
    raw->active--;
    if (raw->alone == req)
        raw->alone = NULL;
    if (result < 0 && result != -EOPNOTSUPP)
        log_guest(&raw->limit, "%s: %s at byte %llu failed: %s", b->config.file,
                  req->op == BLOCK_READ ? "read" : "write", (unsigned long long)req->offset,
                  strerror(-result));
    block_done(b, req, result);
    start_waiting(b);
}

/* Nothing more can be read. Below a format, and in the last sector of a disk whose file is no whole
 * number of sectors, that reads as zeroes; else the file has become shorter under us. */
static void at_end_of_file(struct block *b, struct block_req *req)
{
    struct raw_req *r = scratch(req);

    if (req->op != BLOCK_READ || (!b->config.growable && b->file->size == b->size)) {
        raw_end(b, req, -EIO);
        return;
    }
    iov_zero(req, r);
    raw_end(b, req, 0);
}

/* A part of a transfer is done: what comes next, or the end. */
static void transferred(struct block *b, struct block_req *req, uint64_t bytes)
{
    struct raw_req *r = scratch(req);

    if (req->op != BLOCK_WRITE_ZEROES)
        iov_advance(req, r, bytes);
    r->at += bytes;
    if (r->at < req->length)
        raw_step(b, req);
    else if (wants_sync(b, req)) {
        r->stage = STAGE_SYNC;
        raw_step(b, req);
    } else
        raw_end(b, req, 0);
}

static void bounced(struct block *b, struct block_req *req, uint64_t bytes)
{
    struct raw *raw = b->priv;
    struct raw_req *r = scratch(req);
    uint64_t length, start = window(raw, req, r, &length);
    uint64_t skip = req->offset + r->at - start;

    if (req->op != BLOCK_READ &&
        r->stage == STAGE_FILL) { /* old contents are here: put ours over them */
        if (bytes < length && !b->config.growable) {
            raw_end(b, req, -EIO);
            return;
        }
        memset((char *)r->bounce + bytes, 0, length - bytes);
        r->stage = STAGE_TRANSFER;
        iov_copy(req, r, (char *)r->bounce + skip, min_u64(length - skip, req->length - r->at));
        submit_file(b, r, FILE_WRITE, start, &r->piece, 1);
        return;
    }
    if (bytes <= skip) {
        at_end_of_file(b, req);
        return;
    }
    bytes = min_u64(bytes - skip, req->length - r->at);
    if (req->op == BLOCK_READ)
        iov_copy(req, r, (char *)r->bounce + skip, bytes);
    r->stage = STAGE_TRANSFER;
    transferred(b, req, bytes);
}

/* No fallocate for this: the zeroes are written. Parts of blocks go through the bounce buffer. */
static void write_zeroes(struct block *b, struct block_req *req)
{
    struct raw_req *r = scratch(req);

    r->stage = fills_blocks(b->priv, req) ? STAGE_ZERO : STAGE_TRANSFER;
    if (r->stage == STAGE_TRANSFER && posix_memalign(&r->bounce, 4096, BOUNCE_MAX) != 0) {
        r->bounce = NULL;
        raw_end(b, req, -ENOMEM);
        return;
    }
    raw_step(b, req);
}

static void fallocated(struct block *b, struct block_req *req, int result)
{
    struct raw *raw = b->priv;
    struct raw_req *r = scratch(req);
    bool unsupported = result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL;

    if (result >= 0) {
        r->at = req->length;
        r->stage = wants_sync(b, req) ? STAGE_SYNC : STAGE_FALLOCATE;
        if (r->stage == STAGE_SYNC)
            raw_step(b, req);
        else
            raw_end(b, req, 0);
    } else if (!unsupported) {
        raw_end(b, req, result);
    } else if (r->file.mode & FALLOC_FL_PUNCH_HOLE) {
        raw->no_punch = true;
        if (req->op == BLOCK_DISCARD)
            raw_end(b, req, 0); /* a discard is advice: to do nothing is right too */
        else
            raw_step(b, req);
    } else {
        raw->no_zero_range = true;
        write_zeroes(b, req);
    }
}

/* Did a read stop, within a block, where the file ends? */
static bool ends_at(const struct block *b, const struct raw_req *r, int result)
{
    struct stat st;

    return r->file.op == FILE_READ && fstat(b->file->fd, &st) == 0 &&
           (uint64_t)st.st_size <= r->file.offset + (uint64_t)result;
}

static void raw_stepped(struct file_req *file, int result)
{
    struct raw_req *r = container_of(file, struct raw_req, file);
    struct block_req *req = owner(r);
    struct block *b = r->b;
    struct raw *raw = b->priv;

    /* Under O_DIRECT the rest must start on a block too: but a file may end within one. */
    if (result > 0 && !(result % raw->align == 0 || ends_at(b, r, result)))
        result = (int)align_down((uint64_t)result, raw->align);
    if (result == -EINTR)
        raw_step(b, req);
    else if (r->stage == STAGE_FALLOCATE)
        fallocated(b, req, result);
    else if (result < 0)
        raw_end(b, req, result);
    else if (r->stage == STAGE_SYNC)
        raw_end(b, req, 0);
    else if (result == 0 && r->stage == STAGE_FILL && r->bounce && b->config.growable)
        bounced(b, req, 0);
    else if (result == 0)
        at_end_of_file(b, req);
    else if (r->bounce)
        bounced(b, req, (uint64_t)result);
    else
        transferred(b, req, (uint64_t)result);
}

/* Chooses the first stage and, under O_DIRECT, gets a bounce buffer where one is needed. */
static int prepare(struct block *b, struct block_req *req)
{
    struct raw *raw = b->priv;
    struct raw_req *r = scratch(req);

    *r = (struct raw_req){.b = b};
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        r->alone = req->op == BLOCK_WRITE && !fills_blocks(raw, req);
        if (fills_blocks(raw, req) && memory_aligned(req, r, raw->align))
            return 0;
        return posix_memalign(&r->bounce, 4096, BOUNCE_MAX) == 0 ? 0 : -ENOMEM;
    case BLOCK_FLUSH: r->stage = STAGE_SYNC; return 0;
    case BLOCK_DISCARD: r->stage = STAGE_FALLOCATE; return 0;
    case BLOCK_WRITE_ZEROES:
        r->stage = STAGE_FALLOCATE;
        r->alone = !fills_blocks(raw, req);
        return 0;
    }
    return -EINVAL;
}

static bool may_start(const struct raw *raw, struct block_req *req)
{
    return !raw->alone && !(scratch(req)->alone && raw->active);
}

static void start(struct block *b, struct block_req *req)
{
    struct raw *raw = b->priv;

    raw->active++;
    if (scratch(req)->alone)
        raw->alone = req;
    if (req->op == BLOCK_WRITE_ZEROES && raw->no_zero_range &&
        (raw->no_punch || !(req->flags & BLOCK_REQ_UNMAP)))
        write_zeroes(b, req);
    else
        raw_step(b, req);
}

static void start_waiting(struct block *b)
{
    struct raw *raw = b->priv;

    while (!list_empty(&raw->waiting)) {
        struct block_req *req = container_of(raw->waiting.next, struct block_req, link);

        if (!may_start(raw, req))
            return;
        list_remove(&req->link);
        start(b, req);
    }
}

/* A disk that was only guessed to be raw must not come back as another format, naming other files,
 * because its guest wrote such a head. */
static bool would_change_format(const struct block_req *req)
{
    uint8_t head[128];
    size_t have = 0;

    for (int i = 0; i < req->iov_count && have < sizeof head; i++) {
        size_t n = min_size(req->iov[i].iov_len, sizeof head - have);

        memcpy(head + have, req->iov[i].iov_base, n);
        have += n;
    }
    return block_head_is_format(head, have);
}

static void raw_submit(struct block *b, struct block_req *req)
{
    struct raw *raw = b->priv;
    bool nothing = (req->op == BLOCK_FLUSH && (b->config.cache == CACHE_UNSAFE || b->readonly)) ||
                   (req->op == BLOCK_DISCARD && raw->no_punch);
    int failed = nothing ? 0 : prepare(b, req);

    if (unlikely(req->offset == 0 && req->op == BLOCK_WRITE && b->config.guessed) &&
        would_change_format(req)) {
        log_guest(&raw->limit, "%s: its guest writes another format's header: needs format=raw",
                  b->config.file);
        free(scratch(req)->bounce);
        failed = -EPERM;
    }

    if (nothing || failed)
        block_done_later(b, req, failed);
    else if (!list_empty(&raw->waiting) || !may_start(raw, req))
        list_add(&raw->waiting, &req->link);
    else
        start(b, req);
}

static bool raw_probe(const void *head, size_t len)
{
    (void)head;
    (void)len;
    return true;
}

static bool check_size(const struct block *b, const struct raw *raw, struct err *err)
{
    uint64_t size = b->file->size;

    if (b->config.growable || (b->readonly && size))
        return true;
    if (size == 0)
        return err_set(err, EINVAL, "%s: is empty: give it a size with truncate -s SIZE FILE",
                       b->config.file);
    if (size % 512)
        return err_set(
            err, EINVAL,
            "%s: is %llu bytes, not a multiple of 512: grow it with truncate -s %%512 FILE",
            b->config.file, (unsigned long long)size);
    if (size % raw->align)
        return err_set(
            err, EINVAL,
            "%s: is %llu bytes, not a multiple of %u, which cache=none needs here: grow it "
            "with truncate -s %%%u FILE",
            b->config.file, (unsigned long long)size, raw->align, raw->align);
    return true;
}

static bool raw_open(struct block *b, struct err *err)
{
    struct raw *raw = calloc(1, sizeof *raw);

    if (!raw)
        return err_set(err, ENOMEM, "%s: out of memory", b->config.file);
    list_init(&raw->waiting);
    raw->align = b->file->direct_align ? b->file->direct_align : 1;
    if (!check_size(b, raw, err)) {
        free(raw);
        return false;
    }
    for (unsigned i = 0; i < ZERO_IOV; i++)
        zero_iov[i] = (struct iovec){(void *)zeroes, sizeof zeroes};
    b->size = b->config.growable ? SIZE_LIMIT : align_up(b->file->size, 512);
    b->end = b->file->size;
    b->physical_size = b->file->block_size;
    b->discard_align = b->file->discard_align;
    b->can_discard = b->config.discard && !b->readonly;
    b->can_zero = !b->readonly;
    b->priv = raw;
    return true;
}

static void raw_close(struct block *b)
{
    free(b->priv);
}

/* The file's size, not the node's: below a format this is how it gives space back. */
static bool raw_resize(struct block *b, uint64_t size, struct err *err)
{
    if (b->file->is_device && size <= b->file->size)
        return true;
    if (ftruncate(b->file->fd, (off_t)size) != 0)
        return err_set(err, errno, "%s: cannot be made %llu bytes: %s", b->config.file,
                       (unsigned long long)size, strerror(errno));
    b->file->size = b->end = size;
    if (!b->config.growable)
        b->size = size;
    return true;
}

static bool raw_map(struct block *b, uint64_t offset, struct block_extent *e, struct err *err)
{
    uint64_t end = b->config.growable ? b->file->size : b->size;
    off_t data = lseek(b->file->fd, (off_t)offset, SEEK_DATA), hole;

    (void)err;
    e->node = b;
    e->present = e->has_offset = true;
    e->host_offset = offset;
    e->data = true;
    if (data < 0 && errno == ENXIO)
        data = (off_t)end; /* nothing but hole up to the end */
    if (data < 0) {
        e->length = end - offset; /* a file system that cannot tell */
        return true;
    }
    if ((uint64_t)data > offset) {
        e->data = false;
        e->zero = true;
        e->length = min_u64((uint64_t)data, end) - offset;
        return true;
    }
    hole = lseek(b->file->fd, (off_t)offset, SEEK_HOLE);
    e->length = (hole < 0 ? end : min_u64(end, align_up((uint64_t)hole, 512))) - offset;
    return true;
}

const struct block_ops raw_ops = {
    .name = "raw",
    .probe = raw_probe,
    .open = raw_open,
    .submit = raw_submit,
    .close = raw_close,
    .map = raw_map,
    .resize = raw_resize,
};
