/* SPDX-License-Identifier: MIT */
/* Watches, timers and calls: order, removal from inside callbacks, many threads, nested turns. */
#include "loop/loop.h"
#include "base/clock.h"
#include "tap.h"
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

#define MS 1000000ULL

static struct loop *l;
static struct err e;

/* --- watches --- */

struct end {
    struct watch w;
    struct watch *victim; /* forgotten when this one is ready */
    unsigned ready;
};

static void end_ready(struct watch *w, uint32_t events)
{
    struct end *end = container_of(w, struct end, w);

    (void)events;
    end->ready++;
    if (end->victim != NULL)
        loop_forget(l, end->victim);
}

static void test_watch(void)
{
    struct end a = {.w = {.events = EPOLLIN, .ready = end_ready}}, b = a;
    int p[2], q[2];

    if (pipe(p) != 0 || pipe(q) != 0)
        return;
    a.w.fd = p[0];
    b.w.fd = q[0];
    ok(loop_watch(l, &a.w, &e) && loop_watch(l, &b.w, &e), "two watches");
    loop_turn(l, 0);
    ok(a.ready == 0 && b.ready == 0, "nothing ready yet");
    if (write(p[1], "x", 1) != 1 || write(q[1], "x", 1) != 1)
        return;
    loop_turn(l, UINT64_MAX);
    ok(a.ready == 1 && b.ready == 1, "both ready in one turn");
    loop_rewatch(l, &b.w, 0);
    loop_turn(l, 0);
    ok(a.ready == 2 && b.ready == 1, "rewatch with no events silences");
    loop_rewatch(l, &b.w, EPOLLIN);
    a.victim = &b.w;
    b.victim = &a.w;
    loop_turn(l, 0);
    ok(a.ready + b.ready == 4, "whichever comes first silences the other in the same turn");
    loop_forget(l, &a.w);
    loop_forget(l, &a.w);
    loop_forget(l, &b.w);
    loop_turn(l, 0);
    ok(a.ready + b.ready == 4, "forgotten");
    close(p[0]);
    ok(!loop_watch(l, &a.w, &e) && strstr(e.text, "cannot watch descriptor"), "bad fd: %s", e.text);
    close(p[1]);
    close(q[0]);
    close(q[1]);
}

/* --- timers --- */

static char order[32];

static void note(char what)
{
    size_t n = strlen(order);

    order[n] = what;
    order[n + 1] = '\0';
}

struct tick {
    struct timer t;
    char name;
    unsigned again; /* arms itself for the past so many times */
    struct timer *victim;
};

static void tick_fire(struct timer *t)
{
    struct tick *tick = container_of(t, struct tick, t);

    note(tick->name);
    if (tick->again > 0) {
        tick->again--;
        loop_at(l, t, 0);
    }
    if (tick->victim != NULL)
        loop_cancel(l, tick->victim);
}

static void test_timers(void)
{
    struct tick a = {{.fire = tick_fire}, 'a', 0, NULL}, b = a, c = a, d = a;
    uint64_t start = now_ns(), took;

    b.name = 'b';
    c.name = 'c';
    d.name = 'd';
    loop_at(l, &c.t, start + 3 * MS);
    loop_at(l, &a.t, start + 1 * MS);
    loop_at(l, &b.t, start + 1 * MS);
    loop_at(l, &d.t, start + 2 * MS);
    loop_at(l, &d.t, start + 4 * MS); /* moved */
    while (strlen(order) < 4)
        loop_turn(l, UINT64_MAX);
    took = now_ns() - start;
    ok(strcmp(order, "abcd") == 0, "timers fire in order: %s", order);
    ok(took >= 4 * MS && took < 2000 * MS, "and not before their time (%llu us)",
       (unsigned long long)(took / 1000));
    order[0] = '\0';
    a.again = 3;
    loop_at(l, &a.t, 0);
    loop_turn(l, 0);
    ok(strcmp(order, "a") == 0, "re-armed for the past: once a turn");
    loop_cancel(l, &a.t);
    loop_cancel(l, &a.t);
    loop_turn(l, 0);
    ok(strcmp(order, "a") == 0 && !a.t.armed, "cancelled");
    order[0] = '\0';
    a.again = 0;
    a.victim = &b.t;
    loop_at(l, &a.t, 1);
    loop_at(l, &b.t, 2);
    loop_turn(l, 0);
    ok(strcmp(order, "a") == 0, "one timer cancels the next that is due");
    start = now_ns();
    loop_turn(l, 5 * MS);
    took = now_ns() - start;
    ok(took >= 5 * MS && took < 2000 * MS, "a turn waits as long as it is told (%llu us)",
       (unsigned long long)(took / 1000));
}

/* --- calls --- */

#define POSTERS 4
#define POSTS   5000

struct count {
    struct call c;
    unsigned runs;
    unsigned posted; /* by its thread */
};

static struct count counts[POSTERS];
static unsigned finished;

static void count_run(struct call *c)
{
    container_of(c, struct count, c)->runs++;
}

static void *poster(void *arg)
{
    struct count *count = arg;

    for (unsigned i = 0; i < POSTS; i++) {
        while (__atomic_load_n(&count->c.posted, __ATOMIC_ACQUIRE))
            usleep(0);
        loop_post(l, &count->c);
    }
    __atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
    loop_quit(l);
    return NULL;
}

static void test_posts(void)
{
    pthread_t thread[POSTERS];
    unsigned total = 0;

    for (unsigned i = 0; i < POSTERS; i++) {
        counts[i].c.run = count_run;
        pthread_create(&thread[i], NULL, poster, &counts[i]);
    }
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < POSTERS)
        loop_run(l);
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_join(thread[i], NULL);
    loop_turn(l, 0);
    for (unsigned i = 0; i < POSTERS; i++)
        total += counts[i].runs;
    ok(total == POSTERS * POSTS, "no post is lost or doubled: %u", total);
}

static void append_run(struct call *c)
{
    struct count *count = container_of(c, struct count, c);

    note((char)('0' + count->runs));
}

static void test_unpost(void)
{
    struct count c[4] = {0};

    order[0] = '\0';
    for (unsigned i = 0; i < 4; i++) {
        c[i].c.run = append_run;
        c[i].runs = i;
        loop_post(l, &c[i].c);
    }
    loop_post(l, &c[0].c); /* posted already: no effect */
    loop_unpost(l, &c[3].c);
    loop_unpost(l, &c[1].c);
    loop_unpost(l, &c[1].c);
    loop_post(l, &c[1].c);
    loop_turn(l, UINT64_MAX);
    ok(strcmp(order, "021") == 0, "calls run oldest first, without those taken back: %s", order);
    loop_post(l, &c[3].c);
    loop_turn(l, UINT64_MAX);
    ok(strcmp(order, "0213") == 0, "and may be posted again");
}

/* --- nesting and quitting --- */

static struct call inner_call;
static unsigned inner_runs, outer_runs;

static void inner_run(struct call *c)
{
    (void)c;
    inner_runs++;
}

static void outer_run(struct call *c)
{
    (void)c;
    inner_call.run = inner_run;
    loop_post(l, &inner_call);
    while (inner_runs == 0) /* what block_close does */
        loop_turn(l, UINT64_MAX);
    outer_runs++;
}

static struct call last_call, again_call;
static unsigned last_runs, posted_first;

static void last_run(struct call *c)
{
    (void)c;
    last_runs++;
}

static void again_run(struct call *c)
{
    (void)c;
    posted_first = last_runs == 0;
    loop_last(l, &last_call);
    loop_last(l, &last_call); /* once is enough */
}

static void test_last(void)
{
    last_call.run = last_run;
    again_call.run = again_run;
    loop_post(l, &again_call);
    loop_turn(l, 0);
    ok(last_runs == 1 && posted_first, "a last call runs once, at the end of the same turn");
    loop_last(l, &last_call);
    loop_turn(l, UINT64_MAX);
    ok(last_runs == 2, "one that waits keeps the loop from sleeping");
    loop_last(l, &last_call);
    loop_unlast(l, &last_call);
    loop_unlast(l, &last_call);
    loop_turn(l, 0);
    ok(last_runs == 2, "taken back");
}

static void on_alarm(int sig)
{
    (void)sig;
    loop_quit(l);
}

static void test_nested(void)
{
    struct call outer = {.run = outer_run};
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};

    loop_post(l, &outer);
    loop_turn(l, UINT64_MAX);
    ok(outer_runs == 1 && inner_runs == 1, "a callback may take turns itself");
    loop_quit(l);
    loop_run(l);
    ok(true, "quit before run");
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &soon, NULL);
    loop_run(l);
    ok(true, "quit from a signal handler");
}

int main(void)
{
    l = loop_open(&e);
    if (!ok(l != NULL, "loop_open %s", e.text))
        return tap_done();
    test_watch();
    test_timers();
    test_posts();
    test_unpost();
    test_last();
    test_nested();
    loop_close(l);
    loop_close(NULL);
    return tap_done();
}
