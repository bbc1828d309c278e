/* SPDX-License-Identifier: MIT */
/* hull as a client of a machine's QMP socket: one command, one answer, in order. */
#ifndef HULL_QMP_CLIENT_H
#define HULL_QMP_CLIENT_H

#include "base/err.h"
#include <jansson.h>

struct qmp_client {
    int fd;
    char *text; /* received and not yet read */
    size_t len, size;
};

/* Connects and negotiates. */
bool qmp_client_open(struct qmp_client *q, const char *path, struct err *err);
void qmp_client_close(struct qmp_client *q); /* idempotent after an open, good or not */
/* Takes `args` (NULL: none). The answer's "return", to be released; NULL: an error. Events that
 * arrive meanwhile are dropped. */
json_t *qmp_client_call(struct qmp_client *q, const char *command, json_t *args, struct err *err);
/* Gives the machine a descriptor under a name; ours stays open. */
bool qmp_client_give(struct qmp_client *q, const char *name, int fd, struct err *err);

#endif
