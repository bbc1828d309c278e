/* SPDX-License-Identifier: MIT */
/* Devices on a board: order of calls, failure of attach, the clock. */
#include "bus/device.h"
#include "tap.h"

#include <errno.h>

static char trail[256]; /* which callbacks ran, in order */

static void note(const struct device *dev, char what)
{
    size_t len = strlen(trail);

    snprintf(trail + len, sizeof trail - len, "%c%s ", what, dev->id);
}

static bool good_attach(struct device *dev, struct board *board, struct err *err)
{
    note(dev, 'a');
    return strcmp(dev->id, "bad") || err_set(err, EIO, "broken on purpose");
}

static void good_reset(struct device *dev)
{
    note(dev, 'r');
}

static void good_pause(struct device *dev)
{
    note(dev, 'p');
}

static void good_resume(struct device *dev)
{
    note(dev, 's');
}

static void good_detach(struct device *dev)
{
    note(dev, 'd');
}

static const struct device_type good_type = {
    .name = "good",
    .size = sizeof(struct device),
    .attach = good_attach,
    .reset = good_reset,
    .pause = good_pause,
    .resume = good_resume,
    .detach = good_detach,
};

static uint64_t host_ns;

static uint64_t host_now(void)
{
    return host_ns;
}

static void test_clock(struct board *b)
{
    b->host_now = host_now;
    host_ns = 1000;
    board_clock_set(b, 0);
    host_ns = 1500;
    ok(board_now(b) == 500, "board time runs with the host's");
    ok(board_host_time(b, 700) == 1700 && board_host_time(b, 100) == 1500 &&
           board_host_time(b, UINT64_MAX) == UINT64_MAX,
       "board to host time; past is now, the far future saturates");
    board_pause(b);
    host_ns = 9000;
    ok(board_now(b) == 500, "and stands while paused");
    board_resume(b);
    host_ns = 9100;
    ok(board_now(b) == 600, "and goes on from there");
    board_pause(b);
    board_clock_set(b, 1000000);
    board_resume(b);
    host_ns = 9200;
    ok(board_now(b) == 1000100, "restored to more than the host's uptime");
    ok(board_host_time(b, 1000200) == 9300, "and host times stay right");
}

int main(void)
{
    static const struct board_ops ops = {0};
    struct board b;
    struct err err = {0};

    board_init(&b, &ops);
    ok(device_attach(&b, device_new(&good_type, "1"), &err), "attach");
    ok(device_attach(&b, device_new(&good_type, "2"), &err), "attach another");
    ok(!device_attach(&b, device_new(&good_type, "1"), &err) && err.code == EEXIST,
       "an id is taken once: %s", err.text);
    ok(!device_attach(&b, device_new(&good_type, "bad"), &err) && strstr(err.text, "bad: broken"),
       "a failure names the device: %s", err.text);
    ok(!strcmp(trail, "a1 a2 abad dbad "), "half-attached is detached: %s", trail);
    ok(board_device(&b, "2") && !board_device(&b, "3"), "found by id");
    trail[0] = 0;
    board_reset(&b);
    board_pause(&b);
    board_resume(&b);
    ok(!strcmp(trail, "r1 r2 p2 p1 s1 s2 "), "order: %s", trail);
    test_clock(&b);
    trail[0] = 0;
    board_close(&b);
    ok(!strcmp(trail, "d2 d1 ") && list_empty(&b.devices), "closed, last first: %s", trail);
    return tap_done();
}
