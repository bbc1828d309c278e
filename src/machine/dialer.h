/* SPDX-License-Identifier: MIT */
/* A small process that connects to UNIX sockets for a machine in its sandbox: see dialer.c. */
#ifndef HULL_DIALER_H
#define HULL_DIALER_H

#include "base/err.h"

#define DIALER_PATH 96 /* of the prefix: "_4294967295" must still fit into a socket's address */

/* Starts a dialer for the sockets PATH_0 to PATH_4294967295: the descriptor that takes struct
 * vsock_dial, or -1. The process ends when the descriptor is closed. Call it before there is guest
 * memory. */
int dialer_start(const char *path, bool sandbox, struct err *err);

#endif
