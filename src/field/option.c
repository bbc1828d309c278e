/* SPDX-License-Identifier: MIT */
/* Options from text. Whatever cannot be taken is an error that names the key, the value and, where
 * there is one, the word that was probably meant. */
#include "field/field.h"
#include "field/value.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#define KEYS_MAX 256
#define WORD_MAX 48

static bool is_option(const struct field *f)
{
    return f->kind == FIELD_TEXT_KIND ||
           (f->kind != FIELD_BYTES_KIND && f->kind != FIELD_TABLE_KIND && f->count == 1);
}

/* '-' and '_' are the same, and so are upper and lower case where words are only compared for
 * likeness. */
static int plain(char c)
{
    return c == '_' ? '-' : tolower((unsigned char)c);
}

static bool same_key(const char *a, const char *b)
{
    while (*a && (*a == '_' ? '-' : *a) == (*b == '_' ? '-' : *b)) {
        a++;
        b++;
    }
    return *a == *b;
}

/* How many letters to insert, drop, change or swap with their neighbour to make `b` of `a`. */
static unsigned word_distance(const char *a, size_t na, const char *b, size_t nb)
{
    unsigned d[WORD_MAX + 1][WORD_MAX + 1];

    for (size_t i = 0; i <= na; i++) {
        for (size_t j = 0; j <= nb; j++) {
            unsigned best;

            if (i == 0 || j == 0) {
                d[i][j] = (unsigned)(i + j);
                continue;
            }
            best = d[i - 1][j - 1] + (plain(a[i - 1]) != plain(b[j - 1]));
            best = (unsigned)min_u64(best, min_u64(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && plain(a[i - 1]) == plain(b[j - 2]) &&
                plain(a[i - 2]) == plain(b[j - 1]))
                best = (unsigned)min_u64(best, d[i - 2][j - 2] + 1);
            d[i][j] = best;
        }
    }
    return d[na][nb];
}

static bool starts_with(const char *word, const char *start, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (plain(word[i]) != plain(start[i]))
            return false;
    }
    return true;
}

const char *nearest_word(const char *word, const char *const *list)
{
    size_t len = strlen(word);
    unsigned best = (unsigned)(len / 3) + 1;
    const char *found = NULL;

    if (len == 0 || len > WORD_MAX)
        return NULL;
    for (; *list != NULL; list++) {
        size_t n = strlen(*list);
        unsigned d;

        if (n == 0 || n > WORD_MAX)
            continue;
        d = word_distance(word, len, *list, n);
        if (len >= 3 && n > len && starts_with(*list, word, len))
            d = 1; /* an abbreviation */
        if (d <= best && d < max_u64(len, n) && (found == NULL || d < best)) {
            best = d;
            found = *list;
        }
    }
    return found;
}

static bool unknown_key(const struct field *table, const char *key, struct err *err)
{
    const char *keys[KEYS_MAX + 1], *near;
    unsigned n = 0;
    char *name;

    for (const struct field *f = table; f->name != NULL && n < KEYS_MAX; f++) {
        if (is_option(f))
            keys[n++] = f->name;
    }
    keys[n] = NULL;
    near = nearest_word(key, keys);
    if (near == NULL)
        return err_set(err, EINVAL, "unknown key '%.64s'", key);
    err_set(err, EINVAL, "unknown key '%.64s': did you mean '%s'?", key, near);
    name = strstr(err->text, "mean '"); /* keys are shown with '-' */
    for (; name && *name; name++)
        *name = *name == '_' ? '-' : *name;
    return false;
}

static bool set_bool(const char *value, bool *on)
{
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true", "0", "1"};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        if (strcmp(value, words[i]) == 0) {
            *on = i & 1;
            return true;
        }
    }
    return false;
}

static bool set_enum(const struct field *f, void *at, const char *key, const char *value,
                     struct err *err)
{
    char words[128] = "";
    const char *near;

    for (unsigned i = 0; f->names[i] != NULL; i++) {
        if (strcmp(value, f->names[i]) == 0) {
            field_store(f, at, i);
            return true;
        }
    }
    near = nearest_word(value, f->names);
    if (near != NULL)
        return err_set(err, EINVAL, "%s='%.64s': did you mean '%s'?", key, value, near);
    for (unsigned i = 0; f->names[i] != NULL; i++) {
        size_t used = strlen(words);

        snprintf(words + used, sizeof words - used, "%s%s", i ? ", " : "", f->names[i]);
    }
    return err_set(err, EINVAL, "%s='%.64s' is none of %s", key, value, words);
}

static uint64_t kind_max(const struct field *f)
{
    size_t width = field_width(f);

    return min_u64(f->max, width == 8 ? UINT64_MAX : BIT(width * 8) - 1);
}

static bool set_number(const struct field *f, void *at, const char *key, const char *value,
                       struct err *err)
{
    unsigned long long n;
    char *end;

    if (f->kind == FIELD_SIZE_KIND) {
        uint64_t bytes;

        if (!size_parse(value, &bytes, err))
            return err_wrap(err, "%s", key);
        n = bytes;
    } else {
        errno = 0;
        n = isdigit((unsigned char)*value)
                ? strtoull(value, &end, strncmp(value, "0x", 2) ? 10 : 16)
                : 0;
        if (!isdigit((unsigned char)*value) || *end != '\0')
            return err_set(err, EINVAL, "%s='%.64s' is not a number", key, value);
        if (errno == ERANGE)
            return err_set(err, ERANGE, "%s='%.64s' is too large", key, value);
    }
    if (n > kind_max(f))
        return err_set(err, ERANGE, "%s='%.64s' is more than %llu", key, value,
                       (unsigned long long)kind_max(f));
    field_store(f, at, n);
    return true;
}

static const struct field *find_key(const struct field *table, const char *key)
{
    for (const struct field *f = table; f->name != NULL; f++) {
        if (same_key(key, f->name) && is_option(f))
            return f;
    }
    return NULL;
}

bool field_set(const struct field *table, void *to, const char *key, const char *value,
               struct err *err)
{
    const struct field *f = find_key(table, key);
    char *at;
    bool on;

    if (f == NULL)
        return unknown_key(table, key, err);
    at = (char *)to + f->offset;
    switch (f->kind) {
    case FIELD_BOOL:
        if (!set_bool(value, &on))
            return err_set(err, EINVAL, "%s='%.64s' is neither on nor off", key, value);
        field_store(f, at, on);
        return true;
    case FIELD_TEXT_KIND:
        if (strlen(value) >= f->count)
            return err_set(err, ERANGE, "%s has %zu characters, at most %u fit", key, strlen(value),
                           f->count - 1);
        memset(at, 0, f->count);
        memcpy(at, value, strlen(value));
        return true;
    case FIELD_ENUM_KIND: return set_enum(f, at, key, value, err);
    case FIELD_U8:
    case FIELD_U16:
    case FIELD_U32:
    case FIELD_U64:
    case FIELD_SIZE_KIND: return set_number(f, at, key, value, err);
    case FIELD_BYTES_KIND:
    case FIELD_TABLE_KIND: break; /* is_option() refused them */
    }
    return false;
}

/* Copies one item up to a single comma, ",," becoming ",". Returns what follows, NULL at the end.
 */
static const char *next_item(const char *text, char *item)
{
    for (; *text != '\0'; text++) {
        if (*text == ',' && *++text != ',') {
            *item = '\0';
            return text;
        }
        *item++ = *text;
    }
    *item = '\0';
    return NULL;
}

static bool parse_item(const struct field *table, void *to, char *item, uint64_t *seen,
                       struct err *err)
{
    char *value = strchr(item, '=');
    const struct field *f;
    size_t index;

    if (value != NULL)
        *value++ = '\0';
    f = find_key(table, item);
    if (f == NULL)
        return unknown_key(table, item, err);
    if (value == NULL && f->kind != FIELD_BOOL)
        return err_set(err, EINVAL, "'%.64s' needs a value: %.64s=...", item, item);
    index = (size_t)(f - table);
    if (index < KEYS_MAX && seen[index / 64] & BIT(index % 64))
        return err_set(err, EINVAL, "'%.64s' is given twice", item);
    if (index < KEYS_MAX)
        seen[index / 64] |= BIT(index % 64);
    return field_set(table, to, item, value ? value : "on", err);
}

bool field_parse(const struct field *table, void *to, const char *text, struct err *err)
{
    uint64_t seen[KEYS_MAX / 64] = {0};
    char *item = malloc(strlen(text) + 1);
    bool good = true;

    if (item == NULL)
        return err_set(err, ENOMEM, "no memory for options");
    if (*text == '\0')
        text = NULL;
    while (good && text != NULL) {
        text = next_item(text, item);
        if (*item == '\0')
            good = err_set(err, EINVAL, "an option is empty: a comma too many?");
        else
            good = parse_item(table, to, item, seen, err);
    }
    free(item);
    return good;
}

static void help_value(const struct field *f, FILE *out)
{
    if (f->kind == FIELD_ENUM_KIND) {
        for (unsigned i = 0; f->names[i] != NULL; i++)
            fprintf(out, "%s%s", i ? "|" : "", f->names[i]);
        return;
    }
    fputs(f->kind == FIELD_BOOL        ? "on|off"
          : f->kind == FIELD_TEXT_KIND ? "TEXT"
          : f->kind == FIELD_SIZE_KIND ? "SIZE"
                                       : "N",
          out);
}

void field_help(const struct field *table, FILE *out, unsigned indent)
{
    for (const struct field *f = table; f->name != NULL; f++) {
        if (!is_option(f))
            continue;
        fprintf(out, "%*s", (int)indent, "");
        for (const char *c = f->name; *c; c++)
            putc(*c == '_' ? '-' : *c, out);
        putc('=', out);
        help_value(f, out);
        fprintf(out, "%s%s\n", f->help ? "  " : "", f->help ? f->help : "");
    }
}
