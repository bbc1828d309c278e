/* SPDX-License-Identifier: MIT */
/* Between the virtio-9p device and hull-9p: a memfd of slots and a SOCK_SEQPACKET pair.
 *
 * The device copies a request into a free slot and says so; hull-9p writes the reply into the same
 * slot's other half and says so. Neither blocks: a pair of sockets holds far more of these few
 * bytes than there are slots. Before the first request hull-9p sends one message, of slot
 * P9_LINK_READY. When either end closes, the other ends. */
#ifndef HULL_VIRTIO_9P_LINK_H
#define HULL_VIRTIO_9P_LINK_H

#include <stdint.h>

enum {
    P9_LINK_SLOTS = 32,
    P9_LINK_HALF = 512 << 10, /* the largest request, and the largest reply */
    P9_LINK_SLOT = 2 * P9_LINK_HALF,
    P9_LINK_BYTES = P9_LINK_SLOTS * P9_LINK_SLOT, /* pages exist once they are used */
};

#define P9_LINK_READY UINT32_MAX

struct p9_link_message {
    uint32_t slot;
    uint32_t len;  /* of the request, or of the reply: 0, there is none */
    uint32_t room; /* for the reply; in an answer 0 */
};

#endif
