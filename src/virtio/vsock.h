/* SPDX-License-Identifier: MIT */
/* virtio-vsock in user space: what its files share. See vsock.c for the picture.
 *
 * Bounds. A connection owns at most VSOCK_BUF bytes, and only while its host program is slower than
 * the guest. There are at most VSOCK_CONNS connections, and at most VSOCK_RESETS refusals wait for
 * the guest to offer buffers: each new connection and each refusal of a stray packet needs
 * refusals_room, and then every live connection can still be refused once without a check. */
#ifndef HULL_VIRTIO_VSOCK_H
#define HULL_VIRTIO_VSOCK_H

#include "base/list.h"
#include "loop/listener.h"
#include "virtio/devices.h"
#include "virtio/vhost.h"
#include <linux/virtio_vsock.h>

enum {
    VSOCK_HOST_CID = 2,
    VSOCK_CONNS = 512,
    VSOCK_RESETS = 2 * VSOCK_CONNS,
    VSOCK_BUCKETS = 256,
    VSOCK_BUF = 128 * 1024,  /* what we promise to take before the guest hears of more room */
    VSOCK_CHUNK = 64 * 1024, /* at most in one packet to the guest */
    VSOCK_GREETING = 32,     /* longest "CONNECT PORT\n" */
    VSOCK_HOST_PORTS = 1 << 30,
};

/*             CONNECT PORT\n           RESPONSE, OK
 *   GREETING --------------> REQUESTED ------------> OPEN -----> freed when both sides are done
 *                            DIALING  ------------>   |   RST while bytes for the host wait
 *   REQUEST of the guest -->         connected        +--------> DRAINING ---> freed
 */
enum vsock_phase { VSOCK_GREET, VSOCK_REQUESTED, VSOCK_DIALING, VSOCK_OPEN, VSOCK_DRAINING };

enum { /* packets that a connection owes the guest, in the order in which they are sent */
       OWES_REQUEST = 1,
       OWES_RESPONSE = 2,
       OWES_CREDIT = 4,
       OWES_CREDIT_REQUEST = 8,
       OWES_SHUTDOWN = 16,
};

struct vsock_conn {
    struct virtio_vsock *vs;
    struct list all;    /* in vs->conns */
    struct list bucket; /* in vs->bucket, unless the guest does not know it (any more) */
    struct list ready;  /* in vs->ready while there may be something for the guest */
    struct watch watch; /* the host program's socket, edge-triggered; fd -1: none */
    enum vsock_phase phase;
    uint32_t host_port, guest_port;
    uint32_t dial_id;
    uint8_t owes;
    bool readable;      /* until recv says EAGAIN */
    bool host_closed;   /* the host program is gone altogether */
    bool discard;       /* ... and takes nothing any more */
    uint8_t host_shut;  /* VIRTIO_VSOCK_SHUTDOWN_ flags told to the guest */
    uint8_t guest_shut; /* ... and heard from it */
    bool shut_write;    /* shutdown(SHUT_WR) is done */
    /* Credit, all modulo 2^32 (virtio 1.2, 5.10.6.3). */
    uint32_t peer_alloc, peer_fwd; /* as the guest last said */
    uint32_t sent;                 /* payload bytes given to the guest */
    uint32_t received;             /* ... taken from it */
    uint32_t forwarded, told;      /* ... given to the host program; as the guest last heard */
    bool asked;                    /* for credit, since the guest last gave some */
    uint8_t *buf;                  /* VSOCK_BUF bytes, or NULL: a ring */
    uint32_t buf_at, buf_len;
};

struct vsock_reset {
    uint32_t host_port, guest_port;
};

struct virtio_vsock {
    struct virtio v;
    uint32_t cid;
    struct listener listener;
    struct watch dialer; /* fd -1: the guest can connect nowhere */
    struct call pump;    /* fills the receive queue at the end of a turn */
    struct list conns, ready, bucket[VSOCK_BUCKETS];
    unsigned conn_count;
    uint32_t next_port, next_dial;
    struct vsock_reset reset[VSOCK_RESETS];
    unsigned reset_at, reset_count;
    bool tx_waits;   /* transmit stopped for want of refusals_room */
    bool tell_reset; /* the guest must hear that its connections are gone */
    bool by_kernel;  /* vhost-vsock: of all above only tell_reset is used */
    struct vhost vhost;
    uint8_t scratch[VSOCK_CHUNK];
};

static inline struct virtio_vsock *vsock_of(struct virtio *v)
{
    return container_of(v, struct virtio_vsock, v);
}

static inline bool vsock_has_room(const struct virtio_vsock *vs)
{
    return vs->reset_count < VSOCK_RESETS - VSOCK_CONNS;
}

/* ---- vsock.c ---- */
void vsock_refuse(struct virtio_vsock *vs, uint32_t host_port, uint32_t guest_port); /* an RST */
void vsock_pump(struct virtio_vsock *vs); /* soon: give the guest what there is for it */

/* ---- vsock_vhost.c; all but open do nothing for a vsock in user space ---- */
bool vsock_vhost_open(struct virtio_vsock *vs, struct err *err);
bool vsock_vhost_start(struct virtio_vsock *vs, struct err *err);

/* ---- vsock_conn.c: connections and the host programs' sockets ---- */
/* NULL: too many. `fd` may be -1; it is the connection's, on failure too. */
struct vsock_conn *vsock_conn_new(struct virtio_vsock *vs, int fd, enum vsock_phase phase);
void vsock_conn_free(struct vsock_conn *c);
void vsock_conn_reset(struct vsock_conn *c); /* tells the guest, if that knows of it, and frees */
struct vsock_conn *vsock_conn_find(struct virtio_vsock *vs, uint32_t host_port,
                                   uint32_t guest_port);
void vsock_conn_name(struct vsock_conn *c, uint32_t host_port, uint32_t guest_port);
bool vsock_conn_adopt(struct vsock_conn *c, int fd); /* false: the connection is freed */
void vsock_conn_owe(struct vsock_conn *c, uint8_t what);
/* A packet of the guest for this connection, payload next in `chain`. May free the connection. */
void vsock_conn_packet(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct chain *chain);
bool vsock_conn_can_read(const struct vsock_conn *c); /* the host may have bytes that fit */
/* Up to `max` of them into vs->scratch; 0: there are none now, see c->owes. */
size_t vsock_conn_read(struct vsock_conn *c, size_t max);

/* ---- vsock_host.c: who connects from the host, and connecting to it ---- */
bool vsock_host_open(struct virtio_vsock *vs, struct err *err);
void vsock_host_close(struct virtio_vsock *vs);
void vsock_host_greeting(struct vsock_conn *c,
                         uint32_t events);     /* reads "CONNECT PORT\n"; may free */
bool vsock_host_welcome(struct vsock_conn *c); /* writes "OK PORT\n" */
void vsock_host_dial(struct vsock_conn *c);    /* to host_port; may free */

#endif
