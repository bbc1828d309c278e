/* SPDX-License-Identifier: MIT */
/* The event loop over one epoll descriptor.
 *
 * Other threads reach it through `posted`, a lock-free stack, and an eventfd that is written only
 * when the stack was empty: a burst of posts costs one system call. The loop reads the eventfd
 * first and takes the stack afterwards, so a post between the two wakes the next turn. */
#include "loop/loop_private.h"
#include "base/clock.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RETRY_NS 1000000 /* when the kernel is short of memory for a request */

static void wake(struct loop *l)
{
    uint64_t one = 1;

    if (write(l->wake, &one, sizeof one) < 0) {
        /* EAGAIN: the counter is full, so the loop is woken already. */
    }
}

static void wake_ready(struct watch *w, uint32_t events)
{
    uint64_t count;

    if (read(w->fd, &count, sizeof count) < 0) {
        /* EAGAIN: a nested turn has read it. */
    }
}

struct loop *loop_open(struct err *err)
{
    struct loop *l = calloc(1, sizeof *l);

    if (l == NULL) {
        err_set(err, ENOMEM, "no memory for an event loop");
        return NULL;
    }
    list_init(&l->timers);
    list_init(&l->queued);
    l->ready_end = &l->ready;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->epoll < 0 || l->wake < 0) {
        err_set(err, errno, "cannot make an event loop: %s", strerror(errno));
        goto close_loop;
    }
    l->wake_watch = (struct watch){.fd = l->wake, .events = EPOLLIN, .ready = wake_ready};
    if (!loop_watch(l, &l->wake_watch, err) || !files_open(l, err))
        goto close_loop;
    return l;
close_loop:
    loop_close(l);
    return NULL;
}

void loop_close(struct loop *l)
{
    if (l == NULL)
        return;
    while (l->in_flight > 0 || !list_empty(&l->queued))
        loop_turn(l, UINT64_MAX);
    files_close(l);
    if (l->wake >= 0)
        close(l->wake);
    if (l->epoll >= 0)
        close(l->epoll);
    free(l);
}

bool loop_watch(struct loop *l, struct watch *w, struct err *err)
{
    struct epoll_event ev = {.events = w->events, .data.ptr = w};

    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, w->fd, &ev) != 0)
        return err_set(err, errno, "cannot watch descriptor %d: %s", w->fd, strerror(errno));
    w->active = true;
    return true;
}

void loop_rewatch(struct loop *l, struct watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    w->events = events;
    if (w->active)
        epoll_ctl(l->epoll, EPOLL_CTL_MOD, w->fd, &ev);
}

void loop_forget(struct loop *l, struct watch *w)
{
    if (!w->active)
        return;
    w->active = false;
    epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL);
    for (struct batch *b = l->batch; b != NULL; b = b->outer) {
        for (int i = 0; i < b->count; i++) {
            if (b->event[i].data.ptr == w)
                b->event[i].data.ptr = NULL;
        }
    }
}

void loop_at(struct loop *l, struct timer *t, uint64_t at_ns)
{
    struct list *at;

    loop_cancel(l, t);
    t->at_ns = at_ns;
    t->armed = true;
    /* From the end: most timers are set further ahead than those that wait already. */
    for (at = l->timers.prev; at != &l->timers; at = at->prev) {
        if (container_of(at, struct timer, link)->at_ns <= at_ns)
            break;
    }
    list_add(at->next, &t->link);
}

void loop_cancel(struct loop *l, struct timer *t)
{
    if (!t->armed)
        return;
    t->armed = false;
    list_remove(&t->link);
}

static struct timer *first_timer(struct loop *l)
{
    return list_empty(&l->timers) ? NULL : container_of(l->timers.next, struct timer, link);
}

/* At most as many as are due now: a timer that arms itself for the past waits for the next turn. */
static void fire_timers(struct loop *l)
{
    uint64_t now = now_ns();
    unsigned due = 0;
    struct timer *t;

    list_for(i, &l->timers)
    {
        if (container_of(i, struct timer, link)->at_ns > now)
            break;
        due++;
    }
    while (due-- > 0 && (t = first_timer(l)) != NULL && t->at_ns <= now) {
        loop_cancel(l, t);
        t->fire(t);
    }
}

void loop_post(struct loop *l, struct call *c)
{
    struct call *head;

    if (__atomic_exchange_n(&c->posted, true, __ATOMIC_ACQ_REL))
        return;
    head = __atomic_load_n(&l->posted, __ATOMIC_RELAXED);
    do {
        c->next = head;
    } while (!__atomic_compare_exchange_n(&l->posted, &head, c, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    if (head == NULL)
        wake(l);
}

/* Moves what other threads posted to the end of `ready`, oldest first. */
static void take_posted(struct loop *l)
{
    struct call *c = __atomic_exchange_n(&l->posted, NULL, __ATOMIC_ACQUIRE), *oldest = NULL;

    while (c != NULL) {
        struct call *next = c->next;

        c->next = oldest;
        oldest = c;
        c = next;
    }
    *l->ready_end = oldest;
    while (*l->ready_end != NULL)
        l->ready_end = &(*l->ready_end)->next;
}

static struct call *next_call(struct loop *l)
{
    struct call *c = l->ready;

    if (c != NULL) {
        l->ready = c->next;
        if (l->ready == NULL)
            l->ready_end = &l->ready;
        __atomic_store_n(&c->posted, false, __ATOMIC_RELEASE);
    }
    return c;
}

/* Calls that are posted meanwhile run in the next turn. */
static void run_calls(struct loop *l)
{
    struct call *c;

    take_posted(l);
    while ((c = next_call(l)) != NULL)
        c->run(c);
}

void loop_unpost(struct loop *l, struct call *c)
{
    struct call **at;

    if (!__atomic_load_n(&c->posted, __ATOMIC_ACQUIRE))
        return;
    take_posted(l);
    for (at = &l->ready; *at != NULL && *at != c; at = &(*at)->next)
        ;
    if (*at == NULL)
        return;
    *at = c->next;
    if (*at == NULL)
        l->ready_end = at;
    __atomic_store_n(&c->posted, false, __ATOMIC_RELEASE);
}

void loop_last(struct loop *l, struct call *c)
{
    if (__atomic_exchange_n(&c->posted, true, __ATOMIC_ACQ_REL))
        return;
    c->next = l->last;
    l->last = c;
}

void loop_unlast(struct loop *l, struct call *c)
{
    for (struct call **at = &l->last; *at != NULL; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            __atomic_store_n(&c->posted, false, __ATOMIC_RELEASE);
            return;
        }
}

static void run_last(struct loop *l)
{
    struct call *c;

    while ((c = l->last) != NULL) {
        l->last = c->next;
        __atomic_store_n(&c->posted, false, __ATOMIC_RELEASE);
        c->run(c);
    }
}

/* epoll_pwait2 is in Linux 5.11; older kernels round up to milliseconds. */
static int wait_events(struct loop *l, struct batch *b, uint64_t timeout_ns)
{
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                         .tv_nsec = (long)(timeout_ns % 1000000000)};
    int n = epoll_pwait2(l->epoll, b->event, BATCH_MAX, timeout_ns == UINT64_MAX ? NULL : &t, NULL);

    if (n < 0 && errno == ENOSYS) {
        uint64_t ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);

        n = epoll_wait(l->epoll, b->event, BATCH_MAX,
                       timeout_ns == UINT64_MAX ? -1 : (int)min_u64(ms, INT32_MAX));
    }
    return n < 0 ? 0 : n; /* EINTR: a signal handler may have called loop_quit */
}

static uint64_t time_to_wait(struct loop *l, uint64_t timeout_ns, bool retry)
{
    struct timer *t = first_timer(l);

    if (l->ready != NULL || l->last != NULL || files_waiting(l))
        return 0;
    if (retry)
        timeout_ns = min_u64(timeout_ns, RETRY_NS);
    if (t != NULL && timeout_ns > 0) {
        uint64_t now = now_ns();

        timeout_ns = min_u64(timeout_ns, t->at_ns > now ? t->at_ns - now : 0);
    }
    return timeout_ns;
}

bool loop_quiet(struct loop *l)
{
    return __atomic_load_n(&l->posted, __ATOMIC_SEQ_CST) == NULL &&
           !__atomic_load_n(&l->stirred, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&l->resting, __ATOMIC_SEQ_CST);
}

void loop_stir(struct loop *l)
{
    __atomic_store_n(&l->stirred, true, __ATOMIC_SEQ_CST);
}

void loop_when_quiet(struct loop *l, struct call *c)
{
    __atomic_store_n(&l->quiet, c, __ATOMIC_SEQ_CST);
    wake(l);
}

/* Before the loop waits: is there nothing that it will do by itself? A call posted from now on is
 * seen by loop_quiet. Only who waits for that pays for a look at the watches: true if *b has
 * events. */
static bool rest(struct loop *l, struct batch *b)
{
    struct call *c = __atomic_load_n(&l->quiet, __ATOMIC_SEQ_CST);

    if (l->depth > 1 || l->ready || l->last || l->in_flight || !list_empty(&l->queued) ||
        __atomic_load_n(&l->posted, __ATOMIC_SEQ_CST))
        return false;
    if (c) {
        b->count = wait_events(l, b, 0);
        if (b->count)
            return true;
        __atomic_store_n(&l->quiet, NULL, __ATOMIC_SEQ_CST);
        __atomic_store_n(&l->stirred, false, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&l->resting, true, __ATOMIC_SEQ_CST);
    if (c)
        c->run(c);
    return false;
}

void loop_turn(struct loop *l, uint64_t timeout_ns)
{
    struct batch b;
    bool retry = !files_flush(l);

    l->depth++;
    if (!rest(l, &b))
        b.count = wait_events(l, &b, time_to_wait(l, timeout_ns, retry));
    __atomic_store_n(&l->resting, false, __ATOMIC_SEQ_CST);
    b.outer = l->batch;
    l->batch = &b;
    for (int i = 0; i < b.count; i++) {
        struct watch *w = b.event[i].data.ptr;

        if (w != NULL) /* NULL: forgotten by a callback before it */
            w->ready(w, b.event[i].events);
    }
    l->batch = b.outer;
    fire_timers(l);
    run_calls(l);
    files_reap(l);
    run_last(l);
    files_flush(l); /* so that what this turn asked for runs while the caller does something else */
    l->depth--;
}

void loop_run(struct loop *l)
{
    while (!__atomic_load_n(&l->quit, __ATOMIC_ACQUIRE))
        loop_turn(l, UINT64_MAX);
    __atomic_store_n(&l->quit, false, __ATOMIC_RELEASE);
}

void loop_quit(struct loop *l)
{
    int saved = errno; /* signal handlers must not change it */

    __atomic_store_n(&l->quit, true, __ATOMIC_RELEASE);
    wake(l);
    errno = saved;
}
