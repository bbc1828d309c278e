/* SPDX-License-Identifier: MIT */
/* Reads: the range is cut into parts that are alike, and each part is fetched on its own, all at
 * once: from the file, from the backing image, by decompression, or as zeroes. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

int q_iov_slice(const struct iovec *iov, int count, uint64_t from, uint64_t length,
                struct iovec *out)
{
    int n = 0;

    for (int i = 0; i < count && length; i++) {
        uint64_t take;

        if (from >= iov[i].iov_len) {
            from -= iov[i].iov_len;
            continue;
        }
        take = min_u64(iov[i].iov_len - from, length);
        out[n++] = (struct iovec){(char *)iov[i].iov_base + from, take};
        length -= take;
        from = 0;
    }
    return n;
}

void q_iov_zero(const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
}

static void iov_fill(const struct iovec *iov, int count, const uint8_t *from)
{
    for (int i = 0; i < count; i++) {
        memcpy(iov[i].iov_base, from, iov[i].iov_len);
        from += iov[i].iov_len;
    }
}

struct q_part *q_part_new(struct q_req *r, uint64_t length)
{
    struct q_part *p = malloc(sizeof *p + ((size_t)r->req->iov_count + 20) * sizeof p->iov[0]);

    if (!p)
        return NULL;
    memset(p, 0, sizeof *p);
    p->owner = r;
    p->guest = r->at;
    p->req.iov = p->iov;
    p->req.length = length;
    if (r->req->iov_count)
        p->req.iov_count =
            q_iov_slice(r->req->iov, r->req->iov_count, r->at - r->req->offset, length, p->iov);
    r->pending++;
    return p;
}

void q_part_end(struct q_part *p, int result)
{
    struct q_req *r = p->owner;

    free(p->buffer);
    free(p);
    q_req_put(r, result);
}

static void part_read(struct block_req *req, int result)
{
    q_part_end(container_of(req, struct q_part, req), result);
}

/* The backing image may be shorter than we are. */
static void read_backing(struct q_req *r, struct q_part *p)
{
    struct block *backing = r->q->b->backing;
    uint64_t offset = p->guest, length = p->req.length;
    uint64_t there = offset < backing->size ? min_u64(length, backing->size - offset) : 0;

    if (there < length) {
        struct iovec *rest = malloc(((size_t)p->req.iov_count + 1) * sizeof *rest);

        if (!rest) {
            q_part_end(p, -ENOMEM);
            return;
        }
        q_iov_zero(rest, q_iov_slice(p->iov, p->req.iov_count, there, length - there, rest));
        /* Slicing onto itself from 0 only shortens. */
        p->req.iov_count = q_iov_slice(p->iov, p->req.iov_count, 0, there, p->iov);
        free(rest);
    }
    if (!there) {
        q_part_end(p, 0);
        return;
    }
    p->req.op = BLOCK_READ;
    p->req.offset = offset;
    p->req.length = there;
    p->req.done = part_read;
    block_submit(backing, &p->req);
}

static void from_unpacked(struct qcow2 *q, struct q_part *p)
{
    iov_fill(p->iov, p->req.iov_count, q->unpacked + q_in_cluster(q, p->guest));
    q_part_end(p, 0);
}

static void packed_read(struct block_req *req, int result)
{
    struct q_part *p = container_of(req, struct q_part, req);
    struct qcow2 *q = p->owner->q;
    uint64_t length, offset = q_packed_offset(q, p->descriptor, &length);

    /* The data's own iov is in p->iov behind the buffer's. */
    p->req.iov_count = p->data_count;
    memmove(p->iov, p->iov + 1, (size_t)p->data_count * sizeof p->iov[0]);
    if (!result && q->unpacked_from != p->descriptor) {
        q->unpacked_from = 0;
        result = q_unpack(q, p->buffer + (offset & 511), length, q->unpacked);
        if (result == 0)
            q->unpacked_from = p->descriptor;
        else
            result = q_corrupt(q, "a compressed cluster cannot be unpacked", offset);
    }
    if (result)
        q_part_end(p, result);
    else
        from_unpacked(q, p);
}

static void read_packed(struct q_req *r, struct q_part *p, uint64_t descriptor)
{
    struct qcow2 *q = r->q;
    uint64_t length, offset = q_packed_offset(q, descriptor, &length);
    uint64_t start = align_down(offset, 512);

    if (q->unpacked_from == descriptor) {
        from_unpacked(q, p);
        return;
    }
    p->descriptor = descriptor;
    length += offset - start;
    p->buffer = aligned_alloc(4096, align_up(length, 4096));
    if (!q->unpacked)
        q->unpacked = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    if (!p->buffer || !q->unpacked) {
        q_part_end(p, -ENOMEM);
        return;
    }
    memmove(p->iov + 1, p->iov, (size_t)p->req.iov_count * sizeof p->iov[0]);
    p->data_count = p->req.iov_count;
    p->iov[0] = (struct iovec){p->buffer, length};
    p->req.op = BLOCK_READ;
    p->req.offset = start;
    p->req.length = length;
    p->req.iov_count = 1;
    p->req.done = packed_read;
    block_pass(q->b->under, &p->req);
}

static void read_part(struct q_req *r, const struct q_map *m)
{
    struct q_part *p = q_part_new(r, m->length);
    struct block *b = r->q->b;

    r->at += m->length;
    if (!p) {
        r->error = r->error ? r->error : -ENOMEM;
        return;
    }
    if (m->kind == Q_NONE && b->backing) {
        read_backing(r, p);
    } else if (m->kind == Q_PACKED) {
        read_packed(r, p, m->host);
    } else if (m->kind == Q_DATA) {
        p->req.op = BLOCK_READ;
        p->req.offset = m->host;
        p->req.done = part_read;
        block_pass(b->data ? b->data : b->under, &p->req);
    } else {
        q_iov_zero(p->iov, p->req.iov_count);
        q_part_end(p, 0);
    }
}

void q_read_step(struct q_req *r)
{
    while (r->at < r->end && !r->error) {
        struct q_map m;
        int failed = q_lookup(r->q, r->at, r->end - r->at, &r->wait, &m);

        if (failed > 0)
            return; /* resumed when the page is here */
        if (failed)
            r->error = failed;
        else
            read_part(r, &m);
    }
    q_req_put(r, 0);
}
