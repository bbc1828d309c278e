/* SPDX-License-Identifier: MIT */
/* The front end of vhost-user: see vhost_user.h. What the back end says is checked as what a guest
 * says is: it may be a program that somebody has taken over.
 *
 * The memory of a ring, in a memfd of its own that holds all rings:
 *
 *   descriptors   one for each slot, which points to the slot's table (indirect)
 *   available, used
 *   tables        one for each slot, with the chain's segments by guest address */
#include "virtio/vhost_user.h"
#include "virtio/vhost_user_wire.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    SIZE = VHOST_USER_RING_SIZE,
    AVAIL = 16 * SIZE,
    USED = 2 * PAGE_SIZE,
    TABLES = 3 * PAGE_SIZE,
    TABLE = 4352, /* CHAIN_LONG descriptors, on a boundary of 256 bytes */
    RING_BYTES = TABLES + SIZE * TABLE,
    ANSWER_S = 20, /* how long a back end may take for an answer at the start */
};

_Static_assert(AVAIL + 6 + 2 * SIZE <= USED && TABLE >= CHAIN_LONG * 16, "a ring's layout");

static struct vring_desc *descriptors(const struct vhost_user_ring *r)
{
    return (struct vring_desc *)r->memory;
}

static struct vring_avail *avail_ring(const struct vhost_user_ring *r)
{
    return (struct vring_avail *)(r->memory + AVAIL);
}

static struct vring_used *used_ring(const struct vhost_user_ring *r)
{
    return (struct vring_used *)(r->memory + USED);
}

static struct vring_desc *table(const struct vhost_user_ring *r, unsigned slot)
{
    return (struct vring_desc *)(r->memory + TABLES + (size_t)slot * TABLE);
}

/* ---- the end of the back end ---- */

static void lost(struct vhost_user *u, const char *why)
{
    if (u->socket.fd < 0)
        return;
    log_error("%s: %s: the guest cannot use it any more", u->what, why);
    loop_forget(u->v->loop, &u->socket);
    close(u->socket.fd);
    u->socket.fd = -1;
    for (unsigned i = 0; i < u->ring_count; i++) {
        struct vhost_user_ring *r = &u->ring[i];

        for (uint16_t slot = 0; slot < SIZE; slot++)
            if (r->chain[slot]) {
                struct chain *c = r->chain[slot];

                r->chain[slot] = NULL;
                r->free_slot[r->free_count++] = slot;
                u->fail(u, c);
            }
    }
}

/* Nothing is said on the socket once all is set up: it can only end. */
static void socket_ready(struct watch *w, uint32_t events)
{
    struct vhost_user *u = container_of(w, struct vhost_user, socket);
    uint8_t byte;
    ssize_t n = recv(w->fd, &byte, 1, MSG_DONTWAIT);

    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    lost(u, "its server has ended");
}

/* ---- chains ---- */

/* Into a free slot. The back end reads the table only after `avail` says so. */
static void put(struct vhost_user *u, struct vhost_user_ring *r, struct chain *c)
{
    uint16_t slot = r->free_slot[--r->free_count];
    struct vring_desc *d = table(r, slot);

    for (unsigned i = 0; i < c->count; i++)
        d[i] = (struct vring_desc){
            .addr = c->seg[i].addr,
            .len = c->seg[i].len,
            .flags = (uint16_t)((i + 1u < c->count ? VRING_DESC_F_NEXT : 0) |
                                (i >= c->readable ? VRING_DESC_F_WRITE : 0)),
            .next = (uint16_t)(i + 1),
        };
    descriptors(r)[slot] = (struct vring_desc){
        .addr = u->memory_at + (gpa)((uint8_t *)d - u->memory),
        .len = c->count * (uint32_t)sizeof *d,
        .flags = VRING_DESC_F_INDIRECT,
    };
    r->chain[slot] = c;
    avail_ring(r)->ring[r->avail++ % SIZE] = slot;
}

void vhost_user_kick(struct vhost_user *u, struct queue *q)
{
    struct vhost_user_ring *r = &u->ring[q->index];
    uint16_t before = r->avail;
    uint64_t one = 1;
    struct chain *c;

    while (r->free_count && (c = queue_next(q)) != NULL) {
        if (u->socket.fd < 0)
            u->fail(u, c);
        else
            put(u, r, c);
    }
    r->starved = !r->free_count;
    if (r->avail == before)
        return;
    __atomic_store_n(&avail_ring(r)->idx, r->avail, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* with the back end's, between its flag and `idx` */
    if (!(__atomic_load_n(&used_ring(r)->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY))
        (void)!write(r->kick, &one, sizeof one);
}

/* One used element; false: the back end says what cannot be. */
static bool take(struct vhost_user_ring *r)
{
    const struct vring_used_elem *e = &used_ring(r)->ring[r->used % SIZE];
    uint32_t slot = __atomic_load_n(&e->id, __ATOMIC_RELAXED);
    uint32_t len = __atomic_load_n(&e->len, __ATOMIC_RELAXED);
    struct chain *c = slot < SIZE ? r->chain[slot] : NULL;

    if (!c)
        return false;
    r->used++;
    r->chain[slot] = NULL;
    r->free_slot[r->free_count++] = (uint16_t)slot;
    chain_filled(c, min_size(len, chain_room(c)));
    chain_finish(c);
    return true;
}

static void called(struct watch *w, uint32_t events)
{
    struct vhost_user_ring *r = container_of(w, struct vhost_user_ring, called);
    struct vhost_user *u = r->owner;
    struct queue *q = &u->v->queue[r->queue].q;
    uint64_t count;
    uint16_t until;
    bool good = true;

    (void)!read(w->fd, &count, sizeof count);
    until = __atomic_load_n(&used_ring(r)->idx, __ATOMIC_ACQUIRE);
    queue_hold(q);
    while (good && u->socket.fd >= 0 && r->used != until)
        good = take(r);
    if (!good)
        lost(u, "its server broke the ring");
    queue_release(q);
    if (r->starved && r->free_count)
        virtio_kick(u->v, r->queue);
}

/* ---- messages ---- */

static bool send_message(struct vhost_user *u, const struct vhost_user_head *h, const void *body,
                         const int *fd, unsigned fds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(VHOST_USER_MEM_REGIONS * sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(fds * sizeof *fd),
                          .cmsg_level = SOL_SOCKET,
                          .cmsg_type = SCM_RIGHTS}};
    struct iovec iov[2] = {{(void *)h, sizeof *h}, {(void *)body, h->size}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t n;

    if (fds) {
        memcpy(CMSG_DATA(&control.head), fd, fds * sizeof *fd);
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(fds * sizeof *fd);
    }
    do /* so little is sent whole or not at all */
        n = sendmsg(u->socket.fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)(sizeof *h + h->size);
}

static bool cannot(struct vhost_user *u, unsigned request, struct err *err)
{
    if (errno == EAGAIN)
        return err_set(err, ETIMEDOUT, "%s: its server does not answer (request %u)", u->what,
                       request);
    return err_set(err, ECONNRESET, "%s: its server has ended, or makes no sense (request %u)",
                   u->what, request);
}

/* All of it. EINTR comes without a signal too, from io_uring. */
static bool receive_all(int fd, void *to, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = recv(fd, (uint8_t *)to + at, len - at, 0);

        if (n > 0)
            at += (size_t)n;
        else if (!n || errno != EINTR)
            return false;
    }
    return true;
}

/* A number as the answer. */
static bool receive(struct vhost_user *u, unsigned request, uint64_t *value, struct err *err)
{
    struct vhost_user_head h;
    bool good;

    errno = 0;
    good = receive_all(u->socket.fd, &h, sizeof h) && h.request == request &&
           h.flags & VHOST_USER_REPLY && h.size == sizeof *value &&
           receive_all(u->socket.fd, value, sizeof *value);
    return good || cannot(u, request, err);
}

static bool get(struct vhost_user *u, enum vhost_user_request request, uint64_t *value,
                struct err *err)
{
    struct vhost_user_head h = {request, VHOST_USER_VERSION, 0};

    return (send_message(u, &h, NULL, NULL, 0) || cannot(u, request, err)) &&
           receive(u, request, value, err);
}

/* Waits until the back end has done it, where it can say so. */
static bool set_with(struct vhost_user *u, enum vhost_user_request request, const void *body,
                     size_t len, const int *fd, unsigned fds, struct err *err)
{
    bool ack = u->protocol & BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
    struct vhost_user_head h = {request, VHOST_USER_VERSION | (ack ? VHOST_USER_NEED_REPLY : 0),
                                (uint32_t)len};
    uint64_t refused = 0;

    if (!send_message(u, &h, body, fd, fds))
        return cannot(u, request, err);
    if (ack && !receive(u, request, &refused, err))
        return false;
    return !refused || err_set(err, EIO, "%s: its server refuses request %u", u->what, request);
}

static bool set(struct vhost_user *u, enum vhost_user_request request, const void *body, size_t len,
                struct err *err)
{
    return set_with(u, request, body, len, NULL, 0, err);
}

/* ---- the start ---- */

static bool negotiate(struct vhost_user *u, uint64_t wanted, struct err *err)
{
    uint64_t need = wanted | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC);
    uint64_t offered, protocol = 0;
    bool has_protocol;

    if (!set(u, VHOST_USER_SET_OWNER, NULL, 0, err) ||
        !get(u, VHOST_USER_GET_FEATURES, &offered, err))
        return false;
    if (need & ~offered)
        return err_set(err, ENOTSUP, "%s: its server lacks features 0x%llx", u->what,
                       (unsigned long long)(need & ~offered));
    has_protocol = offered & BIT(VHOST_USER_F_PROTOCOL_FEATURES);
    if (has_protocol && !get(u, VHOST_USER_GET_PROTOCOL_FEATURES, &protocol, err))
        return false;
    protocol &= BIT(VHOST_USER_PROTOCOL_F_MQ) | BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
    if (has_protocol && !set(u, VHOST_USER_SET_PROTOCOL_FEATURES, &protocol, sizeof protocol, err))
        return false;
    u->protocol = protocol;
    u->features = need | (offered & BIT(VHOST_USER_F_PROTOCOL_FEATURES));
    return set(u, VHOST_USER_SET_FEATURES, &u->features, sizeof u->features, err);
}

/* Pages of the rings exist once they are used. */
static bool make_rings(struct vhost_user *u, struct err *err)
{
    size_t size = align_up((size_t)u->ring_count * RING_BYTES, PAGE_SIZE);
    void *at = MAP_FAILED;

    u->memory_fd = memfd_create("vhost-user", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (u->memory_fd >= 0 && !ftruncate(u->memory_fd, (off_t)size) &&
        !fcntl(u->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, u->memory_fd, 0);
    if (at == MAP_FAILED)
        return err_set(err, errno, "%s: no memory for its rings: %s", u->what, strerror(errno));
    u->memory = at;
    for (unsigned i = 0; i < u->ring_count; i++) {
        struct vhost_user_ring *r = &u->ring[i];

        r->memory = u->memory + (size_t)i * RING_BYTES;
        while (r->free_count < SIZE) {
            r->free_slot[r->free_count] = (uint16_t)(SIZE - 1 - r->free_count);
            r->free_count++;
        }
    }
    return true;
}

/* All RAM of the guest, and the rings. Addresses of "user space" are names only: ours. */
static bool give_memory(struct vhost_user *u, struct err *err)
{
    const struct mem *m = u->v->dev.board->mem;
    struct vhost_user_memory t = {.count = 0};
    int fd[VHOST_USER_MEM_REGIONS];

    for (unsigned i = 0; i < m->count; i++) {
        const struct mem_region *r = &m->region[i];

        if (r->readonly)
            continue;
        if (r->fd < 0)
            return err_set(err, ENOTSUP, "%s: guest memory is not in a file: it was restored",
                           u->what);
        if (t.count + 1 == VHOST_USER_MEM_REGIONS)
            return err_set(err, E2BIG, "%s: guest memory is in too many pieces", u->what);
        fd[t.count] = r->fd;
        t.region[t.count++] = (struct vhost_user_region){
            .gpa = r->base, .size = r->size, .user = (uintptr_t)r->host, .offset = r->fd_offset};
    }
    u->memory_at = 1ULL << 46;
    fd[t.count] = u->memory_fd;
    t.region[t.count++] = (struct vhost_user_region){
        .gpa = u->memory_at,
        .size = align_up((size_t)u->ring_count * RING_BYTES, PAGE_SIZE),
        .user = (uintptr_t)u->memory,
    };
    return set_with(u, VHOST_USER_SET_MEM_TABLE, &t, 8 + t.count * sizeof t.region[0], fd, t.count,
                    err);
}

static bool start_ring(struct vhost_user *u, unsigned i, struct err *err)
{
    struct vhost_user_ring *r = &u->ring[i];
    const struct vhost_user_state size = {i, SIZE}, base = {i, 0}, enable = {i, 1};
    const struct vhost_user_addr addr = {
        .index = i,
        .desc = (uintptr_t)r->memory,
        .avail = (uintptr_t)avail_ring(r),
        .used = (uintptr_t)used_ring(r),
    };
    uint64_t index = i;

    return set(u, VHOST_USER_SET_VRING_NUM, &size, sizeof size, err) &&
           set(u, VHOST_USER_SET_VRING_BASE, &base, sizeof base, err) &&
           set(u, VHOST_USER_SET_VRING_ADDR, &addr, sizeof addr, err) &&
           set_with(u, VHOST_USER_SET_VRING_CALL, &index, sizeof index, &r->called.fd, 1, err) &&
           set_with(u, VHOST_USER_SET_VRING_KICK, &index, sizeof index, &r->kick, 1, err) &&
           (!(u->features & BIT(VHOST_USER_F_PROTOCOL_FEATURES)) ||
            set(u, VHOST_USER_SET_VRING_ENABLE, &enable, sizeof enable, err));
}

static bool open_ring(struct vhost_user *u, unsigned i, struct err *err)
{
    struct vhost_user_ring *r = &u->ring[i];

    r->owner = u;
    r->queue = i;
    r->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    r->called = (struct watch){
        .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .events = EPOLLIN, .ready = called};
    if (r->kick < 0 || r->called.fd < 0)
        return err_set(err, errno, "cannot create an eventfd: %s", strerror(errno));
    return loop_watch(u->v->loop, &r->called, err);
}

bool vhost_user_open(struct vhost_user *u, struct virtio *v, unsigned rings, uint64_t features,
                     struct err *err)
{
    struct timeval limit = {.tv_sec = ANSWER_S};

    u->v = v;
    u->memory_fd = -1;
    u->ring_count = rings;
    for (unsigned i = 0; i < rings; i++)
        u->ring[i].kick = u->ring[i].called.fd = -1;
    setsockopt(u->socket.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(u->socket.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (!negotiate(u, features, err) || !make_rings(u, err) || !give_memory(u, err))
        return false;
    for (unsigned i = 0; i < rings; i++)
        if (!open_ring(u, i, err) || !start_ring(u, i, err))
            return false;
    u->socket.events = EPOLLIN;
    u->socket.ready = socket_ready;
    return loop_watch(v->loop, &u->socket, err);
}

static void close_ring(struct vhost_user *u, struct vhost_user_ring *r)
{
    if (r->called.fd >= 0) {
        loop_forget(u->v->loop, &r->called);
        close(r->called.fd);
    }
    if (r->kick >= 0)
        close(r->kick);
    r->called.fd = r->kick = -1;
}

void vhost_user_close(struct vhost_user *u)
{
    if (u->socket.fd >= 0) {
        if (u->v && u->v->loop)
            loop_forget(u->v->loop, &u->socket);
        close(u->socket.fd);
        u->socket.fd = -1;
    }
    if (!u->v)
        return;
    for (unsigned i = 0; i < u->ring_count; i++)
        close_ring(u, &u->ring[i]);
    if (u->memory)
        munmap(u->memory, align_up((size_t)u->ring_count * RING_BYTES, PAGE_SIZE));
    if (u->memory_fd >= 0)
        close(u->memory_fd);
    u->memory = NULL;
    u->memory_fd = -1;
    u->v = NULL;
}
