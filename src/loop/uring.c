/* SPDX-License-Identifier: MIT */
/* File requests through io_uring.
 *
 * file_submit only queues. At the end of a turn all that was queued becomes submission entries and
 * goes to the kernel in one system call. The ring's own descriptor is in epoll: it is readable
 * while completions wait, so they wake a sleeping loop. No more requests are given out than the
 * completion ring holds, so it cannot overflow. */
#include "loop/loop_private.h"
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING_ENTRIES 256

struct ring {
    struct io_uring uring;
    struct watch watch;
    unsigned limit; /* completion entries */
};

static bool forbidden; /* atomic */

void loop_forbid_uring(bool forbid)
{
    __atomic_store_n(&forbidden, forbid, __ATOMIC_RELAXED);
}

bool loop_has_uring(struct loop *l)
{
    return l->ring != NULL;
}

void loop_in_order(struct loop *l)
{
    list_init(&l->order);
    l->in_order = true;
}

void file_done(struct loop *l, struct file_req *req)
{
    if (!l->in_order) {
        l->in_flight--;
        req->done(req, req->result);
        return;
    }
    req->finished = true;
    while (!list_empty(&l->order)) {
        req = container_of(l->order.next, struct file_req, order);
        if (!req->finished)
            return;
        list_remove(&req->order);
        l->in_flight--;
        req->done(req, req->result);
    }
}

void file_submit(struct loop *l, struct file_req *req)
{
    req->finished = false;
    if (l->in_order)
        list_add(&l->order, &req->order);
    list_add(&l->queued, &req->link);
}

/* Nothing to do: files_reap follows in the same turn. */
static void ring_ready(struct watch *w, uint32_t events)
{
}

static void ring_reap(struct loop *l)
{
    struct io_uring *uring = &l->ring->uring;
    struct io_uring_cqe *cqe;

    for (unsigned n = io_uring_cq_ready(uring); n > 0 && io_uring_peek_cqe(uring, &cqe) == 0; n--) {
        struct file_req *req = io_uring_cqe_get_data(cqe);

        req->result = cqe->res;
        io_uring_cqe_seen(uring, cqe); /* before done(), which may take a nested turn */
        file_done(l, req);
    }
}

void files_reap(struct loop *l)
{
    if (l->ring != NULL)
        ring_reap(l);
    else
        pool_reap(l->pool);
}

static void fill_rw(struct io_uring_sqe *sqe, const struct file_req *req)
{
    /* One buffer needs no vector to be copied in. */
    if (req->iov_count == 1 && req->iov[0].iov_len <= INT32_MAX) {
        unsigned len = (unsigned)req->iov[0].iov_len;

        if (req->op == FILE_READ)
            io_uring_prep_read(sqe, req->fd, req->iov[0].iov_base, len, req->offset);
        else
            io_uring_prep_write(sqe, req->fd, req->iov[0].iov_base, len, req->offset);
    } else if (req->op == FILE_READ) {
        io_uring_prep_readv(sqe, req->fd, req->iov, (unsigned)req->iov_count, req->offset);
    } else {
        io_uring_prep_writev(sqe, req->fd, req->iov, (unsigned)req->iov_count, req->offset);
    }
}

static void fill_entry(struct io_uring_sqe *sqe, struct file_req *req)
{
    switch (req->op) {
    case FILE_READ:
    case FILE_WRITE: fill_rw(sqe, req); break;
    case FILE_FSYNC: io_uring_prep_fsync(sqe, req->fd, IORING_FSYNC_DATASYNC); break;
    case FILE_FALLOCATE:
        io_uring_prep_fallocate(sqe, req->fd, req->mode, (off_t)req->offset, (off_t)req->length);
        break;
    }
    io_uring_sqe_set_data(sqe, req);
}

/* Fills entries until the queue, the submission ring or the limit ends. */
static void ring_fill(struct loop *l)
{
    while (!list_empty(&l->queued) && l->in_flight < l->ring->limit) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring->uring);
        struct file_req *req = container_of(l->queued.next, struct file_req, link);

        if (sqe == NULL)
            return;
        list_remove(&req->link);
        fill_entry(sqe, req);
        l->in_flight++;
    }
}

bool files_flush(struct loop *l)
{
    if (l->pool != NULL) {
        pool_submit(l->pool, &l->queued);
        return true;
    }
    for (;;) {
        int n;

        ring_fill(l);
        if (io_uring_sq_ready(&l->ring->uring) == 0)
            return true; /* what is left waits for completions */
        n = io_uring_submit(&l->ring->uring);
        if (n <= 0 && n != -EINTR)
            return false;
    }
}

bool files_waiting(struct loop *l)
{
    return l->ring != NULL ? io_uring_cq_ready(&l->ring->uring) > 0 : pool_waiting(l->pool);
}

/* The kernel takes no other operation from this ring than those above: io_uring could open files
 * and sockets behind a seccomp filter's back. */
static int ring_restrict(struct io_uring *uring)
{
    /* The system call itself: Debian 12's liburing declares functions for it that it does not
     * export. */
    static const uint8_t ops[] = {IORING_OP_READ,   IORING_OP_WRITE, IORING_OP_READV,
                                  IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    struct io_uring_restriction only[ARRAY_SIZE(ops)] = {0};
    int fd = uring->ring_fd;

    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        only[i].opcode = IORING_RESTRICTION_SQE_OP;
        only[i].sqe_op = ops[i];
    }
    if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, only, ARRAY_SIZE(ops)) ||
        syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0))
        return -errno;
    return 0;
}

static int ring_init(struct io_uring *uring)
{
    /* Before 5.19 completions interrupt the thread. Before 5.10 there are no restrictions, and no
     * ring for us: the threads do it. */
    static const unsigned flags[] = {IORING_SETUP_COOP_TASKRUN, 0};
    int n = -EINVAL;

    for (unsigned i = 0; i < ARRAY_SIZE(flags) && n == -EINVAL; i++) {
        struct io_uring_params p = {.flags =
                                        flags[i] | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED};

        n = io_uring_queue_init_params(RING_ENTRIES, uring, &p);
    }
    if (n == 0) {
        n = ring_restrict(uring);
        if (n < 0)
            io_uring_queue_exit(uring);
    }
    return n;
}

/* NULL if the kernel refuses: containers and hardened hosts often do. */
static struct ring *ring_open(struct loop *l)
{
    struct ring *r = calloc(1, sizeof *r);
    struct err ignored;

    if (r == NULL)
        return NULL;
    if (ring_init(&r->uring) != 0)
        goto free_ring;
    r->limit = *r->uring.cq.kring_entries;
    r->watch = (struct watch){.fd = r->uring.ring_fd, .events = EPOLLIN, .ready = ring_ready};
    if (!loop_watch(l, &r->watch, &ignored))
        goto exit_ring;
    return r;
exit_ring:
    io_uring_queue_exit(&r->uring);
free_ring:
    free(r);
    return NULL;
}

bool files_open(struct loop *l, struct err *err)
{
    if (!__atomic_load_n(&forbidden, __ATOMIC_RELAXED))
        l->ring = ring_open(l);
    if (l->ring == NULL)
        l->pool = pool_open(l, err);
    return l->ring != NULL || l->pool != NULL;
}

void files_close(struct loop *l)
{
    pool_close(l->pool);
    if (l->ring == NULL)
        return;
    loop_forget(l, &l->ring->watch);
    io_uring_queue_exit(&l->ring->uring);
    free(l->ring);
}
