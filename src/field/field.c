/* SPDX-License-Identifier: MIT */
/* Saving, restoring and dumping structs by their tables. Restore reads hostile bytes: every kind,
 * count and value is compared with the table before it is stored. */
#include "field/field.h"
#include "field/value.h"
#include <errno.h>

size_t field_width(const struct field *f)
{
    switch (f->kind) {
    case FIELD_BOOL: return sizeof(bool);
    case FIELD_U8:
    case FIELD_TEXT_KIND:
    case FIELD_BYTES_KIND: return 1;
    case FIELD_U16: return 2;
    case FIELD_U32: return 4;
    case FIELD_U64:
    case FIELD_SIZE_KIND: return 8;
    case FIELD_TABLE_KIND:
    case FIELD_ENUM_KIND: return f->stride;
    }
    return 0;
}

uint64_t field_load(const struct field *f, const void *at)
{
    uint64_t v = 0;

    memcpy(&v, at, field_width(f));
    return v;
}

void field_store(const struct field *f, void *at, uint64_t value)
{
    memcpy(at, &value, field_width(f));
}

uint64_t field_limit(const struct field *f)
{
    return f->kind == FIELD_BOOL ? 1 : f->max;
}

unsigned field_count(const struct field *table)
{
    unsigned n = 0;

    while (table[n].name != NULL)
        n++;
    return n;
}

static bool over_limit(const struct field *f, uint64_t value, struct err *err)
{
    return err_set(err, ERANGE, "%s is %llu, over its limit %llu", f->name,
                   (unsigned long long)value, (unsigned long long)field_limit(f));
}

static bool save_values(const struct field *f, const char *from, struct stream *out,
                        struct err *err)
{
    size_t width = field_width(f);

    for (uint32_t i = 0; i < f->count; i++) {
        uint64_t v = field_load(f, from + i * width);

        if (v > field_limit(f))
            return over_limit(f, v, err);
        if (!stream_put(out, &v, width, err))
            return false;
    }
    return true;
}

static bool save_field(const struct field *f, const char *from, struct stream *out, struct err *err)
{
    uint8_t kind = (uint8_t)f->kind;
    uint32_t count = f->kind == FIELD_TEXT_KIND ? (uint32_t)strnlen(from, f->count - 1) : f->count;

    if (!stream_put(out, &kind, sizeof kind, err) || !stream_put(out, &count, sizeof count, err))
        return false;
    if (f->kind == FIELD_TEXT_KIND || f->kind == FIELD_BYTES_KIND)
        return stream_put(out, from, count, err);
    if (f->kind != FIELD_TABLE_KIND)
        return save_values(f, from, out, err);
    for (uint32_t i = 0; i < count; i++) {
        if (!field_save(f->table, from + (size_t)i * f->stride, out, err))
            return err_wrap(err, "%s", f->name);
    }
    return true;
}

bool field_save(const struct field *table, const void *from, struct stream *out, struct err *err)
{
    uint16_t fields = (uint16_t)field_count(table);

    if (!stream_put(out, &fields, sizeof fields, err))
        return false;
    for (const struct field *f = table; f->name != NULL; f++) {
        if (!save_field(f, (const char *)from + f->offset, out, err))
            return false;
    }
    return true;
}

static bool restore_values(const struct field *f, char *to, struct stream *in, struct err *err)
{
    size_t width = field_width(f);

    for (uint32_t i = 0; i < f->count; i++) {
        uint64_t v = 0;

        if (!stream_get(in, &v, width, err))
            return false;
        if (v > field_limit(f))
            return over_limit(f, v, err);
        field_store(f, to + i * width, v);
    }
    return true;
}

static bool restore_text(const struct field *f, char *to, uint32_t len, struct stream *in,
                         struct err *err)
{
    if (len >= f->count)
        return err_set(err, ERANGE, "%s has %u characters, %u fit", f->name, len, f->count - 1);
    memset(to, 0, f->count);
    if (!stream_get(in, to, len, err))
        return false;
    if (strlen(to) != len)
        return err_set(err, EINVAL, "%s has a zero byte inside", f->name);
    return true;
}

static bool restore_field(const struct field *f, char *to, struct stream *in, struct err *err)
{
    uint8_t kind;
    uint32_t count;

    if (!stream_get(in, &kind, sizeof kind, err) || !stream_get(in, &count, sizeof count, err))
        return err_wrap(err, "%s", f->name);
    if (kind != f->kind)
        return err_set(err, EINVAL, "%s has type %u where %u is expected", f->name, kind, f->kind);
    if (kind == FIELD_TEXT_KIND)
        return restore_text(f, to, count, in, err);
    if (count != f->count)
        return err_set(err, EINVAL, "%s has %u values where %u are expected", f->name, count,
                       f->count);
    if (kind == FIELD_BYTES_KIND)
        return stream_get(in, to, count, err);
    if (kind != FIELD_TABLE_KIND)
        return restore_values(f, to, in, err);
    for (uint32_t i = 0; i < count; i++) {
        if (!field_restore(f->table, to + (size_t)i * f->stride, in, err))
            return err_wrap(err, "%s", f->name);
    }
    return true;
}

bool field_restore(const struct field *table, void *to, struct stream *in, struct err *err)
{
    uint16_t fields;
    unsigned known = field_count(table);

    if (!stream_get(in, &fields, sizeof fields, err))
        return false;
    if (fields > known)
        return err_set(err, EINVAL, "%u fields where %u are known: saved by a newer hull?", fields,
                       known);
    for (unsigned i = 0; i < fields; i++) {
        if (!restore_field(&table[i], (char *)to + table[i].offset, in, err))
            return false;
    }
    return true;
}

static void dump_value(const struct field *f, const char *at, FILE *out)
{
    uint64_t v = field_load(f, at);

    if (f->kind == FIELD_BOOL)
        fputs(v ? "on" : "off", out);
    else if (f->kind == FIELD_ENUM_KIND && v <= f->max)
        fputs(f->names[v], out);
    else
        fprintf(out, v > 9 ? "0x%llx" : "%llu", (unsigned long long)v);
}

static void dump_bytes(const uint8_t *at, uint32_t count, FILE *out)
{
    for (uint32_t i = 0; i < count; i++)
        fprintf(out, "%02x", at[i]);
}

static void dump_tables(const struct field *f, const char *from, FILE *out, unsigned indent)
{
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->count == 1)
            fprintf(out, "%*s%s:\n", (int)indent, "", f->name);
        else
            fprintf(out, "%*s%s[%u]:\n", (int)indent, "", f->name, i);
        field_dump(f->table, from + (size_t)i * f->stride, out, indent + 2);
    }
}

void field_dump(const struct field *table, const void *from, FILE *out, unsigned indent)
{
    for (const struct field *f = table; f->name != NULL; f++) {
        const char *at = (const char *)from + f->offset;

        if (f->kind == FIELD_TABLE_KIND) {
            dump_tables(f, at, out, indent);
            continue;
        }
        fprintf(out, "%*s%s: ", (int)indent, "", f->name);
        if (f->kind == FIELD_TEXT_KIND)
            fprintf(out, "%.*s", (int)f->count, at);
        else if (f->kind == FIELD_BYTES_KIND)
            dump_bytes((const uint8_t *)at, f->count, out);
        for (uint32_t i = 0;
             f->kind != FIELD_TEXT_KIND && f->kind != FIELD_BYTES_KIND && i < f->count; i++) {
            fputs(i ? " " : "", out);
            dump_value(f, at + i * field_width(f), out);
        }
        putc('\n', out);
    }
}
