/* SPDX-License-Identifier: MIT */
/* Writing compressed clusters: one after the other at sector bounds, across clusters where these
 * are neighbours. Each one counts once for every cluster it touches. Included by write.c's
 * interface: what cannot be compressed is written as it is. */
#include "block/qcow2/alloc.h"
#include <errno.h>
#include <stdlib.h>

/* The packed cluster, padded to sectors; 0 in *length: it does not get smaller. */
static uint8_t *pack(struct q_req *r, uint64_t *length)
{
    struct qcow2 *q = r->q;
    size_t room = align_up(q->cluster_size, 4096);
    uint8_t *plain = aligned_alloc(4096, room), *packed = aligned_alloc(4096, room);
    struct iovec iov;
    int got = -ENOMEM;

    *length = 0;
    if (plain && packed) {
        uint64_t have = min_u64(r->end - r->at, q->cluster_size), at = 0;
        struct iovec *v = malloc(((size_t)r->req->iov_count + 1) * sizeof *v);
        int n =
            v ? q_iov_slice(r->req->iov, r->req->iov_count, r->at - r->req->offset, have, v) : 0;

        memset(plain, 0, q->cluster_size);
        for (int i = 0; i < n; i++) {
            iov = v[i];
            memcpy(plain + at, iov.iov_base, iov.iov_len);
            at += iov.iov_len;
        }
        free(v);
        memset(packed, 0, room);
        if (at == have && q->cluster_size > 512)
            got = q_pack(q, plain, packed, q->cluster_size - 512);
    }
    free(plain);
    if (got > 0)
        *length = align_up((uint64_t)got, 512);
    return packed;
}

/* Room for `length` bytes at *host, counted. 0, 1 or -errno. */
static int take_room(struct q_req *r, uint64_t length, uint64_t *host)
{
    struct qcow2 *q = r->q;
    uint64_t at = align_up(q->compress_at, 512), in = q_in_cluster(q, at), next;
    bool virgin, fits = in && in + length <= q->cluster_size;
    int64_t got = 0;
    int failed = 0;

    if (!fits) {
        got = q_take(q, 1, &r->wait, &next, &virgin);
        if (got <= 0)
            return got ? (int)got : 1;
    }
    if (in && (fits || next == align_up(at, q->cluster_size))) {
        failed = q_ref_more(q, at, &r->wait);
        if (failed == -EAGAIN && fits) { /* it is counted as often as it can be */
            q->compress_at = 0;
            return take_room(r, length, host);
        }
        if (failed && failed != -EAGAIN) {
            if (got)
                q_free(q, next, 1);
            return failed;
        }
        *host = failed ? next : at;
    } else {
        *host = next;
    }
    q->compress_at = *host + length;
    if (q_in_cluster(q, q->compress_at) == 0)
        q->compress_at = 0;
    return 0;
}

static void packed_written(struct block_req *req, int result)
{
    struct q_alloc *a = container_of(req, struct q_alloc, req);

    a->error = result;
    if (result)
        q_free_entry(a->q, a->descriptor);
    q_alloc_end(a);
}

int q_pack_piece(struct q_req *r)
{
    struct qcow2 *q = r->q;
    uint64_t length, host, table, to = r->at + q->cluster_size;
    struct q_alloc *a = q_alloc_at(q, r->at);
    struct q_page *page;
    uint8_t *packed;
    unsigned at;
    int failed;

    if (q_in_cluster(q, r->at) || (r->end < to && r->end != q->b->size))
        return q_write_piece(r, min_u64(r->end, align_down(to, q->cluster_size)));
    if (a) {
        q_alloc_wait(a, &r->wait);
        return 1;
    }
    failed = q_own_table(q, r->at, &r->wait, &table);
    if (!failed)
        failed = q_l2_page(q, table, r->at, &r->wait, &page, &at);
    if (failed)
        return failed;
    packed = pack(r, &length);
    if (!packed || !length) {
        free(packed);
        return packed ? q_write_piece(r, min_u64(r->end, to)) : -ENOMEM;
    }
    page->pins++;
    failed = take_room(r, length, &host);
    page->pins--;
    a = failed ? NULL : q_alloc_new(r, page, at, 1);
    if (!a) {
        free(packed);
        return failed ? failed : -ENOMEM;
    }
    a->pack = true;
    a->head = packed;
    a->descriptor = Q_COMPRESSED | (length / 512 - 1) << (62 - (q->cluster_bits - 8)) | host;
    a->iov[0] = (struct iovec){packed, length};
    a->req = (struct block_req){.op = BLOCK_WRITE,
                                .offset = host,
                                .length = length,
                                .iov = a->iov,
                                .iov_count = 1,
                                .done = packed_written};
    r->pending++;
    r->at = min_u64(r->end, to);
    block_pass(q->b->under, &a->req);
    return 0;
}
