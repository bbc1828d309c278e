/* SPDX-License-Identifier: MIT */
/* An allocation in flight: between write.c and pack.c only. */
#ifndef HULL_QCOW2_ALLOC_H
#define HULL_QCOW2_ALLOC_H

#include "block/qcow2/qcow2.h"

struct q_alloc {
    struct list link; /* qcow2.allocs */
    struct q_req *owner;
    struct qcow2 *q;
    struct list waits;
    uint64_t first, count; /* guest clusters: offset of the first, how many */
    uint64_t host;
    uint64_t data_from, data_to; /* guest bytes that the request writes */
    uint64_t from, to;           /* with head and tail */
    bool taken;                  /* clusters were taken for it */
    bool pack;                   /* compressed */
    bool whole;                  /* all subclusters hold data afterwards */
    uint64_t descriptor;
    struct q_page *page; /* pinned: the entries */
    unsigned at;
    unsigned pending;
    int error;
    uint8_t *head, *tail;
    struct block_req req, head_req, tail_req;
    struct iovec head_iov, tail_iov;
    struct iovec iov[];
};

/* For `count` clusters from r->at on, whose entries begin at page->data + at; on the list of those
 * in flight. NULL: no memory. */
struct q_alloc *q_alloc_new(struct q_req *r, struct q_page *page, unsigned at, uint64_t count);
/* After the write, or its failure (a->error): entries, waiters, the request's part. */
void q_alloc_end(struct q_alloc *a);

#endif
