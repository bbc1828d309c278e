/* SPDX-License-Identifier: MIT */
/* Writing and reading the state stream; the layout is in state.h. What is read is hostile: every
 * length is compared with what is left before it is used. */
#include "machine/state.h"
#include "base/bits.h"
#include <errno.h>
#include <stdlib.h>

#define HEADER_LEN 24
#define LENGTH_AT  16
#define END        "end"

static const char magic[8] = "hullstat";

/* ---- XXH64, seed 0: github.com/Cyan4973/xxHash, doc/xxhash_spec.md ---- */

#define PRIME1 0x9e3779b185ebca87ULL
#define PRIME2 0xc2b2ae3d27d4eb4fULL
#define PRIME3 0x165667b19e3779f9ULL
#define PRIME4 0x85ebca77c2b2ae63ULL
#define PRIME5 0x27d4eb2f165667c5ULL

static uint64_t rotate(uint64_t v, unsigned n)
{
    return v << n | v >> (64 - n);
}

static uint64_t mix(uint64_t acc, uint64_t lane)
{
    return rotate(acc + lane * PRIME2, 31) * PRIME1;
}

static uint64_t merge(uint64_t hash, uint64_t acc)
{
    return (hash ^ mix(0, acc)) * PRIME1 + PRIME4;
}

static uint64_t stripes(const uint8_t **at, size_t *left)
{
    uint64_t acc[4] = {PRIME1 + PRIME2, PRIME2, 0, -PRIME1}, hash;

    for (; *left >= 32; *at += 32, *left -= 32)
        for (unsigned i = 0; i < 4; i++)
            acc[i] = mix(acc[i], le64(*at + 8 * i));
    hash = rotate(acc[0], 1) + rotate(acc[1], 7) + rotate(acc[2], 12) + rotate(acc[3], 18);
    for (unsigned i = 0; i < 4; i++)
        hash = merge(hash, acc[i]);
    return hash;
}

uint64_t xxh64(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    size_t left = len;
    uint64_t hash = (len >= 32 ? stripes(&at, &left) : PRIME5) + len;

    for (; left >= 8; at += 8, left -= 8)
        hash = rotate(hash ^ mix(0, le64(at)), 27) * PRIME1 + PRIME4;
    for (; left >= 4; at += 4, left -= 4)
        hash = rotate(hash ^ le32(at) * PRIME1, 23) * PRIME2 + PRIME3;
    for (; left; at++, left--)
        hash = rotate(hash ^ *at * PRIME5, 11) * PRIME1;
    hash = (hash ^ hash >> 33) * PRIME2;
    hash = (hash ^ hash >> 29) * PRIME3;
    return hash ^ hash >> 32;
}

/* ---- writing ---- */

bool state_begin(struct stream *out, struct err *err)
{
    uint8_t head[HEADER_LEN] = {0};

    memcpy(head, magic, sizeof magic);
    put_le32(head + 8, STATE_FORMAT);
    return stream_put(out, head, sizeof head, err);
}

/* Opens a section; where its length goes in *at. */
static bool section_begin(struct stream *out, const char *name, uint16_t version, size_t *at,
                          struct err *err)
{
    uint8_t len = (uint8_t)strnlen(name, STATE_NAME_MAX);
    uint8_t tail[10] = {0};

    if (!len || len >= STATE_NAME_MAX)
        return err_set(err, EINVAL, "a section named \"%s\" cannot be saved", name);
    put_le16(tail, version);
    if (!stream_put(out, &len, 1, err) || !stream_put(out, name, len, err))
        return false;
    *at = out->size + 2;
    return stream_put(out, tail, sizeof tail, err);
}

static void section_end(struct stream *out, size_t at)
{
    put_le64(out->data + at, out->size - at - 8);
}

bool state_put(struct stream *out, const char *name, uint16_t version, const void *body, size_t len,
               struct err *err)
{
    size_t at;

    if (!section_begin(out, name, version, &at, err) || !stream_put(out, body, len, err))
        return false;
    section_end(out, at);
    return true;
}

bool state_save(struct stream *out, const char *name, uint16_t version, const struct field *table,
                const void *from, struct err *err)
{
    size_t at;

    if (!section_begin(out, name, version, &at, err))
        return false;
    if (!field_save(table, from, out, err))
        return err_wrap(err, "%s", name);
    section_end(out, at);
    return true;
}

bool state_end(struct stream *out, struct err *err)
{
    uint8_t sum[8];
    size_t at;

    if (!section_begin(out, END, 0, &at, err))
        return false;
    put_le64(out->data + at, sizeof sum);
    put_le64(out->data + LENGTH_AT, out->size + sizeof sum);
    put_le64(sum, xxh64(out->data, out->size));
    return stream_put(out, sum, sizeof sum, err);
}

/* ---- reading ---- */

static bool check_whole(const uint8_t *bytes, size_t len, struct err *err)
{
    uint64_t said;

    if (len < HEADER_LEN + 8 || memcmp(bytes, magic, sizeof magic))
        return err_set(err, EINVAL, "is not a saved machine's state");
    if (le32(bytes + 8) > STATE_FORMAT)
        return err_set(err, ENOTSUP, "has format %u, saved by a newer hull; this one knows %u",
                       le32(bytes + 8), STATE_FORMAT);
    said = le64(bytes + LENGTH_AT);
    if (len < said)
        return err_set(err, EINVAL, "is cut short: %zu bytes of %llu", len,
                       (unsigned long long)said);
    if (len > said || le64(bytes + len - 8) != xxh64(bytes, len - 8))
        return err_set(err, EINVAL, "is damaged or was altered: its checksum does not fit");
    if (!le32(bytes + 8) || le32(bytes + 12))
        return err_set(err, EINVAL, "has a header that no hull writes");
    return true;
}

static bool read_section(struct stream *in, struct state_section *section, struct err *err)
{
    uint8_t name_len, tail[10];

    if (!stream_get(in, &name_len, 1, err))
        return false;
    if (!name_len || name_len >= STATE_NAME_MAX)
        return err_set(err, EINVAL, "has a section name of %u bytes", name_len);
    memset(section->name, 0, sizeof section->name);
    if (!stream_get(in, section->name, name_len, err) || !stream_get(in, tail, sizeof tail, err))
        return false;
    section->version = le16(tail);
    if (le64(tail + 2) > in->size - in->at)
        return err_set(err, EINVAL, "has a section \"%s\" that is longer than all",
                       strlen(section->name) == name_len ? section->name : "?");
    section->len = le64(tail + 2);
    section->body = in->data + in->at;
    in->at += section->len;
    return true;
}

/* Room for one more. */
static bool grow(struct state *s, struct err *err)
{
    struct state_section *more;

    if (s->count & (s->count - 1)) /* not a power of two: there is room */
        return true;
    more = realloc(s->section, (s->count ? 2 * (size_t)s->count : 1) * sizeof *more);
    if (!more)
        return err_set(err, ENOMEM, "no memory for a list of sections");
    s->section = more;
    return true;
}

static struct state_section *lookup(const struct state *s, const char *name)
{
    for (unsigned i = 0; i < s->count; i++)
        if (!strcmp(s->section[i].name, name))
            return &s->section[i];
    return NULL;
}

bool state_open(struct state *s, uint8_t *bytes, size_t len, struct err *err)
{
    struct stream in = {.data = bytes, .size = len, .at = HEADER_LEN};

    *s = (struct state){0};
    if (!check_whole(bytes, len, err))
        return false;
    for (;;) {
        struct state_section *section;

        if (!grow(s, err))
            return false;
        section = &s->section[s->count];
        if (!read_section(&in, section, err))
            return false;
        if (!strcmp(section->name, END))
            return (section->len == 8 && in.at == in.size) ||
                   err_set(err, EINVAL, "goes on after its end");
        if (lookup(s, section->name))
            return err_set(err, EINVAL, "has two sections \"%s\"", section->name);
        s->count++;
    }
}

void state_close(struct state *s)
{
    free(s->section);
    *s = (struct state){0};
}

const struct state_section *state_find(const struct state *s, const char *name, uint16_t version,
                                       struct err *err)
{
    const struct state_section *section = lookup(s, name);

    if (!section) {
        err_set(err, ENOENT, "has no section \"%s\"", name);
        return NULL;
    }
    if (section->version <= version)
        return section;
    err_set(err, ENOTSUP, "has version %u of \"%s\", saved by a newer hull; this one knows %u",
            section->version, name, version);
    return NULL;
}

bool state_restore(const struct state *s, const char *name, uint16_t version,
                   const struct field *table, void *to, struct err *err)
{
    const struct state_section *section = state_find(s, name, version, err);
    struct stream in = {0};

    if (!section)
        return false;
    in.data = section->body;
    in.size = section->len;
    if (!field_restore(table, to, &in, err))
        return err_wrap(err, "%s", name);
    return in.at == in.size ||
           err_set(err, EINVAL, "%s: %zu bytes too many", name, in.size - in.at);
}
