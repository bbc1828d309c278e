/* SPDX-License-Identifier: MIT */
/* File I/O on a loop: io_uring, or a small thread pool where the kernel forbids it. */
#ifndef HULL_LOOP_URING_H
#define HULL_LOOP_URING_H

#include "loop/loop.h"
#include <sys/uio.h>

enum file_op {
    FILE_READ,
    FILE_WRITE,
    FILE_FSYNC,     /* fdatasync */
    FILE_FALLOCATE, /* `mode` as fallocate(2): punch hole, zero range */
};

struct file_req { /* the submitter's memory, lent until done() */
    enum file_op op;
    int fd, mode;
    uint64_t offset, length;
    const struct iovec *iov;
    int iov_count;
    void (*done)(struct file_req *req,
                 int result); /* bytes or -errno; from the loop, never inside submit */
    struct list link, order;  /* the loop's */
    int result;
    bool finished; /* result is there; the loop's */
};

/* Never fails: errors arrive in done(). Short reads and writes are passed on as they are. Requests
 * submitted in one turn go to the kernel together at its end. */
void file_submit(struct loop *l, struct file_req *req);
/* From now on done() comes in the order in which requests were submitted, whatever the host
 * finishes first: for machines that are to run the same every time. Nothing may be under way. */
void loop_in_order(struct loop *l);
/* True if the loop has io_uring; false: the thread pool. For `hull info` and logs. */
bool loop_has_uring(struct loop *l);
/* Call before loop_open to refuse io_uring (tests, --disk ...,aio=threads). */
void loop_forbid_uring(bool forbid);

#endif
