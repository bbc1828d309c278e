/* SPDX-License-Identifier: MIT */
/* hull-nbd: serves a machine's disks to NBD clients. See main.c. */
#ifndef HULL_NBD_H
#define HULL_NBD_H

#include "base/bits.h"
#include "base/err.h"
#include "machine/nbd_link.h"
#include <pthread.h>
#include <string.h>

struct export
{
    bool used, writable;
    uint64_t size;
    char name[NBD_NAME], bitmap[NBD_NAME];
};

struct connection { /* and its thread */
    unsigned slot;
    int fd; /* -1: none */
    bool answered;
    int error;
    uint32_t count;
    int export;                         /* -1: none chosen yet */
    bool structured, allocation, dirty; /* what was agreed on */
};

struct server {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    int link;
    uint8_t *memory;
    int listener; /* -1: not serving */
    char path[NBD_NAME];
    struct export export[NBD_EXPORTS];
    struct connection connection[NBD_SLOTS];
};

/* link.c: asks the machine and waits: 0 or a positive errno value. */
int link_ask(struct server *s, struct connection *c, enum nbd_op op, unsigned flags,
             uint64_t offset, uint64_t length);
void link_serve(struct server *s); /* until the machine is gone */

/* listen.c */
int listen_start(struct server *s, const char *name, const char *port); /* errno value */
void listen_stop(struct server *s);

/* talk.c: all of a client's conversation. */
void talk(struct server *s, struct connection *c);
bool talk_read(int fd, void *to, size_t len);
bool talk_write(int fd, const void *from, size_t len);
/* negotiate.c: true: transmission begins. */
bool negotiate(struct server *s, struct connection *c);

bool fence_enter(void);

static inline uint8_t *slot_of(struct server *s, const struct connection *c)
{
    return s->memory + (size_t)c->slot * NBD_SLOT_SIZE;
}

#endif
