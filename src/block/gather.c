/* SPDX-License-Identifier: MIT */
/* A range of an image as pieces of files: planned in the loop's thread, read in any. */
#include "block/gather.h"
#include "block/bulk.h"
#include "block/format.h"
#include "block/image.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int read_all(int fd, void *data, uint64_t length, uint64_t offset)
{
    uint64_t done = 0;

    while (done < length) {
        ssize_t n = pread(fd, (char *)data + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) {
            memset((char *)data + done, 0, length - done);
            return 0;
        }
        done += (uint64_t)n;
    }
    return 0;
}

int write_all(int fd, const void *data, uint64_t length, uint64_t offset)
{
    uint64_t done = 0;

    while (done < length) {
        ssize_t n = pwrite(fd, (const char *)data + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return 0;
}

int write_iov(int fd, struct iovec *iov, int count, uint64_t offset)
{
    while (count) {
        ssize_t n = pwritev(fd, iov, count, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        offset += (uint64_t)n;
        for (; count && (size_t)n >= iov->iov_len; iov++, count--)
            n -= (ssize_t)iov->iov_len;
        if (count)
            *iov = (struct iovec){(char *)iov->iov_base + n, iov->iov_len - (size_t)n};
    }
    return 0;
}

bool is_zero(const void *data, uint64_t length)
{
    const char *p = data;

    if (length < 16)
        return length == 0 || (p[0] == 0 && memcmp(p, p + 1, length - 1) == 0);
    /* Sixteen zeroes, then everything is what lies sixteen bytes before it. */
    return le64(p) == 0 && le64(p + 8) == 0 && le64(p + length / 2) == 0 &&
           memcmp(p, p + 16, length - 16) == 0;
}

int gather_fd(const struct block *node)
{
    const struct block *low = node->data ? node->data : node->under ? node->under : node;

    return low->file ? low->file->fd : -1;
}

static struct gather_piece *new_piece(struct gather *g)
{
    if (g->count == g->room) {
        unsigned room = g->room ? g->room * 2 : 16;
        struct gather_piece *more = realloc(g->piece, room * sizeof *more);

        if (!more)
            return NULL;
        g->piece = more;
        g->room = room;
    }
    return &g->piece[g->count++];
}

static enum gather_kind kind_of(const struct block_extent *e, bool top_only)
{
    if (top_only && (!e->present || e->depth > 0))
        return GATHER_ABSENT;
    if (e->zero)
        return GATHER_ZERO;
    if (gather_fd(e->node) < 0)
        return GATHER_LOOP;
    return e->compressed ? GATHER_PACKED : GATHER_FILE;
}

static bool joins(const struct gather_piece *last, const struct gather_piece *p)
{
    return last->kind == p->kind && p->kind != GATHER_PACKED && last->node == p->node &&
           (p->kind != GATHER_FILE || last->host + last->length == p->host);
}

bool gather_plan(struct gather *g, struct block *b, uint64_t offset, uint64_t length, bool top_only,
                 struct err *err)
{
    uint64_t end = offset + length;

    g->offset = offset;
    g->length = length;
    g->count = 0;
    g->data = false;
    while (offset < end) {
        struct gather_piece p = {.offset = offset}, *to;
        struct block_extent e;

        if (!block_map(b, offset, end - offset, &e, err))
            return false;
        p.length = e.length;
        p.host = e.host_offset;
        p.node = (struct block *)e.node;
        p.kind = kind_of(&e, top_only);
        p.fd = e.node ? gather_fd(e.node) : -1;
        g->data |= p.kind > GATHER_ABSENT;
        offset += e.length;
        if (g->count && joins(&g->piece[g->count - 1], &p)) {
            g->piece[g->count - 1].length += p.length;
            continue;
        }
        to = new_piece(g);
        if (!to)
            return err_set(err, ENOMEM, "out of memory");
        *to = p;
    }
    return true;
}

int gather_fetch(const struct gather *g, struct block *b, uint8_t *data)
{
    int failed = 0;

    for (unsigned i = 0; i < g->count && !failed; i++) {
        const struct gather_piece *p = &g->piece[i];

        if (p->kind == GATHER_LOOP)
            failed =
                block_run(b, BLOCK_READ, 0, p->offset, data + (p->offset - g->offset), p->length);
    }
    return failed;
}

/* Part of a compressed cluster; whole ones are unpacked where they go. */
static int read_packed(const struct gather_piece *p, uint8_t *to)
{
    uint64_t cluster = p->node->cluster_size, in = p->offset & (cluster - 1);
    uint8_t *whole;
    int failed;

    if (p->length == cluster)
        return block_read_packed(p->node, p->fd, p->host, to);
    whole = malloc(cluster);
    if (!whole)
        return -ENOMEM;
    failed = block_read_packed(p->node, p->fd, p->host, whole);
    if (!failed)
        memcpy(to, whole + in, p->length);
    free(whole);
    return failed;
}

int gather_read(const struct gather *g, uint8_t *data)
{
    int failed = 0;

    for (unsigned i = 0; i < g->count && !failed; i++) {
        const struct gather_piece *p = &g->piece[i];
        uint8_t *to = data + (p->offset - g->offset);

        switch (p->kind) {
        case GATHER_ZERO:
        case GATHER_ABSENT: memset(to, 0, p->length); break;
        case GATHER_FILE: failed = read_all(p->fd, to, p->length, p->host); break;
        case GATHER_PACKED: failed = read_packed(p, to); break;
        case GATHER_LOOP: break;
        }
    }
    return failed;
}

void gather_free(struct gather *g)
{
    free(g->piece);
    *g = (struct gather){0};
}
