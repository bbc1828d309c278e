/* SPDX-License-Identifier: MIT */
/* The virtio devices: how to make each, and what the machine may ask of it. A device made here is
 * not yet attached: pass it to device_attach. Host sides (blocks, networks, chardevs) stay the
 * caller's and must outlive the device. All calls belong to the thread of the device's loop. */
#ifndef HULL_VIRTIO_DEVICES_H
#define HULL_VIRTIO_DEVICES_H

#include "virtio/virtio.h"

struct block;
struct net;
struct chardev;

/* A disk with `queues` queues (1 to 64; one a vCPU is right). */
struct device *virtio_blk_new(const char *id, struct block *block, uint16_t queues);
void virtio_blk_resized(struct device *dev); /* block->size has changed */

/* A network card over `pairs` backends (1 to 32), one for each pair of queues; the array is copied.
 * `mtu` 0: the guest is not told any. Takes the backends' sinks. */
struct device *virtio_net_new(const char *id, struct net *const *backend, uint16_t pairs,
                              const uint8_t mac[6], uint16_t mtu);
/* The same over taps, with the queues served by the host's kernel; the loop does not see frames. */
struct device *virtio_net_vhost_new(const char *id, struct net *const *tap, uint16_t pairs,
                                    const uint8_t mac[6], uint16_t mtu);
void virtio_net_link(struct device *dev, bool up);
/* Another address, while paused: in the configuration at once; the guest's driver takes it when it
 * starts afresh, until then it keeps the one it has. */
void virtio_net_readdress(struct device *dev, const uint8_t mac[6]);
void virtio_net_announce(struct device *dev); /* asks the guest to tell the network where it is */

/* A console (hvc0) over `console`, or none if NULL; ports are added before the device is attached.
 * Each appears in the guest as /dev/virtio-ports/NAME. Takes the chardevs' fronts. */
struct device *virtio_console_new(const char *id, struct chardev *console);
bool virtio_console_add_port(struct device *dev, const char *name, struct chardev *chardev,
                             struct err *err);
void virtio_console_resize(struct device *dev, uint16_t columns,
                           uint16_t rows); /* dev may be NULL */

/* Entropy from getrandom(2), or a repeatable stream if `seed` is not 0 (--random-seed). */
struct device *virtio_rng_new(const char *id, uint64_t seed);

/* A balloon: memory that the guest lends back. Sizes are bytes taken from the guest. */
struct device *virtio_balloon_new(const char *id);
void virtio_balloon_set(struct device *dev, uint64_t bytes); /* the guest gets there by and by */
uint64_t virtio_balloon_actual(struct device *dev);
enum balloon_stat { /* virtio 1.2, 5.5.6.3: the tags of the statistics */
                    BALLOON_SWAP_IN,
                    BALLOON_SWAP_OUT,
                    BALLOON_MAJOR_FAULTS,
                    BALLOON_MINOR_FAULTS,
                    BALLOON_FREE_MEMORY,
                    BALLOON_TOTAL_MEMORY,
                    BALLOON_AVAILABLE_MEMORY,
                    BALLOON_DISK_CACHES,
                    BALLOON_HUGETLB_ALLOCATIONS,
                    BALLOON_HUGETLB_FAILURES,
                    BALLOON_STATS,
};
struct balloon_stats {
    uint64_t value[BALLOON_STATS]; /* UINT64_MAX: the guest did not say */
    uint64_t updated_ns;           /* CLOCK_MONOTONIC; 0: never */
    uint64_t reported;             /* bytes of free pages given back so far */
};
/* The statistics as last heard; asks the guest for new ones, which arrive a little later. */
void virtio_balloon_stats(struct device *dev, struct balloon_stats *stats);

/* A vsock in user space for the guest `cid` (at least 3). Programs of the host that connect to
 * `listen_fd` (UNIX, listening) choose a port of the guest with "CONNECT PORT\n". Ports of the host
 * that the guest connects to are asked for at `dial_fd` (UNIX SOCK_SEQPACKET, struct vsock_dial).
 * Either may be -1; both are the device's, and it must be attached or freed. */
struct device *virtio_vsock_new(const char *id, uint32_t cid, int listen_fd, int dial_fd);
/* The same by the kernel's vhost-vsock: AF_VSOCK sockets on the host too. */
struct device *virtio_vsock_vhost_new(const char *id, uint32_t cid);
struct vsock_dial { /* question: value is the port; answer: 0 with a descriptor, or an errno */
    uint32_t id, value;
};

#define SHARE_TAG_MAX 36 /* bytes of a share's name, as virtio-fs has it */

/* A directory that hull-9p serves by 9P2000.L: `link` and `area` as in 9p_link.h, the device's. The
 * guest mounts it as `tag`. */
struct device *virtio_9p_new(const char *id, const char *tag, int link, int area);

/* The same by FUSE, which the virtiofsd behind the connected `socket` serves by vhost-user. Guest
 * memory must be in files (mem_use_files). */
struct device *virtio_fs_new(const char *id, const char *tag, int socket);

extern const struct device_type virtio_blk_type, virtio_net_type, virtio_console_type,
    virtio_rng_type, virtio_balloon_type, virtio_vsock_type, virtio_9p_type, virtio_fs_type;

#endif
