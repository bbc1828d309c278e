/* SPDX-License-Identifier: MIT */
/* Sizes as people write them. */
#include "field/field.h"
#include <ctype.h>
#include <errno.h>

#define FRACTION_MAX 1000000000ULL /* nine digits are kept, more are refused */

/* The power of 1024 that a suffix stands for, 0 if it is none. */
static uint64_t unit_of(const char *suffix)
{
    static const char letters[] = "KMGTPE";
    const char *at;

    if (*suffix == '\0')
        return 1;
    at = strchr(letters, toupper((unsigned char)*suffix));
    return at == NULL || suffix[1] != '\0' ? 0 : 1ULL << (10 * (at - letters + 1));
}

bool size_parse(const char *text, uint64_t *bytes, struct err *err)
{
    const char *p = text;
    uint64_t whole = 0, part = 0, scale = 1, unit, sum;
    bool over = false;

    for (; isdigit((unsigned char)*p); p++)
        over |= __builtin_mul_overflow(whole, 10, &whole) ||
                __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole);
    if (p > text && *p == '.' && isdigit((unsigned char)p[1])) {
        for (p++; isdigit((unsigned char)*p) && scale < FRACTION_MAX; p++, scale *= 10)
            part = part * 10 + (uint64_t)(*p - '0');
    }
    unit = unit_of(p);
    if (p == text || unit == 0 || (scale > 1 && unit == 1))
        return err_set(err, EINVAL, "'%.64s' is not a size such as 512M, 2G or 1.5G", text);
    sum = (uint64_t)((unsigned __int128)unit * part / scale);
    if (over || __builtin_mul_overflow(whole, unit, &whole) ||
        __builtin_add_overflow(whole, sum, &whole))
        return err_set(err, ERANGE, "size '%.64s' is too large", text);
    *bytes = whole;
    return true;
}
