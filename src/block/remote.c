/* SPDX-License-Identifier: MIT */
/* Disks that are no files: nbd://, http:// and the like, and foreign formats, read through
 * hull-remote.
 *
 * What speaks to a network does not live in a machine's process. So this driver starts hull-remote,
 * which has the server's protocol and its own fence, and hands it pieces of requests: a piece takes
 * a slot of the shared memory, its answer frees the slot for who waits. If hull-remote is gone,
 * everything fails with EIO. */
#include "block/remote.h"
#include "block/format.h"
#include "block/image.h"
#include "base/helper.h"
#include "base/log.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { HELLO_MS = 60000 }; /* a server behind a slow network, and its child programs */

struct remote {
    struct block *b;
    struct helper helper;
    struct watch watch;
    uint32_t can;
    bool gone;
    struct block_req *user[REMOTE_SLOTS]; /* who has the slot */
    struct list waiting;                  /* for a slot */
    bool asking;                          /* the status slot is in use */
    struct remote_answer status;
};

struct remote_req { /* in block_req.scratch */
    uint64_t at;    /* bytes done */
    uint64_t piece; /* bytes in hand */
    bool flushing;  /* the data is written, the flush behind it is not */
};

static struct remote_req *scratch(struct block_req *req)
{
    return (struct remote_req *)(void *)req->scratch;
}

/* ---- names ---- */

static const char *const schemes[] = {"nbd://",  "nbds://",  "nbd+unix://", "nbds+unix://",
                                      "http://", "https://", "ftp://",      "nbdkit:"};
static const char *const formats[] = {"vmdk", "vdi", "vhdx", "vpc"};

bool block_is_address(const char *file)
{
    for (unsigned i = 0; i < ARRAY_SIZE(schemes); i++)
        if (strncmp(file, schemes[i], strlen(schemes[i])) == 0)
            return true;
    return false;
}

bool remote_format(const char *format)
{
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
        if (strcmp(format, formats[i]) == 0)
            return true;
    return false;
}

/* ---- requests ---- */

/* The piece of a request between its memory and the slot. */
static void copy_piece(struct block_req *req, uint8_t *slot)
{
    uint64_t skip = scratch(req)->at, left = scratch(req)->piece;

    for (int i = 0; i < req->iov_count && left; i++) {
        const struct iovec *v = &req->iov[i];
        uint64_t n;

        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        n = min_u64(left, v->iov_len - skip);
        if (req->op == BLOCK_READ)
            memcpy((uint8_t *)v->iov_base + skip, slot, n);
        else
            memcpy(slot, (uint8_t *)v->iov_base + skip, n);
        slot += n;
        left -= n;
        skip = 0;
    }
}

static enum remote_op call_of(const struct block_req *req)
{
    switch (req->op) {
    case BLOCK_READ: return REMOTE_READ;
    case BLOCK_WRITE: return REMOTE_WRITE;
    case BLOCK_FLUSH: return REMOTE_FLUSH;
    case BLOCK_DISCARD: return REMOTE_TRIM;
    case BLOCK_WRITE_ZEROES: break;
    }
    return req->flags & BLOCK_REQ_UNMAP ? REMOTE_ZERO : REMOTE_ZERO_KEEP;
}

static bool has_data(const struct block_req *req)
{
    return req->op == BLOCK_READ || req->op == BLOCK_WRITE;
}

static uint8_t *slot_memory(const struct remote *r, unsigned slot)
{
    return (uint8_t *)r->helper.memory + (size_t)slot * REMOTE_SLOT_SIZE;
}

static void send_call(struct remote *r, const struct remote_call *call)
{
    if (send(r->helper.socket, call, sizeof *call, MSG_NOSIGNAL) != sizeof *call)
        shutdown(r->helper.socket, SHUT_RDWR); /* remote_ready finds the end and fails all */
}

static void start_piece(struct remote *r, struct block_req *req, unsigned slot)
{
    struct remote_req *q = scratch(req);
    struct remote_call call = {.slot = slot,
                               .op = q->flushing ? REMOTE_FLUSH : call_of(req),
                               .offset = req->offset + q->at};

    q->piece = q->flushing || req->op == BLOCK_FLUSH
                   ? 0
                   : min_u64(req->length - q->at, has_data(req) ? REMOTE_SLOT_SIZE : REMOTE_SPAN);
    call.length = q->piece;
    if (call.op == REMOTE_FLUSH)
        call.offset = 0;
    r->user[slot] = req;
    if (req->op == BLOCK_WRITE && !q->flushing)
        copy_piece(req, slot_memory(r, slot));
    send_call(r, &call);
}

static void start_waiting(struct remote *r)
{
    for (unsigned slot = 0; slot < REMOTE_SLOTS && !list_empty(&r->waiting); slot++) {
        struct block_req *req = container_of(r->waiting.next, struct block_req, link);

        if (r->user[slot])
            continue;
        list_remove(&req->link);
        start_piece(r, req, slot);
    }
}

static bool wants_flush(const struct remote *r, const struct block_req *req)
{
    const struct block_config *c = &r->b->config;
    bool writes = req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES;

    return writes && r->can & REMOTE_CAN_FLUSH && c->cache != CACHE_UNSAFE &&
           (c->cache == CACHE_WRITETHROUGH || req->flags & BLOCK_REQ_FUA);
}

/* A discard is advice: to do nothing is right too. */
static bool nothing_to_do(const struct remote *r, const struct block_req *req)
{
    return (req->op == BLOCK_DISCARD && !(r->can & REMOTE_CAN_TRIM)) ||
           (req->op == BLOCK_FLUSH &&
            (!(r->can & REMOTE_CAN_FLUSH) || r->b->config.cache == CACHE_UNSAFE));
}

static void remote_submit(struct block *b, struct block_req *req)
{
    struct remote *r = b->priv;

    *scratch(req) = (struct remote_req){0};
    if (r->gone)
        block_done_later(b, req, -EIO);
    else if (nothing_to_do(r, req))
        block_done_later(b, req, 0);
    else if (req->op == BLOCK_WRITE_ZEROES && !(r->can & REMOTE_CAN_ZERO))
        block_done_later(b, req, -ENOTSUP);
    else {
        list_add(&r->waiting, &req->link);
        start_waiting(r);
    }
}

/* ---- answers ---- */

static void answered(struct remote *r, const struct remote_answer *a)
{
    struct block_req *req = r->user[a->slot];
    struct remote_req *q = scratch(req);

    r->user[a->slot] = NULL;
    if (a->error) {
        block_done(r->b, req, a->error > 0 && a->error < 4096 ? -a->error : -EIO);
        return;
    }
    if (req->op == BLOCK_READ)
        copy_piece(req, slot_memory(r, a->slot));
    q->at += q->piece;
    if (q->at < req->length && !q->flushing)
        start_piece(r, req, a->slot);
    else if (!q->flushing && wants_flush(r, req)) {
        q->flushing = true;
        start_piece(r, req, a->slot);
    } else
        block_done(r->b, req, 0);
}

static void fail_all(struct remote *r)
{
    if (!r->gone)
        log_error("%s: the connection is lost: reads and writes fail from now on",
                  r->b->config.file);
    r->gone = true;
    r->asking = false;
    r->status.error = EIO;
    loop_forget(r->b->loop, &r->watch);
    for (unsigned slot = 0; slot < REMOTE_SLOTS; slot++) {
        struct block_req *req = r->user[slot];

        r->user[slot] = NULL;
        if (req)
            block_done(r->b, req, -EIO);
    }
    while (!list_empty(&r->waiting)) {
        struct block_req *req = container_of(r->waiting.next, struct block_req, link);

        list_remove(&req->link);
        block_done(r->b, req, -EIO);
    }
}

static bool makes_sense(const struct remote *r, const struct remote_answer *a)
{
    if (a->slot == REMOTE_STATUS_SLOT)
        return r->asking;
    return a->slot < REMOTE_SLOTS && r->user[a->slot];
}

static void remote_ready(struct watch *w, uint32_t events)
{
    struct remote *r = container_of(w, struct remote, watch);
    struct remote_answer a;
    ssize_t n;

    (void)events;
    while ((n = recv(r->helper.socket, &a, sizeof a, MSG_DONTWAIT)) == sizeof a &&
           makes_sense(r, &a)) {
        if (a.slot == REMOTE_STATUS_SLOT) {
            r->status = a;
            r->asking = false;
        } else
            answered(r, &a);
    }
    if (n >= 0 || (errno != EAGAIN && errno != EINTR))
        fail_all(r);
    else
        start_waiting(r);
}

static bool remote_map(struct block *b, uint64_t offset, struct block_extent *e, struct err *err)
{
    struct remote *r = b->priv;
    struct remote_call call = {.slot = REMOTE_STATUS_SLOT, .op = REMOTE_STATUS, .offset = offset};

    e->node = b;
    e->present = e->has_offset = true;
    e->host_offset = offset;
    if (offset >= b->end) { /* growable: nothing there */
        e->zero = true;
        e->length = b->size - offset;
        return true;
    }
    call.length = min_u64(b->end - offset, REMOTE_SPAN);
    if (!r->gone) {
        r->asking = true;
        send_call(r, &call);
    }
    while (r->asking)
        loop_turn(b->loop, UINT64_MAX);
    if (r->gone || r->status.error)
        return err_set(err, EIO, "%s: the server does not say what is allocated", b->config.file);
    e->length = min_u64(call.length, r->status.length);
    e->zero = (r->status.state & REMOTE_IS_ZERO) && e->length >= 512;
    e->length = e->length < 512 ? 512 : align_down(e->length, 512);
    e->data = !e->zero;
    return true;
}

static void remote_info(struct block *b, struct block_info *info)
{
    info->format = remote_format(b->config.format) ? b->config.format : "raw";
}

static void remote_close(struct block *b)
{
    struct remote *r = b->priv;

    loop_forget(b->loop, &r->watch);
    helper_end(&r->helper);
    free(r);
}

/* ---- starting hull-remote ---- */

static bool start_helper(struct remote *r, const struct block_config *c, struct err *err)
{
    const char *const words[] = {c->readonly ? "--readonly" : "--writable", "--",
                                 block_is_address(c->file) ? "" : c->format, c->file, NULL};

    return helper_start(&r->helper, "hull-remote", words, (size_t)REMOTE_SLOTS * REMOTE_SLOT_SIZE,
                        err);
}

static bool hear_hello(struct remote *r, struct remote_hello *h, struct err *err)
{
    struct pollfd p = {.fd = r->helper.socket, .events = POLLIN};

    if (poll(&p, 1, HELLO_MS) == 0)
        return err_set(err, ETIMEDOUT, "the server does not answer");
    if (recv(r->helper.socket, h, sizeof *h, 0) != sizeof *h)
        return err_set(err, EIO, "hull-remote ended without a word");
    h->text[sizeof h->text - 1] = 0;
    if (h->error)
        return err_set(err, h->error, "%s", h->text);
    if (!h->size || h->size > REMOTE_SIZE_MAX)
        return err_set(err, EINVAL, "its size of %llu bytes is no disk's",
                       (unsigned long long)h->size);
    return true;
}

static bool remote_open(struct block *b, struct err *err)
{
    struct remote *r = calloc(1, sizeof *r);
    struct remote_hello h = {0};

    if (!r || !start_helper(r, &b->config, err)) {
        free(r);
        return r ? err_wrap(err, "%s", b->config.file) : err_set(err, ENOMEM, "out of memory");
    }
    r->b = b;
    list_init(&r->waiting);
    b->priv = r;
    r->watch = (struct watch){.fd = r->helper.socket, .events = EPOLLIN, .ready = remote_ready};
    if (!hear_hello(r, &h, err) || !loop_watch(b->loop, &r->watch, err)) {
        err_wrap(err, "%s", b->config.file);
        remote_close(b);
        return false;
    }
    r->can = h.can;
    b->size = b->config.growable ? 2 * REMOTE_SIZE_MAX : align_up(h.size, 512);
    b->end = h.size;
    b->physical_size = 4096;
    b->discard_align = 4096;
    b->readonly = b->config.readonly;
    b->can_discard = b->config.discard && !b->readonly && h.can & REMOTE_CAN_TRIM;
    b->can_zero = !b->readonly && h.can & REMOTE_CAN_ZERO;
    if (b->readonly || h.can & REMOTE_CAN_WRITE)
        return true;
    remote_close(b);
    return err_set(err, EROFS,
                   "%s: can only be read: say readonly=on, or temporary=on to keep what is written "
                   "until the machine ends",
                   b->config.file);
}

const struct block_ops remote_ops = {
    .name = "remote",
    .open = remote_open,
    .submit = remote_submit,
    .close = remote_close,
    .map = remote_map,
    .info = remote_info,
};
