/* SPDX-License-Identifier: MIT */
/* What a state case notes, at a fixed address of its guest. */
#ifndef HULL_GUEST_RESULT_H
#define HULL_GUEST_RESULT_H

#include <stdint.h>

#define RESULT_AT     0x5000
#define RESULT_MAGIC  0x7e57u
#define RESULT_VALUES 400

struct result {
    uint32_t magic, count;
    char name[48]; /* empty: the image has no case of that number */
    uint64_t value[RESULT_VALUES];
};

#endif
