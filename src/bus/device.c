/* SPDX-License-Identifier: MIT */
/* Devices come and go, the board resets, pauses and keeps time. */
#include "bus/device.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct device *device_new(const struct device_type *type, const char *id)
{
    struct device *dev = calloc(1, type->size);

    assert(type->size >= sizeof *dev);
    if (!dev)
        return NULL;
    dev->type = type;
    snprintf(dev->id, sizeof dev->id, "%s", id);
    list_init(&dev->link);
    pthread_mutex_init(&dev->lock, NULL);
    return dev;
}

bool device_attach(struct board *board, struct device *dev, struct err *err)
{
    if (!dev)
        return err_set(err, ENOMEM, "no memory for a device");
    dev->board = board;
    if (board_device(board, dev->id)) {
        err_set(err, EEXIST, "device id %s is taken", dev->id);
        dev->board = NULL; /* nothing to undo */
        device_free(dev);
        return false;
    }
    if (dev->type->attach && !dev->type->attach(dev, board, err)) {
        err_wrap(err, "%s", dev->id);
        device_free(dev);
        return false;
    }
    dev->attached = true;
    list_add(&board->devices, &dev->link);
    return true;
}

void device_free(struct device *dev)
{
    if (!dev)
        return;
    if (dev->board && dev->type->detach)
        dev->type->detach(dev);
    list_remove(&dev->link);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
}

static uint64_t wall_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void board_init(struct board *board, const struct board_ops *ops)
{
    memset(board, 0, sizeof *board);
    board->ops = ops;
    board->cpu_count = 1;
    board->host_now = now_ns;
    board->wall_now = wall_ns;
    board->clock_base = now_ns();
    list_init(&board->devices);
}

void board_reset(struct board *board)
{
    list_for(at, &board->devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (dev->type->reset)
            dev->type->reset(dev);
    }
}

void board_pause(struct board *board)
{
    if (!board->clock_stopped) {
        board->clock_base = board_now(board);
        board->clock_stopped = true;
        if (board->clock_changed)
            board->clock_changed(board);
    }
    for (struct list *at = board->devices.prev; at != &board->devices; at = at->prev) {
        struct device *dev = container_of(at, struct device, link);

        if (dev->type->pause)
            dev->type->pause(dev);
    }
}

void board_resume(struct board *board)
{
    list_for(at, &board->devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (dev->type->resume)
            dev->type->resume(dev);
    }
    if (!board->clock_stopped)
        return;
    board->clock_base = board->host_now() - board->clock_base;
    board->clock_stopped = false;
    if (board->clock_changed)
        board->clock_changed(board);
}

void board_close(struct board *board)
{
    while (!list_empty(&board->devices))
        device_free(container_of(board->devices.prev, struct device, link));
}

struct device *board_device(struct board *board, const char *id)
{
    list_for(at, &board->devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (!strcmp(dev->id, id))
            return dev;
    }
    return NULL;
}

uint64_t board_now(struct board *board)
{
    uint64_t base = board->clock_base;

    return board->clock_stopped ? base : board->host_now() - base;
}

uint64_t board_host_time(struct board *board, uint64_t at_ns)
{
    uint64_t now = board_now(board), host = board->host_now();

    if (at_ns <= now)
        return host;
    return at_ns - now > UINT64_MAX - host ? UINT64_MAX : host + (at_ns - now);
}

void board_clock_set(struct board *board, uint64_t ns)
{
    board->clock_base = board->clock_stopped ? ns : board->host_now() - ns;
    if (board->clock_changed)
        board->clock_changed(board);
}
