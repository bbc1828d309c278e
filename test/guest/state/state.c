/* SPDX-License-Identifier: MIT */
/* Finding the case that the command line names; see state.h. */
#include "state.h"

void note(uint64_t v)
{
    if (RESULT->count < RESULT_VALUES)
        RESULT->value[RESULT->count++] = v;
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* The last two words; the text is wiped, as is all that the loader left: paths differ between runs.
 */
static unsigned parse(uint32_t info, char name[48])
{
    char *text = (char *)(uintptr_t)((uint32_t *)(uintptr_t)info)[4], *end = text, *word;
    unsigned number = 0, n = 0;

    while (*end)
        end++;
    for (word = end; word > text && word[-1] != ' '; word--)
        ;
    for (char *p = word; *p; p++)
        number = number * 10 + (unsigned)(*p - '0');
    if (word > text)
        *--word = 0;
    while (word > text && word[-1] != ' ')
        word--;
    for (; word[n] && n < 47; n++)
        name[n] = word[n];
    name[n] = 0;
    memset(text, 0, (size_t)(end - text));
    memset((void *)(uintptr_t)info, 0, 116);
    return number;
}

static const struct state_case *by_number(unsigned number)
{
    for (unsigned i = 0; state_lists[i]; i++)
        for (const struct state_case *c = state_lists[i]; c->name; c++)
            if (number-- == 0)
                return c;
    return NULL;
}

static const struct state_case *by_name(const char *name)
{
    for (unsigned i = 0; state_lists[i]; i++)
        for (const struct state_case *c = state_lists[i]; c->name; c++)
            if (same(c->name, name))
                return c;
    return NULL;
}

void state_main(uint32_t info)
{
    char name[48];
    unsigned number = parse(info, name);
    const struct state_case *c = same(name, "-") ? by_number(number) : by_name(name);

    memset((void *)RESULT_AT, 0, 0x3000);
    RESULT->magic = RESULT_MAGIC;
    if (c) {
        for (unsigned n = 0; c->name[n]; n++)
            RESULT->name[n] = c->name[n];
        c->run(c->arg);
    }
    state_end();
}
