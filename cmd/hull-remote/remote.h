/* SPDX-License-Identifier: MIT */
/* hull-remote's parts: connect.c reaches the server, serve.c carries calls to it, fence.c shuts us
 * in between the two. */
#ifndef HULL_REMOTE_H
#define HULL_REMOTE_H

#include "base/helper.h"
#include "block/remote.h"
#include <libnbd.h>

/* A connection to what `address` names: an NBD URI, http(s):// and ftp:// through nbdkit's curl
 * plugin, nbdkit:PLUGIN ARGUMENT ...; or, with a `format`, that file through qemu-nbd. NULL on
 * error. The caller's to close, which ends the child that may have been started. */
struct nbd_handle *connect_server(const char *format, const char *address, bool readonly,
                                  struct err *err);

/* No more files, programs or connections from here on. */
bool fence_enter(struct err *err);

/* Calls and answers until the other end closes: true, or the server is lost: false. `size` is the
 * disk's, `can` what it allows. */
bool serve(struct nbd_handle *nbd, uint64_t size, uint32_t can, uint8_t *memory, struct err *err);

#endif
