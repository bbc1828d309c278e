/* SPDX-License-Identifier: MIT */
/* What a machine or a tool and its hull-remote say to each other.
 *
 * hull-remote holds a connection to a server (NBD) and speaks its protocol; we hold a guest's
 * memory or a user's files. Between us are a channel (base/helper.h) for these messages, and memory
 * of REMOTE_SLOTS slots for what is read and written: one call at a time per slot. Either side may
 * have been taken over by what it parses, so each checks all that the other says. The memory is a
 * sealed memfd: nobody can shorten it under the other. */
#ifndef HULL_BLOCK_REMOTE_H
#define HULL_BLOCK_REMOTE_H

#include <stdint.h>

enum {
    REMOTE_SLOTS = 16,
    REMOTE_SLOT_SIZE = 1 << 20,
    REMOTE_STATUS_SLOT = REMOTE_SLOTS, /* for calls without data */
    REMOTE_SPAN = 1 << 30,             /* bytes: the most that a call without data covers */
};

#define REMOTE_SIZE_MAX (1ULL << 61) /* bytes */

enum { REMOTE_CAN_WRITE = 1, REMOTE_CAN_FLUSH = 2, REMOTE_CAN_TRIM = 4, REMOTE_CAN_ZERO = 8 };

/* The first message, from hull-remote: the disk, or why there is none. */
struct remote_hello {
    uint64_t size; /* bytes; what lies behind the end reads as zeroes */
    uint32_t can;  /* REMOTE_CAN_ */
    int32_t error; /* 0, or an errno value and text */
    char text[256];
};

enum remote_op {
    REMOTE_READ,
    REMOTE_WRITE,
    REMOTE_FLUSH,
    REMOTE_TRIM,
    REMOTE_ZERO,
    REMOTE_ZERO_KEEP, /* zeroes that stay allocated */
    REMOTE_STATUS,
};

struct remote_call {
    uint32_t slot, op;
    uint64_t offset, length; /* bytes; only reads may go beyond the disk's end */
};

enum { REMOTE_IS_HOLE = 1, REMOTE_IS_ZERO = 2 }; /* base:allocation, NBD protocol */

struct remote_answer {
    uint32_t slot;
    int32_t error;   /* 0 or a positive errno value */
    uint64_t length; /* REMOTE_STATUS: bytes that are alike, at least 1 */
    uint32_t state;  /* REMOTE_STATUS: REMOTE_IS_ */
    uint32_t unused;
};

#endif
