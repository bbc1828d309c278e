/* SPDX-License-Identifier: MIT */
/* NBD's newstyle handshake: the client names an export, and what it wants of replies and metadata.
 * Every length that it says is limited before anything is read. */
#include "nbd.h"
#include "protocol.h"
#include <stdio.h>
#include <unistd.h>

struct option {
    uint32_t code, length;
    uint8_t data[NBD_OPTION_MAX];
};

static bool reply(struct connection *c, uint32_t option, uint32_t type, const void *data,
                  uint32_t length)
{
    uint8_t head[20];

    put_be64(head, NBD_REPLY_MAGIC);
    put_be32(head + 8, option);
    put_be32(head + 12, type);
    put_be32(head + 16, length);
    return talk_write(c->fd, head, sizeof head) && (!length || talk_write(c->fd, data, length));
}

static uint16_t transmission_flags(const struct export *e)
{
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_MULTI_CONN |
                     NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_ZEROES;

    return e->writable ? flags : flags | NBD_FLAG_READ_ONLY;
}

/* A client that names none means the only one. */
static int find_export(struct server *s, const uint8_t *name, uint32_t length)
{
    int only = -1, count = 0;

    for (int i = 0; i < NBD_EXPORTS; i++) {
        const struct export *e = &s->export[i];

        if (!e->used)
            continue;
        only = i;
        count++;
        if (strlen(e->name) == length && !memcmp(e->name, name, length))
            return i;
    }
    return !length && count == 1 ? only : -1;
}

static struct export look(struct server *s, int at)
{
    struct export e;

    pthread_mutex_lock(&s->lock);
    e = s->export[at];
    pthread_mutex_unlock(&s->lock);
    return e;
}

static int find(struct server *s, const uint8_t *name, uint32_t length)
{
    int found;

    pthread_mutex_lock(&s->lock);
    found = find_export(s, name, length);
    pthread_mutex_unlock(&s->lock);
    return found;
}

static bool list(struct server *s, struct connection *c)
{
    for (int i = 0; i < NBD_EXPORTS; i++) {
        struct export e = look(s, i);
        uint8_t data[4 + NBD_NAME];
        uint32_t length = (uint32_t)strlen(e.name);

        if (!e.used)
            continue;
        put_be32(data, length);
        memcpy(data + 4, e.name, length);
        if (!reply(c, NBD_OPT_LIST, NBD_REP_SERVER, data, 4 + length))
            return false;
    }
    return reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

/* INFO and GO: name, then what the client wants to know; it is told all. 1: chosen, -1: gone. */
static int info(struct server *s, struct connection *c, const struct option *o)
{
    uint32_t length = o->length >= 6 ? be32(o->data) : 0;
    uint8_t data[14];
    struct export e;
    int found;

    if (o->length < 6 || length > o->length - 6)
        return reply(c, o->code, NBD_REP_ERR_INVALID, NULL, 0) ? 0 : -1;
    found = find(s, o->data + 4, length);
    if (found < 0)
        return reply(c, o->code, NBD_REP_ERR_UNKNOWN, NULL, 0) ? 0 : -1;
    e = look(s, found);
    put_be16(data, NBD_INFO_EXPORT);
    put_be64(data + 2, e.size);
    put_be16(data + 10, transmission_flags(&e));
    if (!reply(c, o->code, NBD_REP_INFO, data, 12))
        return -1;
    put_be16(data, NBD_INFO_BLOCK_SIZE);
    put_be32(data + 2, 512);
    put_be32(data + 6, 4096);
    put_be32(data + 10, NBD_REQUEST_MAX);
    if (!reply(c, o->code, NBD_REP_INFO, data, 14) || !reply(c, o->code, NBD_REP_ACK, NULL, 0))
        return -1;
    if (o->code != NBD_OPT_GO)
        return 0;
    if (c->export != found) /* metadata was agreed on for another export */
        c->allocation = c->dirty = false;
    c->export = found;
    return 1;
}

static bool name_context(struct connection *c, uint32_t option, uint32_t id, const char *name)
{
    uint8_t data[4 + NBD_NAME + 32];
    uint32_t length = (uint32_t)strlen(name);

    put_be32(data, option == NBD_OPT_SET_META_CONTEXT ? id : 0);
    memcpy(data + 4, name, length);
    return reply(c, option, NBD_REP_META_CONTEXT, data, 4 + length);
}

static bool asks_for(const uint8_t *query, uint32_t length, const char *name, bool listing)
{
    size_t n = strlen(name);

    if (listing && length && query[length - 1] == ':') /* all of a namespace */
        return length <= n && !memcmp(query, name, length);
    return length == n && !memcmp(query, name, n);
}

static bool contexts(struct server *s, struct connection *c, const struct option *o)
{
    bool set = o->code == NBD_OPT_SET_META_CONTEXT, allocation = false, dirty = false;
    uint32_t name = o->length >= 8 ? be32(o->data) : 0, queries, at;
    char bitmap[NBD_NAME + 20];
    struct export e;
    int found;

    if (o->length < 8 || name > o->length - 8 || (set && !c->structured))
        return reply(c, o->code, NBD_REP_ERR_INVALID, NULL, 0);
    found = find(s, o->data + 4, name);
    if (found < 0)
        return reply(c, o->code, NBD_REP_ERR_UNKNOWN, NULL, 0);
    e = look(s, found);
    snprintf(bitmap, sizeof bitmap, "qemu:dirty-bitmap:%s", e.bitmap);
    queries = be32(o->data + 4 + name);
    at = 8 + name;
    allocation = dirty = !set && !queries;
    for (uint32_t i = 0; i < queries; i++) {
        uint32_t left = o->length - at, length = left >= 4 ? be32(o->data + at) : 0;

        if (left < 4 || length > left - 4)
            return reply(c, o->code, NBD_REP_ERR_INVALID, NULL, 0);
        allocation |= asks_for(o->data + at + 4, length, "base:allocation", !set);
        dirty |= asks_for(o->data + at + 4, length, bitmap, !set) ||
                 (!set && asks_for(o->data + at + 4, length, "qemu:", false));
        at += 4 + length;
    }
    dirty &= e.bitmap[0] != 0;
    if (set) {
        c->allocation = allocation;
        c->dirty = dirty;
        c->export = found;
    }
    return (!allocation || name_context(c, o->code, NBD_ID_ALLOCATION, "base:allocation")) &&
           (!dirty || name_context(c, o->code, NBD_ID_BITMAP, bitmap)) &&
           reply(c, o->code, NBD_REP_ACK, NULL, 0);
}

/* The old way to choose: no reply but the export's facts. */
static bool export_name(struct server *s, struct connection *c, const struct option *o,
                        bool no_zeroes)
{
    uint8_t data[10 + 124] = {0};
    int found = find(s, o->data, o->length);
    struct export e;

    if (found < 0)
        return false;
    e = look(s, found);
    if (c->export != found)
        c->allocation = c->dirty = false;
    c->export = found;
    put_be64(data, e.size);
    put_be16(data + 8, transmission_flags(&e));
    return talk_write(c->fd, data, no_zeroes ? 10 : sizeof data);
}

static bool read_option(struct connection *c, struct option *o)
{
    uint8_t head[16];

    if (!talk_read(c->fd, head, sizeof head) || be64(head) != NBD_OPTION_MAGIC)
        return false;
    o->code = be32(head + 8);
    o->length = be32(head + 12);
    return o->length <= sizeof o->data && talk_read(c->fd, o->data, o->length);
}

/* 1: transmission, 0: go on, -1: the end. */
static int obey(struct server *s, struct connection *c, const struct option *o, bool no_zeroes)
{
    switch (o->code) {
    case NBD_OPT_EXPORT_NAME: return export_name(s, c, o, no_zeroes) ? 1 : -1;
    case NBD_OPT_ABORT: reply(c, o->code, NBD_REP_ACK, NULL, 0); return -1;
    case NBD_OPT_LIST: return list(s, c) ? 0 : -1;
    case NBD_OPT_INFO:
    case NBD_OPT_GO: return info(s, c, o);
    case NBD_OPT_STRUCTURED_REPLY:
        c->structured = true;
        return reply(c, o->code, NBD_REP_ACK, NULL, 0) ? 0 : -1;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT: return contexts(s, c, o) ? 0 : -1;
    default: return reply(c, o->code, NBD_REP_ERR_UNSUP, NULL, 0) ? 0 : -1;
    }
}

bool negotiate(struct server *s, struct connection *c)
{
    struct option o; /* no malloc: its arenas ask the kernel what the fence refuses */
    uint8_t head[18], flags[4];
    int step = -1;

    put_be64(head, NBD_MAGIC);
    put_be64(head + 8, NBD_OPTION_MAGIC);
    put_be16(head + 16, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    if (talk_write(c->fd, head, sizeof head) && talk_read(c->fd, flags, sizeof flags) &&
        !(be32(flags) & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)))
        do
            step = read_option(c, &o) ? obey(s, c, &o, be32(flags) & NBD_NO_ZEROES) : -1;
        while (step == 0);
    return step == 1;
}
