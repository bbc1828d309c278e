/* SPDX-License-Identifier: MIT */
/* The option parser and restore, over a table with every kind of field. */
#include "field/field.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct part {
    uint16_t x;
    bool set;
};

struct all {
    bool flag;
    uint8_t a;
    uint16_t b;
    uint32_t c;
    uint64_t d, size;
    char name[12];
    uint8_t bytes[6], list[4], color;
    struct part one, many[3];
};

static const char *const colors[] = {"red", "green", "blue", NULL};
static const struct field part_fields[] = {
    FIELD(struct part, x, 1000), FIELD(struct part, set, 1), {0}};
static const struct field fields[] = {
    FIELD(struct all, flag, 1),
    FIELD(struct all, a, 15),
    FIELD(struct all, b, 60000),
    FIELD(struct all, c, 64),
    FIELD(struct all, d, UINT64_MAX),
    FIELD_SIZE(struct all, size, 1 * GiB),
    FIELD_TEXT(struct all, name),
    FIELD_BYTES(struct all, bytes),
    FIELD_ARRAY(struct all, list, 9),
    FIELD_ENUM(struct all, color, colors),
    FIELD_TABLE(struct all, one, part_fields),
    FIELD_TABLES(struct all, many, part_fields),
    {0},
};

/* What restore or the parser took must save. */
static void must_save(const struct all *t)
{
    struct stream out = {0};
    struct err e;

    if (!field_save(fields, t, &out, &e))
        abort();
    stream_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream in = {.data = (uint8_t *)data, .size = size};
    struct all t = {0};
    struct err e = {0};
    char *text = malloc(size + 1);

    if (field_restore(fields, &t, &in, &e))
        must_save(&t);
    else if (e.code == 0)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    t = (struct all){0};
    e = (struct err){0};
    if (field_parse(fields, &t, text, &e))
        must_save(&t);
    else if (e.code == 0 || strchr(e.text, '\0') == e.text)
        abort();
    free(text);
    return 0;
}
