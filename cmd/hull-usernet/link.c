/* SPDX-License-Identifier: MIT */
/* Frames between this process and the machine: each after its length in four bytes, big-endian. */
#include "usernet.h"
#include "base/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

enum { HEADER = 4, FRAME_MIN = 14, FRAME_MAX = 65536 + 18 };

static struct log_limit lost;

void link_flush(struct link *l)
{
    while (l->out_at < l->out_end && !l->ended) {
        ssize_t n =
            send(l->fd, l->out + l->out_at, l->out_end - l->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n >= 0)
            l->out_at += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            l->ended = true;
    }
    if (l->out_at == l->out_end)
        l->out_at = l->out_end = 0;
}

bool link_full(const struct link *l)
{
    return l->out_end - l->out_at > LINK_HIGH;
}

void link_send(struct link *l, const void *frame, size_t len)
{
    uint32_t header = htonl((uint32_t)len);

    if (len < FRAME_MIN || len > FRAME_MAX)
        return;
    if (LINK_OUT - l->out_end < HEADER + len) {
        memmove(l->out, l->out + l->out_at, l->out_end - l->out_at);
        l->out_end -= l->out_at;
        l->out_at = 0;
    }
    if (LINK_OUT - l->out_end < HEADER + len) {
        log_guest(&lost, "frames to the guest are lost: it takes them too slowly");
        return;
    }
    memcpy(l->out + l->out_end, &header, HEADER);
    memcpy(l->out + l->out_end + HEADER, frame, len);
    l->out_end += HEADER + len;
}

/* Calls `take` for each whole frame and keeps the rest for next time. */
static void take_frames(struct link *l, void (*take)(void *to, const uint8_t *frame, size_t len),
                        void *to)
{
    size_t at = 0;

    while (l->in_end - at >= HEADER && !l->ended) {
        uint32_t len;

        memcpy(&len, l->in + at, HEADER);
        len = ntohl(len);
        if (len < FRAME_MIN || len > FRAME_MAX) {
            log_error("the machine sent a frame of %u bytes: the link is closed", len);
            l->ended = true;
            return;
        }
        if (l->in_end - at - HEADER < len)
            break;
        take(to, l->in + at + HEADER, len);
        at += HEADER + len;
    }
    memmove(l->in, l->in + at, l->in_end - at);
    l->in_end -= at;
}

void link_read(struct link *l, void (*take)(void *to, const uint8_t *frame, size_t len), void *to)
{
    ssize_t n = recv(l->fd, l->in + l->in_end, LINK_IN - l->in_end, MSG_DONTWAIT);

    if (n > 0)
        l->in_end += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        l->ended = true;
    take_frames(l, take, to);
}
