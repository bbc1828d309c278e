/* SPDX-License-Identifier: MIT */
/* The state stream: what is written is read; short, altered, newer or impossible streams are
 * refused with their reason. */
#include "machine/state.h"
#include "base/bits.h"
#include "tap.h"
#include <errno.h>

struct thing {
    uint32_t a;
    uint8_t b;
};

static const struct field thing_fields[] = {
    FIELD(struct thing, a, UINT32_MAX),
    FIELD(struct thing, b, 9),
    {0},
};

static struct stream make(void)
{
    const struct thing thing = {.a = 0x12345678, .b = 7};
    struct stream s = {0};
    struct err err;

    ok(state_begin(&s, &err) && state_put(&s, "text", 1, "hello", 5, &err) &&
           state_save(&s, "thing", 3, thing_fields, &thing, &err) &&
           state_put(&s, "empty", 1, "", 0, &err) && state_end(&s, &err),
       "three sections are written");
    return s;
}

/* The checksum of a stream that a test has changed. */
static void seal(struct stream *s)
{
    put_le64(s->data + s->size - 8, xxh64(s->data, s->size - 8));
}

static bool opens(struct stream *s, size_t len, struct err *err)
{
    struct state state;
    bool good;

    *err = (struct err){0};
    good = state_open(&state, s->data, len, err);
    state_close(&state);
    return good;
}

static void test_read(struct stream *s)
{
    struct thing thing = {0};
    struct state state;
    struct err err = {0};
    const struct state_section *text;

    ok(state_open(&state, s->data, s->size, &err) && state.count == 3, "and read %s", err.text);
    text = state_find(&state, "text", 1, &err);
    ok(text && text->len == 5 && !memcmp(text->body, "hello", 5), "bytes");
    ok(state_restore(&state, "thing", 3, thing_fields, &thing, &err) && thing.a == 0x12345678 &&
           thing.b == 7,
       "a struct");
    ok(state_find(&state, "empty", 1, &err)->len == 0, "nothing");
    ok(!state_find(&state, "other", 1, &err) && err.code == ENOENT, "a missing section: %s",
       err.text);
    ok(!state_restore(&state, "thing", 2, thing_fields, &thing, &err) && err.code == ENOTSUP,
       "a section from a newer hull: %s", err.text);
    ok(!state_restore(&state, "text", 1, thing_fields, &thing, &err), "bytes are no struct: %s",
       err.text);
    state_close(&state);
}

static void test_damage(struct stream *s)
{
    unsigned opened = 0;
    struct err err;

    for (size_t len = 0; len < s->size; len++)
        opened += opens(s, len, &err);
    ok(opened == 0, "cut at any byte: refused (%s)", err.text);
    for (size_t i = 0; i < s->size; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            s->data[i] ^= (uint8_t)(1u << bit);
            opened += opens(s, s->size, &err);
            s->data[i] ^= (uint8_t)(1u << bit);
        }
    ok(opened == 0, "any bit flipped: refused (%s)", err.text);
    stream_put(s, "", 1, &err);
    ok(!opens(s, s->size, &err), "a byte too many: %s", err.text);
    s->size--;
    ok(opens(s, s->size, &err), "and whole again");
}

static void test_newer(struct stream *s)
{
    struct err err;

    put_le32(s->data + 8, STATE_FORMAT + 1);
    seal(s);
    ok(!opens(s, s->size, &err) && err.code == ENOTSUP && strstr(err.text, "newer"),
       "a newer format: %s", err.text);
    put_le32(s->data + 8, STATE_FORMAT);
    put_le32(s->data + 12, 1);
    seal(s);
    ok(!opens(s, s->size, &err), "an unknown flag: %s", err.text);
    put_le32(s->data + 12, 0);
    seal(s);
}

/* With a good checksum: somebody has made it by hand. */
static void test_hostile(struct stream *s)
{
    struct err err;
    uint8_t first = s->data[24];

    s->data[24] = 200;
    seal(s);
    ok(!opens(s, s->size, &err), "a long section name: %s", err.text);
    s->data[24] = 0;
    seal(s);
    ok(!opens(s, s->size, &err), "an empty one: %s", err.text);
    s->data[24] = first;
    put_le64(s->data + 24 + 1 + 4 + 2, UINT64_MAX - 3);
    seal(s);
    ok(!opens(s, s->size, &err), "a section longer than all: %s", err.text);
    put_le64(s->data + 24 + 1 + 4 + 2, 5);
    memcpy(s->data + 25, "thin", 4);
    seal(s);
    ok(opens(s, s->size, &err), "other names are fine");
}

static void test_twice(void)
{
    struct stream s = {0};
    struct err err;

    state_begin(&s, &err);
    state_put(&s, "x", 1, "", 0, &err);
    state_put(&s, "x", 1, "", 0, &err);
    state_end(&s, &err);
    ok(!opens(&s, s.size, &err), "a section twice: %s", err.text);
    stream_free(&s);
}

int main(void)
{
    struct stream s;

    ok(xxh64("", 0) == 0xef46db3751d8e999ULL && xxh64("abc", 3) == 0x44bc2cf5ad770999ULL,
       "XXH64 of its specification");
    ok(xxh64("Nobody inspects the spammish repetition", 39) == 0xfbcea83c8a378bf1ULL,
       "and of more than a stripe");
    s = make();
    test_read(&s);
    test_damage(&s);
    test_newer(&s);
    test_hostile(&s);
    stream_free(&s);
    test_twice();
    return tap_done();
}
