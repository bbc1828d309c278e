/* SPDX-License-Identifier: MIT */
/* One table describes a struct: its options, its --help, how it is saved, restored and dumped.
 *
 * The compiler picks the kind from the member's type, so table and struct cannot disagree. */
#ifndef HULL_FIELD_H
#define HULL_FIELD_H

#include "base/err.h"
#include <stdio.h>

enum field_kind {
    FIELD_BOOL,
    FIELD_U8,
    FIELD_U16,
    FIELD_U32,
    FIELD_U64,
    FIELD_SIZE_KIND,  /* u64 with K, M, G, T suffixes in options; saved as u64 */
    FIELD_TEXT_KIND,  /* char[count], NUL-terminated */
    FIELD_BYTES_KIND, /* uint8_t[count], saved whole; not an option */
    FIELD_TABLE_KIND, /* nested struct, `count` of them, each `stride` bytes, described by `table`
                       */
    FIELD_ENUM_KIND,  /* 1, 2 or 4 bytes (`stride`); `names` lists the words, index = value */
};

struct field {
    const char *name; /* also the option key, with '_' written as '-' accepted */
    enum field_kind kind;
    uint32_t offset, count;
    uint64_t max; /* options and restore refuse more */
    uint32_t stride;
    const struct field *table;
    const char *const *names; /* NULL-terminated */
    const char *help;         /* one line; options only */
};

/* clang-format off */
#define FIELD_KIND(x) _Generic((x), bool: FIELD_BOOL, uint8_t: FIELD_U8, \
    uint16_t: FIELD_U16, uint32_t: FIELD_U32, uint64_t: FIELD_U64)
#define FIELD(type, member, limit) \
    { .name = #member, .kind = FIELD_KIND(((type *)0)->member), .offset = offsetof(type, member), .count = 1, .max = (limit) }
#define FIELD_ARRAY(type, member, limit) \
    { .name = #member, .kind = FIELD_KIND(((type *)0)->member[0]), .offset = offsetof(type, member), \
      .count = ARRAY_SIZE(((type *)0)->member), .max = (limit) }
#define FIELD_SIZE(type, member, limit) \
    { .name = #member, .kind = FIELD_SIZE_KIND, .offset = offsetof(type, member), .count = 1, .max = (limit) }
#define FIELD_TEXT(type, member) \
    { .name = #member, .kind = FIELD_TEXT_KIND, .offset = offsetof(type, member), .count = sizeof(((type *)0)->member) }
#define FIELD_BYTES(type, member) \
    { .name = #member, .kind = FIELD_BYTES_KIND, .offset = offsetof(type, member), .count = sizeof(((type *)0)->member) }
#define FIELD_ENUM(type, member, words) \
    { .name = #member, .kind = FIELD_ENUM_KIND, .offset = offsetof(type, member), .count = 1, .names = (words), \
      .stride = sizeof(((type *)0)->member), .max = ARRAY_SIZE(words) - 2 }
#define FIELD_TABLE(type, member, fields) \
    { .name = #member, .kind = FIELD_TABLE_KIND, .offset = offsetof(type, member), .count = 1, \
      .stride = sizeof(((type *)0)->member), .table = (fields) }
#define FIELD_TABLES(type, member, fields) \
    { .name = #member, .kind = FIELD_TABLE_KIND, .offset = offsetof(type, member), \
      .count = ARRAY_SIZE(((type *)0)->member), .stride = sizeof(((type *)0)->member[0]), .table = (fields) }
/* clang-format on */

/* A growing byte buffer when writing (start it zeroed), a bounded one when reading (data and size
 * set, `at` counts what has been read). The caller owns `data`; stream_free frees what put grew. */
struct stream {
    uint8_t *data;
    size_t size, at, capacity;
};
bool stream_put(struct stream *s, const void *bytes, size_t len, struct err *err);
bool stream_get(struct stream *s, void *bytes, size_t len, struct err *err); /* all or an error */
void stream_free(struct stream *s);

/* "key=value,key=value"; an unknown key, a repeat or a value over its limit is an error that names
 * the key and, for an unknown one, the nearest known. A comma inside a value is written ",,", and
 * "key" alone means "key=on" for a bool. Arrays, bytes and nested tables are not options. */
bool field_parse(const struct field *table, void *to, const char *text, struct err *err);
/* One "key", "value" pair; field_parse is a loop over this. */
bool field_set(const struct field *table, void *to, const char *key, const char *value,
               struct err *err);
/* One "key=value  help" line per option. */
void field_help(const struct field *table, FILE *out, unsigned indent);

/* Saved form, little-endian: u16 number of fields, then for each u8 kind, u32 count and `count`
 * values. A stream with fewer fields than the table comes from an older version: the rest keep what
 * they have (so reset first). Anything else that does not fit is an error, and so is a value over
 * its limit; then `to` is half filled and must not be used. */
bool field_save(const struct field *table, const void *from, struct stream *out, struct err *err);
bool field_restore(const struct field *table, void *to, struct stream *in, struct err *err);
/* "name: value" lines for people, indented by `indent`. */
void field_dump(const struct field *table, const void *from, FILE *out, unsigned indent);

/* "512", "64K", "2G", "1.5G": bytes. Errors name the text. */
bool size_parse(const char *text, uint64_t *bytes, struct err *err);
/* The word of a NULL-terminated list that is most like `word`, or NULL if none is close. */
const char *nearest_word(const char *word, const char *const *list);

#endif
