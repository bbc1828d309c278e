/* SPDX-License-Identifier: MIT */
/* File requests through a few threads, for hosts where io_uring is forbidden.
 *
 * Requests wait in one list; a thread takes the oldest, makes the system call and puts the request
 * on the finished list. A posted call wakes the loop, which runs done() itself. The threads start
 * with the loop, because hull-vmm may not start any once its seccomp filter is on. */
#include "loop/loop_private.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define POOL_THREADS 4

struct pool {
    struct loop *loop;
    pthread_mutex_t lock; /* guards the two lists and `closing`; nothing is called under it */
    pthread_cond_t work;
    struct list waiting, finished;
    bool closing;
    struct call report;
    pthread_t thread[POOL_THREADS];
    unsigned threads;
};

static ssize_t request_once(const struct file_req *req)
{
    switch (req->op) {
    case FILE_READ: return preadv(req->fd, req->iov, req->iov_count, (off_t)req->offset);
    case FILE_WRITE: return pwritev(req->fd, req->iov, req->iov_count, (off_t)req->offset);
    case FILE_FSYNC: return fdatasync(req->fd);
    case FILE_FALLOCATE:
        return fallocate(req->fd, req->mode, (off_t)req->offset, (off_t)req->length);
    }
    errno = EINVAL;
    return -1;
}

static int request_run(const struct file_req *req)
{
    ssize_t n;

    do {
        n = request_once(req);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n;
}

/* The oldest request, NULL when the pool closes. */
static struct file_req *pool_take(struct pool *p)
{
    struct file_req *req = NULL;

    pthread_mutex_lock(&p->lock);
    while (list_empty(&p->waiting) && !p->closing)
        pthread_cond_wait(&p->work, &p->lock);
    if (!list_empty(&p->waiting)) {
        req = container_of(p->waiting.next, struct file_req, link);
        list_remove(&req->link);
    }
    pthread_mutex_unlock(&p->lock);
    return req;
}

static void *pool_thread(void *arg)
{
    struct pool *p = arg;
    struct file_req *req;

    while ((req = pool_take(p)) != NULL) {
        req->result = request_run(req);
        pthread_mutex_lock(&p->lock);
        list_add(&p->finished, &req->link);
        pthread_mutex_unlock(&p->lock);
        loop_post(p->loop, &p->report);
    }
    return NULL;
}

static struct file_req *pool_finished(struct pool *p)
{
    struct file_req *req = NULL;

    pthread_mutex_lock(&p->lock);
    if (!list_empty(&p->finished)) {
        req = container_of(p->finished.next, struct file_req, link);
        list_remove(&req->link);
    }
    pthread_mutex_unlock(&p->lock);
    return req;
}

bool pool_waiting(struct pool *p)
{
    bool waiting;

    pthread_mutex_lock(&p->lock);
    waiting = !list_empty(&p->finished);
    pthread_mutex_unlock(&p->lock);
    return waiting;
}

void pool_reap(struct pool *p)
{
    struct file_req *req;

    for (unsigned n = p->loop->in_flight; n > 0 && (req = pool_finished(p)) != NULL; n--) {
        file_done(p->loop, req);
    }
}

/* Nothing to do: files_reap follows in the same turn. */
static void pool_report(struct call *c)
{
}

void pool_submit(struct pool *p, struct list *reqs)
{
    unsigned n = 0;

    if (list_empty(reqs))
        return;
    pthread_mutex_lock(&p->lock);
    list_for_safe(i, reqs)
    {
        list_remove(i);
        list_add(&p->waiting, i);
        n++;
    }
    pthread_mutex_unlock(&p->lock);
    p->loop->in_flight += n;
    if (n == 1)
        pthread_cond_signal(&p->work);
    else
        pthread_cond_broadcast(&p->work);
}

/* Signals are for the main thread. */
static bool pool_start(struct pool *p, struct err *err)
{
    sigset_t all, old;
    int e = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (e == 0 && p->threads < POOL_THREADS) {
        e = pthread_create(&p->thread[p->threads], NULL, pool_thread, p);
        p->threads += e == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e == 0 || err_set(err, e, "cannot start I/O threads: %s", strerror(e));
}

struct pool *pool_open(struct loop *l, struct err *err)
{
    struct pool *p = calloc(1, sizeof *p);

    if (p == NULL) {
        err_set(err, ENOMEM, "no memory for I/O threads");
        return NULL;
    }
    p->loop = l;
    p->report.run = pool_report;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    list_init(&p->waiting);
    list_init(&p->finished);
    if (!pool_start(p, err)) {
        pool_close(p);
        return NULL;
    }
    return p;
}

void pool_close(struct pool *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_mutex_unlock(&p->lock);
    pthread_cond_broadcast(&p->work);
    for (unsigned i = 0; i < p->threads; i++)
        pthread_join(p->thread[i], NULL);
    loop_unpost(p->loop, &p->report);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
