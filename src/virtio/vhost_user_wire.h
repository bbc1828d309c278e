/* SPDX-License-Identifier: MIT */
/* vhost-user's messages, as QEMU's docs/interop/vhost-user.rst has them. */
#ifndef HULL_VIRTIO_VHOST_USER_WIRE_H
#define HULL_VIRTIO_VHOST_USER_WIRE_H

#include "base/bits.h"

enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
    VHOST_USER_GET_PROTOCOL_FEATURES = 15,
    VHOST_USER_SET_PROTOCOL_FEATURES = 16,
    VHOST_USER_SET_VRING_ENABLE = 18,
};

enum { /* flags */
       VHOST_USER_VERSION = 1,
       VHOST_USER_REPLY = 4,
       VHOST_USER_NEED_REPLY = 8,
};

enum { /* feature bits */
       VHOST_USER_F_PROTOCOL_FEATURES = 30,
       VHOST_USER_PROTOCOL_F_MQ = 0,
       VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
};

enum { VHOST_USER_MEM_REGIONS = 8 };

struct vhost_user_head {
    uint32_t request, flags, size;
};

struct vhost_user_state {
    uint32_t index, num;
};

struct vhost_user_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};

struct vhost_user_region {
    uint64_t gpa, size, user, offset;
};

struct vhost_user_memory {
    uint32_t count, padding;
    struct vhost_user_region region[VHOST_USER_MEM_REGIONS];
};

#endif
