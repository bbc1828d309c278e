/* SPDX-License-Identifier: MIT */
/* A queue of jobs and the threads that empty it. */
#include "block/workers.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

enum { THREADS_MIN = 4, THREADS_MAX = 16 }; /* four, so that some wait for the disk */

struct workers {
    struct loop *loop;
    pthread_mutex_t lock; /* of all below; no job runs under it */
    pthread_cond_t more;
    struct list jobs;
    bool closing;
    unsigned count;
    pthread_t thread[];
};

static void *workers_thread(void *arg)
{
    struct workers *p = arg;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct work_job *job;

        while (list_empty(&p->jobs) && !p->closing)
            pthread_cond_wait(&p->more, &p->lock);
        if (list_empty(&p->jobs))
            break;
        job = container_of(p->jobs.next, struct work_job, link);
        list_remove(&job->link);
        pthread_mutex_unlock(&p->lock);
        job->work(job);
        loop_post(p->loop, &job->done); /* the job may be gone from here on */
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static unsigned processors(void)
{
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof set, &set) ? THREADS_MIN : (unsigned)CPU_COUNT(&set);

    return n < THREADS_MIN ? THREADS_MIN : n > THREADS_MAX ? THREADS_MAX : n;
}

struct workers *workers_open(struct loop *loop, unsigned threads, struct err *err)
{
    unsigned want = threads ? threads : processors();
    struct workers *p = calloc(1, sizeof *p + want * sizeof p->thread[0]);
    sigset_t all, before;
    int failed = 0;

    if (!p) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    p->loop = loop;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    list_init(&p->jobs);
    sigfillset(&all); /* signals are for the loop's thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->count < want && !failed) {
        failed = pthread_create(&p->thread[p->count], NULL, workers_thread, p);
        p->count += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->count)
        return p;
    err_set(err, failed, "no thread can be started: %s", strerror(failed));
    workers_close(p);
    return NULL;
}

unsigned workers_threads(const struct workers *p)
{
    return p->count;
}

void workers_submit(struct workers *p, struct work_job *job)
{
    pthread_mutex_lock(&p->lock);
    list_add(&p->jobs, &job->link);
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}

void workers_close(struct workers *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->count; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
