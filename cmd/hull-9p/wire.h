/* SPDX-License-Identifier: MIT */
/* 9P2000.L on the wire: message types, and readers and writers that cannot leave their buffer.
 *
 * Numbers are little-endian, a string is its length in two bytes and its bytes. A message is
 * size[4] type[1] tag[2] and its fields; size counts itself. */
#ifndef HULL_9P_WIRE_H
#define HULL_9P_WIRE_H

#include "base/bits.h"

enum { /* requests; the reply's type is one more */
       P9_LERROR = 6,
       P9_STATFS = 8,
       P9_LOPEN = 12,
       P9_LCREATE = 14,
       P9_SYMLINK = 16,
       P9_MKNOD = 18,
       P9_RENAME = 20,
       P9_READLINK = 22,
       P9_GETATTR = 24,
       P9_SETATTR = 26,
       P9_XATTRWALK = 30,
       P9_XATTRCREATE = 32,
       P9_READDIR = 40,
       P9_FSYNC = 50,
       P9_LOCK = 52,
       P9_GETLOCK = 54,
       P9_LINK = 70,
       P9_MKDIR = 72,
       P9_RENAMEAT = 74,
       P9_UNLINKAT = 76,
       P9_VERSION = 100,
       P9_AUTH = 102,
       P9_ATTACH = 104,
       P9_FLUSH = 108,
       P9_WALK = 110,
       P9_READ = 116,
       P9_WRITE = 118,
       P9_CLUNK = 120,
       P9_REMOVE = 122,
       P9_TYPES = 128,
};

enum {
    P9_HEADER = 7,
    P9_ERROR_LEN = P9_HEADER + 4,
    P9_WRITE_HEADER = P9_HEADER + 16,
    P9_QID = 13,
    P9_WALK_MAX = 16,
};

enum { P9_QID_DIR = 0x80, P9_QID_LINK = 0x02 };

/* A reader: after a field that is not wholly there `bad` is set, and all further ones are 0. */
struct in {
    const uint8_t *at, *end;
    bool bad;
};

static inline const uint8_t *in_bytes(struct in *i, size_t len)
{
    const uint8_t *p = i->at;

    if (len > (size_t)(i->end - i->at)) {
        i->bad = true;
        i->at = i->end;
        return NULL;
    }
    i->at += len;
    return p;
}

static inline uint8_t in_u8(struct in *i)
{
    const uint8_t *p = in_bytes(i, 1);

    return p ? *p : 0;
}

static inline uint16_t in_u16(struct in *i)
{
    const uint8_t *p = in_bytes(i, 2);

    return p ? le16(p) : 0;
}

static inline uint32_t in_u32(struct in *i)
{
    const uint8_t *p = in_bytes(i, 4);

    return p ? le32(p) : 0;
}

static inline uint64_t in_u64(struct in *i)
{
    const uint8_t *p = in_bytes(i, 8);

    return p ? le64(p) : 0;
}

/* A string as a C string of less than `size` bytes; one that is longer or holds a NUL is bad. */
static inline void in_text(struct in *i, char *to, size_t size)
{
    size_t len = in_u16(i);
    const uint8_t *p = in_bytes(i, len);

    to[0] = 0;
    if (!p || len >= size || memchr(p, 0, len)) {
        i->bad = true;
        return;
    }
    memcpy(to, p, len);
    to[len] = 0;
}

/* A writer: what does not fit sets `full`. */
struct out {
    uint8_t *buf;
    size_t len, room;
    bool full;
};

static inline void out_bytes(struct out *o, const void *from, size_t len)
{
    if (len > o->room - o->len) {
        o->full = true;
        return;
    }
    memcpy(o->buf + o->len, from, len);
    o->len += len;
}

static inline void out_u8(struct out *o, uint8_t v)
{
    out_bytes(o, &v, 1);
}

static inline void out_u16(struct out *o, uint16_t v)
{
    out_bytes(o, &v, 2);
}

static inline void out_u32(struct out *o, uint32_t v)
{
    out_bytes(o, &v, 4);
}

static inline void out_u64(struct out *o, uint64_t v)
{
    out_bytes(o, &v, 8);
}

static inline void out_text(struct out *o, const char *text, size_t len)
{
    out_u16(o, (uint16_t)len);
    out_bytes(o, text, len);
}

#endif
