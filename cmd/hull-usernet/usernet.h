/* SPDX-License-Identifier: MIT */
/* The parts of hull-usernet: link.c (frames to and from the machine), stack.c (libslirp and its
 * poll loop), fence.c (what this process may do once guest frames arrive). */
#ifndef HULL_USERNET_H
#define HULL_USERNET_H

#include "base/err.h"
#include "net/net.h"

/* ---- link.c ---- */
enum {
    LINK_IN = 256 << 10,
    LINK_OUT = 1 << 20,
    LINK_HIGH = 256 << 10, /* above this much unsent output nothing new is taken in */
};

struct link {
    int fd;
    bool ended; /* the peer has closed, or broke the framing */
    size_t in_end, out_at, out_end;
    uint8_t in[LINK_IN], out[LINK_OUT];
};

/* Queues a frame for the guest; one that does not fit is lost, as on a real network. */
void link_send(struct link *l, const void *frame, size_t len);
/* Gives the socket what it takes. */
void link_flush(struct link *l);
/* Reads what is there and calls `take` per frame. */
void link_read(struct link *l, void (*take)(void *to, const uint8_t *frame, size_t len), void *to);
bool link_full(const struct link *l);

/* ---- stack.c ---- */
struct stack;

/* Binds the forwards: their errors name port, address and what to change. NULL on error. */
struct stack *stack_open(struct link *l, const struct net_config *c, struct err *err);
/* The port that a forward given with port 0 got. */
uint16_t stack_bound_port(const struct stack *s, unsigned forward);
void stack_run(struct stack *s); /* until the link ends */
void stack_close(struct stack *s);

/* ---- fence.c ---- */
/* From here on: no other user's rights, no file but resolv.conf, only the calls that the network
 * needs. */
bool fence_enter(struct err *err);

#endif
