/* SPDX-License-Identifier: MIT */
/* Device timers: order, cancelling, pausing, and arming from other threads on a real loop. */
#include "base/clock.h"
#include "dev/testboard.h"
#include "tap.h"

#include <unistd.h>

#define TIMERS 4

static char order[64];

struct clocked {
    struct device dev;
    struct devtimer t[TIMERS];
    _Atomic unsigned fired;
    uint64_t late_ns; /* the latest that one fired */
};

static void clocked_fire(struct devtimer *t)
{
    struct clocked *c = container_of(t->dev, struct clocked, dev);
    size_t len = strlen(order);
    uint64_t late = board_now(t->dev->board) - t->at_ns;

    if (len + 1 < sizeof order)
        order[len] = (char)('0' + (t - c->t));
    c->fired++;
    c->late_ns = max_u64(c->late_ns, late);
}

static bool clocked_attach(struct device *dev, struct board *board, struct err *err)
{
    struct clocked *c = container_of(dev, struct clocked, dev);

    for (unsigned i = 0; i < TIMERS; i++)
        if (!devtimer_open(&c->t[i], dev, clocked_fire, err))
            return false;
    return true;
}

static void clocked_detach(struct device *dev)
{
    for (unsigned i = 0; i < TIMERS; i++)
        devtimer_close(&container_of(dev, struct clocked, dev)->t[i]);
}

static const struct device_type clocked_type = {
    .name = "clocked",
    .size = sizeof(struct clocked),
    .attach = clocked_attach,
    .detach = clocked_detach,
};

static bool went(const char *text)
{
    bool same = !strcmp(order, text);

    memset(order, 0, sizeof order);
    return same;
}

static void test_order(struct clocked *c)
{
    uint64_t now = board_now(&tb.board);

    devtimer_at(&c->t[0], now + 300000);
    devtimer_at(&c->t[1], now + 100000);
    devtimer_at(&c->t[2], now + 200000);
    devtimer_at(&c->t[3], now + 100000);
    tb_pass(50000);
    ok(went(""), "not before their time");
    tb_pass(300000);
    ok(went("1320"), "in order of time, then of arming");
    devtimer_at(&c->t[0], now + 1000000);
    devtimer_at(&c->t[0], now + 2000000);
    devtimer_at(&c->t[1], now + 1000000);
    devtimer_cancel(&c->t[1]);
    devtimer_cancel(&c->t[1]);
    tb_pass(1000000);
    ok(went(""), "moved and cancelled ones keep still");
    tb_pass(1000000);
    ok(went("0"), "moved: fires once");
    devtimer_at(&c->t[2], 0);
    tb_pass(1);
    ok(went("2"), "a time that has passed fires at once");
}

/* A vCPU thread that arms and cancels as registers are written. */
static void *rearm(void *arg)
{
    struct clocked *c = arg;

    for (unsigned i = 0; i < 200; i++) {
        pthread_mutex_lock(&c->dev.lock);
        devtimer_at(&c->t[i % TIMERS], board_now(&tb.board) + 20000 + i * 100);
        if (i % 5 == 4)
            devtimer_cancel(&c->t[(i + 1) % TIMERS]);
        pthread_mutex_unlock(&c->dev.lock);
        usleep(50);
    }
    return NULL;
}

static void test_loop(struct loop *loop)
{
    struct clocked *c;
    pthread_t thread;
    uint64_t end;

    tb_open(loop);
    tb.board.host_now = now_ns;
    board_clock_set(&tb.board, 0);
    c = container_of(tb_add(&clocked_type), struct clocked, dev);
    pthread_create(&thread, NULL, rearm, c);
    end = now_ns() + 60000000;
    while (now_ns() < end)
        loop_turn(loop, 1000000);
    pthread_join(thread, NULL);
    end = now_ns() + 1000000000;
    while (now_ns() < end && (c->t[0].armed || c->t[1].armed || c->t[2].armed || c->t[3].armed))
        loop_turn(loop, 1000000);
    ok(c->fired > 0, "%u fired, armed by another thread; the latest %llu us late", c->fired,
       (unsigned long long)c->late_ns / 1000);
    c->fired = 0;
    pthread_mutex_lock(&c->dev.lock);
    devtimer_at(&c->t[0], board_now(&tb.board) + 1000000);
    pthread_mutex_unlock(&c->dev.lock);
    board_pause(&tb.board);
    end = now_ns() + 5000000;
    while (now_ns() < end)
        loop_turn(loop, 1000000);
    ok(c->fired == 0, "paused: nothing");
    board_resume(&tb.board);
    end = now_ns() + 1000000000;
    while (now_ns() < end && !c->fired)
        loop_turn(loop, 10000000);
    ok(c->fired == 1, "resumed: it fires");
    pthread_mutex_lock(&c->dev.lock);
    devtimer_at(&c->t[0], board_now(&tb.board) + 1000000);
    pthread_mutex_unlock(&c->dev.lock);
    tb_close();
    loop_turn(loop, 2000000);
    ok(tb.board.clock == NULL, "closed with a timer armed and the loop told");
}

int main(void)
{
    struct err err;
    struct loop *loop = loop_open(&err);

    tb_open(NULL);
    test_order(container_of(tb_add(&clocked_type), struct clocked, dev));
    tb_close();
    test_loop(loop);
    loop_close(loop);
    return tap_done();
}
