/* SPDX-License-Identifier: MIT */
/* How fast a disk may be: leaky buckets, with the names and the meaning of QEMU's
 * block_set_io_throttle. Time comes from the caller. */
#ifndef HULL_BLOCK_THROTTLE_H
#define HULL_BLOCK_THROTTLE_H

#include "base/err.h"
#include <stdint.h>

enum throttle_limit {
    THROTTLE_BPS,
    THROTTLE_BPS_RD,
    THROTTLE_BPS_WR,
    THROTTLE_IOPS,
    THROTTLE_IOPS_RD,
    THROTTLE_IOPS_WR,
    THROTTLE_LIMITS
};
extern const char *const throttle_names[]; /* "bps", "bps_rd", ... */

struct throttle_config {
    uint64_t avg[THROTTLE_LIMITS]; /* a second; 0: no limit */
    uint64_t max[THROTTLE_LIMITS]; /* a second, in bursts; 0: a tenth of a second's worth */
    uint64_t burst_length[THROTTLE_LIMITS]; /* seconds that a burst may last; 0 is 1 */
    uint64_t iops_size;                     /* bytes that count as one operation; 0: any number */
};

struct throttle {
    struct throttle_config config;
    bool on;
    uint64_t leaked_ns; /* when the buckets were looked at */
    double level[THROTTLE_LIMITS], burst[THROTTLE_LIMITS];
};

bool throttle_set(struct throttle *t, const struct throttle_config *c, uint64_t now_ns,
                  struct err *err);
/* Nanoseconds that the next request has to wait; 0: let it go, and count it. */
uint64_t throttle_wait(struct throttle *t, bool write, uint64_t now_ns);
void throttle_count(struct throttle *t, bool write, uint64_t bytes);

#endif
