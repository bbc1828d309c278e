/* SPDX-License-Identifier: MIT */
/* Exports: nbd-server-start, block-export-add and their kin, and the requests that hull-nbd passes
 * on. Those go through the drive as the guest's do, so jobs, limits and locks count for both; an
 * error is the client's own, whatever the disk's policy. hull-nbd is not trusted: its words are
 * checked as a guest's would be. */
#include "machine/nbd.h"
#include "base/clock.h"
#include "base/helper.h"
#include "block/bitmap.h"
#include "block/image.h"
#include "base/log.h"
#include "machine/nbd_link.h"
#include "machine/qmp.h"
#include "machine/qmp_args.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

struct nbd_slot {
    struct block_req req;
    struct iovec iov;
    struct nbd *nbd;
    bool busy;
};

struct nbd_export {
    char id[64], name[NBD_NAME];
    struct drive *drive; /* NULL: free */
    struct block_bitmap *bitmap;
    bool writable;
};

struct nbd {
    struct machine *m;
    struct watch watch;
    struct helper helper;
    bool serving, asked, looking;
    int start_error;
    struct nbd_export export[NBD_EXPORTS];
    struct nbd_slot slot[NBD_SLOTS];
};

static uint8_t *slot_memory(const struct nbd *n, unsigned slot)
{
    return (uint8_t *)n->helper.memory + (size_t)slot * NBD_SLOT_SIZE;
}

static bool say(struct nbd *n, const struct nbd_word *w)
{
    return send(n->watch.fd, w, sizeof *w, MSG_NOSIGNAL) == sizeof *w;
}

static void answer(struct nbd *n, unsigned slot, int result, uint32_t count)
{
    struct nbd_word w = {
        .kind = NBD_DONE, .slot = slot, .error = result < 0 ? -result : 0, .count = count};

    n->slot[slot].busy = false;
    say(n, &w);
}

static void request_done(struct block_req *req, int result)
{
    struct nbd_slot *s = container_of(req, struct nbd_slot, req);

    answer(s->nbd, (unsigned)(s - s->nbd->slot), result, 0);
}

/* ---- status ---- */

static uint32_t add_extent(struct nbd_extent *e, uint32_t count, uint64_t length, uint32_t flags)
{
    if (count && e[count - 1].flags == flags) {
        e[count - 1].length += (uint32_t)length;
        return count;
    }
    e[count] = (struct nbd_extent){(uint32_t)length, flags};
    return count + 1;
}

static int allocation(struct drive *d, const struct nbd_call *c, struct nbd_extent *to,
                      uint32_t *count)
{
    uint64_t at = c->offset, end = c->offset + c->length;

    while (at < end && *count < NBD_EXTENTS) {
        struct block_extent e = {.length = end - at, .data = true};
        struct err err;

        if (d->block.under->ops->map && !block_map(d->block.under, at, end - at, &e, &err))
            return -err.code;
        *count = add_extent(to, *count, e.length, (e.data ? 0u : 1u) | (e.zero ? 2u : 0u));
        at += e.length;
    }
    return 0;
}

static void bitmap_status(const struct block_bitmap *b, const struct nbd_call *c,
                          struct nbd_extent *to, uint32_t *count)
{
    uint64_t at = c->offset, end = c->offset + c->length, from, length;

    while (at < end && *count < NBD_EXTENTS) {
        if (!block_bitmap_next(b, at, &from, &length) || from >= end)
            from = end;
        if (from > at) {
            *count = add_extent(to, *count, from - at, 0);
            at = from;
            continue;
        }
        length = min_u64(length, end - at);
        *count = add_extent(to, *count, length, 1);
        at += length;
    }
}

static void status(struct nbd *n, const struct nbd_call *c)
{
    struct nbd_extent list[NBD_EXTENTS];
    struct nbd_export *e = &n->export[c->export];
    uint32_t count = 0;
    int failed = 0;

    n->looking = true; /* block_map turns the loop */
    if (c->op == NBD_OP_STATUS)
        failed = allocation(e->drive, c, list, &count);
    else if (e->bitmap)
        bitmap_status(e->bitmap, c, list, &count);
    n->looking = false;
    memcpy(slot_memory(n, c->slot), list, count * sizeof list[0]);
    answer(n, c->slot, failed, count);
}

/* ---- requests ---- */

static int submit(struct nbd *n, const struct nbd_call *c)
{
    static const enum block_op ops[] = {[NBD_OP_READ] = BLOCK_READ,
                                        [NBD_OP_WRITE] = BLOCK_WRITE,
                                        [NBD_OP_FLUSH] = BLOCK_FLUSH,
                                        [NBD_OP_TRIM] = BLOCK_DISCARD,
                                        [NBD_OP_ZERO] = BLOCK_WRITE_ZEROES};
    struct nbd_slot *s = &n->slot[c->slot];
    const struct nbd_export *e = &n->export[c->export];
    bool data = c->op <= NBD_OP_WRITE;

    if (c->op != NBD_OP_READ && c->op != NBD_OP_FLUSH && !e->writable)
        return -EPERM;
    if (data && (!c->length || c->length > NBD_SLOT_SIZE))
        return -EINVAL;
    s->iov = (struct iovec){slot_memory(n, c->slot), c->length};
    s->req = (struct block_req){.op = ops[c->op],
                                .flags = BLOCK_REQ_NO_POLICY,
                                .offset = c->offset,
                                .length = c->op == NBD_OP_FLUSH ? 0 : c->length,
                                .iov = &s->iov,
                                .iov_count = data,
                                .done = request_done};
    if (c->flags & NBD_OP_FUA)
        s->req.flags |= BLOCK_REQ_FUA;
    if (c->op == NBD_OP_ZERO && !(c->flags & NBD_OP_NO_HOLE))
        s->req.flags |= BLOCK_REQ_UNMAP;
    block_submit(&e->drive->block, &s->req);
    return 0;
}

/* False: hull-nbd is not itself any more. */
static bool obey(struct nbd *n, const struct nbd_call *c)
{
    int failed = 0;

    if (c->op == NBD_OP_STARTED) {
        n->start_error = c->error;
        n->asked = false;
        return true;
    }
    if (c->slot >= NBD_SLOTS || n->slot[c->slot].busy || c->export >= NBD_EXPORTS ||
        c->op > NBD_OP_STARTED)
        return false;
    n->slot[c->slot].busy = true;
    if (!n->export[c->export].drive)
        failed = -ESHUTDOWN;
    else if (c->offset > n->export[c->export].drive->block.size ||
             c->length > n->export[c->export].drive->block.size - c->offset)
        failed = -EINVAL;
    else if (c->op == NBD_OP_STATUS || c->op == NBD_OP_BITMAP) {
        status(n, c);
        return true;
    } else
        failed = submit(n, c);
    if (failed)
        answer(n, c->slot, failed, 0);
    return true;
}

static void link_ready(struct watch *w, uint32_t events)
{
    struct nbd *n = container_of(w, struct nbd, watch);
    struct nbd_call c;

    if (n->looking || n->m->changing) { /* a nested turn: not now */
        loop_rewatch(n->m->loop, w, 0);
        loop_at(n->m->loop, &n->m->nbd_again, now_ns() + 1000000);
        return;
    }
    if (recv(w->fd, &c, sizeof c, MSG_DONTWAIT) == sizeof c && obey(n, &c))
        return;
    if (errno == EAGAIN)
        return;
    log_error("hull-nbd is gone: exports end");
    n->asked = n->serving = false;
    n->start_error = EIO;
    loop_forget(n->m->loop, w);
}

static void again(struct timer *t)
{
    struct machine *m = container_of(t, struct machine, nbd_again);

    if (m->nbd && m->nbd->watch.active)
        loop_rewatch(m->loop, &m->nbd->watch, EPOLLIN);
}

/* ---- hull-nbd's life ---- */

bool nbd_open(struct machine *m, struct err *err)
{
    const char *const words[] = {NULL};
    struct nbd *n = m->config.nbd ? calloc(1, sizeof *n) : NULL;

    if (!m->config.nbd)
        return true;
    if (!n)
        return err_set(err, ENOMEM, "no memory for exports");
    if (!helper_start(&n->helper, "hull-nbd", words, (size_t)NBD_SLOTS * NBD_SLOT_SIZE, err)) {
        free(n);
        return err_wrap(err, "--nbd");
    }
    m->nbd = n;
    n->m = m;
    n->watch = (struct watch){.fd = n->helper.socket, .events = EPOLLIN, .ready = link_ready};
    return true;
}

bool nbd_listen(struct machine *m, struct err *err)
{
    m->nbd_again.fire = again;
    if (!m->nbd)
        return true;
    for (unsigned i = 0; i < NBD_SLOTS; i++)
        m->nbd->slot[i].nbd = m->nbd;
    return loop_watch(m->loop, &m->nbd->watch, err);
}

static bool slots_busy(const struct nbd *n)
{
    for (unsigned i = 0; i < NBD_SLOTS; i++)
        if (n->slot[i].busy)
            return true;
    return false;
}

void nbd_close(struct machine *m)
{
    struct nbd *n = m->nbd;

    if (!n)
        return;
    if (m->loop) {
        loop_cancel(m->loop, &m->nbd_again);
        loop_forget(m->loop, &n->watch);
    }
    while (slots_busy(n))
        loop_turn(m->loop, UINT64_MAX);
    helper_end(&n->helper);
    free(n);
    m->nbd = NULL;
}

bool nbd_looks(const struct machine *m)
{
    return m->nbd && m->nbd->looking;
}

void nbd_resized(struct machine *m, const struct drive *d)
{
    for (unsigned i = 0; m->nbd && i < NBD_EXPORTS; i++)
        if (m->nbd->export[i].drive == d)
            say(m->nbd, &(struct nbd_word){.kind = NBD_RESIZE, .export = i, .size = d->block.size});
}

void nbd_replaced(struct machine *m, const struct drive *d)
{
    for (unsigned i = 0; m->nbd && i < NBD_EXPORTS; i++) {
        struct nbd_export *e = &m->nbd->export[i];

        if (e->drive != d || !e->bitmap)
            continue;
        e->bitmap->busy = false;
        e->bitmap = NULL;
    }
}

/* ---- commands ---- */

static struct nbd *server(struct machine *m, bool serving, struct err *err)
{
    if (!m->nbd)
        err_set(err, ENOTSUP, "NBD exports need a machine that was started with --nbd");
    else if (serving && !m->nbd->serving)
        err_set(err, EINVAL, "NBD server not running");
    else
        return m->nbd;
    return NULL;
}

static json_t *server_start(struct machine *m, json_t *args, struct err *err)
{
    json_t *addr = json_object_get(args, "addr"), *data = json_object_get(addr, "data");
    struct nbd_word w = {.kind = NBD_START};
    struct nbd *n = server(m, false, err);
    const char *type = qmp_text(addr, "type");

    if (!n)
        return NULL;
    if (!data) /* the flat form */
        data = addr;
    if (!strcmp(type, "unix"))
        snprintf(w.name, sizeof w.name, "%s", qmp_text(data, "path"));
    else if (!strcmp(type, "inet")) {
        snprintf(w.name, sizeof w.name, "%s", qmp_text(data, "host"));
        snprintf(w.text, sizeof w.text, "%s", qmp_text(data, "port"));
    }
    if (!w.name[0] || n->serving || *qmp_text(args, "tls-creds")) {
        err_set(err, EINVAL,
                !w.name[0]   ? "Parameter 'addr' needs a unix path or an inet host"
                : n->serving ? "NBD server already running"
                             : "TLS is not supported");
        return NULL;
    }
    n->asked = true;
    n->start_error = 0;
    say(n, &w);
    while (n->asked)
        loop_turn(m->loop, UINT64_MAX);
    n->serving = !n->start_error;
    if (n->serving)
        return json_object();
    err_set(err, n->start_error == ENOENT ? EIO : n->start_error,
            "Failed to bind socket to %.100s: %s", w.name, strerror(n->start_error));
    return NULL;
}

static void remove_export(struct nbd *n, unsigned i)
{
    say(n, &(struct nbd_word){.kind = NBD_DEL, .export = i});
    while (slots_busy(n)) /* those of other exports end too, if new ones come */
        loop_turn(n->m->loop, UINT64_MAX);
    if (n->export[i].bitmap)
        n->export[i].bitmap->busy = false;
    n->export[i].drive = NULL;
}

static json_t *server_stop(struct machine *m, json_t *args, struct err *err)
{
    struct nbd *n = server(m, true, err);

    if (!n)
        return NULL;
    for (unsigned i = 0; i < NBD_EXPORTS; i++)
        if (n->export[i].drive)
            remove_export(n, i);
    say(n, &(struct nbd_word){.kind = NBD_STOP});
    n->serving = false;
    return json_object();
}

static struct nbd_export *find_export(struct nbd *n, const char *id, const char *name)
{
    for (unsigned i = 0; i < NBD_EXPORTS; i++)
        if (n->export[i].drive &&
            ((id && !strcmp(n->export[i].id, id)) || (name && !strcmp(n->export[i].name, name))))
            return &n->export[i];
    return NULL;
}

static bool add(struct nbd *n, struct drive *d, const char *id, const char *name, bool writable,
                const char *bitmap, struct err *err)
{
    struct nbd_word w = {.kind = NBD_ADD, .size = d->block.size, .flags = writable};
    struct nbd_export *e = NULL;

    if (find_export(n, id, NULL))
        return err_set(err, EEXIST, "Block export id '%s' is already in use", id);
    if (find_export(n, NULL, name))
        return err_set(err, EEXIST, "NBD server already has export named '%s'", name);
    for (unsigned i = 0; i < NBD_EXPORTS && !e; i++)
        if (!n->export[i].drive)
            e = &n->export[i];
    if (!e || strlen(name) >= NBD_NAME || strlen(id) >= sizeof e->id || strlen(bitmap) >= NBD_NAME)
        return err_set(err, EINVAL, e ? "a name is too long" : "too many exports");
    if (writable && d->block.readonly)
        return err_set(err, EROFS, "Cannot export read-only node as writable");
    *e = (struct nbd_export){.writable = writable};
    if (*bitmap) {
        e->bitmap = block_bitmap_find(d->block.under, bitmap);
        if (!e->bitmap)
            return err_set(err, EINVAL, "Bitmap '%s' is not found", bitmap);
        if (!block_bitmap_usable(e->bitmap, err))
            return false;
        e->bitmap->busy = true;
    }
    snprintf(e->id, sizeof e->id, "%s", id);
    snprintf(e->name, sizeof e->name, "%s", name);
    e->drive = d;
    w.export = (uint32_t)(e - n->export);
    memcpy(w.name, e->name, sizeof w.name);
    snprintf(w.text, sizeof w.text, "%s", bitmap);
    say(n, &w);
    return true;
}

static json_t *export_add(struct machine *m, json_t *args, struct err *err)
{
    struct nbd *n = server(m, true, err);
    struct drive *d = n ? qmp_drive(m, args, err) : NULL;
    const char *name = qmp_text(args, "name"), *id = qmp_text(args, "id");
    const json_t *bitmaps = json_object_get(args, "bitmaps"), *first;
    const char *bitmap;

    if (!d)
        return NULL;
    if (strcmp(qmp_text(args, "type"), "nbd") != 0 || !*id || json_array_size(bitmaps) > 1) {
        err_set(err, EINVAL,
                !*id ? "Parameter 'id' is missing"
                : json_array_size(bitmaps) > 1
                    ? "an export shows one bitmap at most"
                    : "Parameter 'type' does not accept value: nbd is known");
        return NULL;
    }
    first = json_array_get(bitmaps, 0);
    bitmap = json_is_object(first) ? json_string_value(json_object_get(first, "name"))
                                   : json_string_value(first);
    return add(n, d, id, *name ? name : qmp_text(args, "node-name"),
               qmp_bool(args, "writable", false), bitmap ? bitmap : "", err)
               ? json_object()
               : NULL;
}

static json_t *server_add(struct machine *m, json_t *args, struct err *err)
{
    struct nbd *n = server(m, true, err);
    struct drive *d = n ? qmp_drive(m, args, err) : NULL;
    const char *name = qmp_text(args, "name");

    if (!*name)
        name = qmp_text(args, "device");
    return d && add(n, d, name, name, qmp_bool(args, "writable", false), qmp_text(args, "bitmap"),
                    err)
               ? json_object()
               : NULL;
}

static json_t *delete (struct machine *m, const char *id, struct err *err)
{
    struct nbd *n = server(m, true, err);
    struct nbd_export *e = n ? find_export(n, id, NULL) : NULL;

    if (!e) {
        if (n)
            err_set(err, EINVAL, "Export '%.64s' is not found", id);
        return NULL;
    }
    remove_export(n, (unsigned)(e - n->export));
    qmp_event(m->qmp, "BLOCK_EXPORT_DELETED", "{s:s}", "id", id);
    return json_object();
}

static json_t *export_del(struct machine *m, json_t *args, struct err *err)
{
    return delete (m, qmp_text(args, "id"), err);
}

static json_t *server_remove(struct machine *m, json_t *args, struct err *err)
{
    return delete (m, qmp_text(args, "name"), err);
}

static json_t *query_exports(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    for (unsigned i = 0; m->nbd && i < NBD_EXPORTS; i++) {
        const struct nbd_export *e = &m->nbd->export[i];

        if (e->drive)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b}", "id", e->id, "type",
                                                  "nbd", "node-name", e->drive->block.under->name,
                                                  "shutting-down", 0));
    }
    return list;
}

const struct qmp_command qmp_nbd_commands[] = {
    {"nbd-server-start", server_start},     {"nbd-server-stop", server_stop},
    {"nbd-server-add", server_add},         {"nbd-server-remove", server_remove},
    {"block-export-add", export_add},       {"block-export-del", export_del},
    {"query-block-exports", query_exports}, {0},
};
