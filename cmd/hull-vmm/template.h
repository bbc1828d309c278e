/* SPDX-License-Identifier: MIT */
/* The process that clones are forked from; and what it says to hull clone, which it talks to over a
 * SOCK_SEQPACKET socket. */
#ifndef HULL_VMM_TEMPLATE_H
#define HULL_VMM_TEMPLATE_H

#include "base/err.h"
#include "config/config.h"

#define TEMPLATE_FDS (CONFIG_NETS + 1)

struct clone_order { /* hull to template; descriptors: the clone's config, then its networks' */
    uint32_t number;
};

enum clone_event { CLONE_FORKED, CLONE_RUNS, CLONE_ENDED };

struct clone_report { /* template, or the clone itself (CLONE_RUNS), to hull */
    uint32_t number;
    uint32_t event; /* enum clone_event */
    int32_t value;  /* its process id, or its exit status */
    uint32_t pad;
    uint64_t at_ns; /* CLOCK_MONOTONIC */
};

/* Serves orders until hull closes the socket and all clones have ended. In a clone it returns too:
 * *number is set and `config`, of zeroes, is the clone's. */
int template_serve(int socket, struct config *config, bool *is_clone, uint32_t *number,
                   struct err *err);
void template_report(int socket, uint32_t number, enum clone_event event, int32_t value);

#endif
