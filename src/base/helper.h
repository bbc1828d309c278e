/* SPDX-License-Identifier: MIT */
/* hull's other programs: where they are, and those that serve a process over a socket and shared
 * memory. */
#ifndef HULL_BASE_HELPER_H
#define HULL_BASE_HELPER_H

#include "base/err.h"
#include <stddef.h>

/* The path of the program `name`: beside this one, installed in libexec, or in the build tree. */
bool helper_find(const char *name, char *path, size_t size, struct err *err);

/* A SOCK_SEQPACKET pair for messages and a memfd of `size` bytes, sealed: neither side can shorten
 * it under the other. All close on exec, and are the caller's. */
bool helper_channel(const char *name, size_t size, int pair[2], int *memory, struct err *err);

enum { HELPER_SOCKET_FD = 3, HELPER_MEMORY_FD = 4 }; /* how a started helper finds its ends */

struct helper {
    int socket;
    void *memory;
    size_t size; /* bytes; 0: not started */
};

/* Starts `name` with `words` (NULL at the end) as its arguments, a channel and nothing else that is
 * open but 0, 1 and 2. Nobody has to wait for it: it ends when its socket closes. */
bool helper_start(struct helper *h, const char *name, const char *const *words, size_t size,
                  struct err *err);
void helper_end(struct helper *h); /* closes our side; idempotent */

/* A descriptor that whoever started this program named in --OPTION TEXT; it closes on exec. */
bool helper_fd(const char *option, const char *text, int *fd, struct err *err);

#endif
