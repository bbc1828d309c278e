/* SPDX-License-Identifier: MIT */
/* The processor benchmark: static, the same bytes natively and in every guest.
 *
 *   gbench [--ms N] [--samples N] [ROW|GROUP]...
 *
 * Prints "gbench NAME GROUP NANOSECONDS" for each row: the fastest of the samples, each of which
 * takes at least N milliseconds (2 by default: on a busy host, short ones are those undisturbed).
 */
#include "gbench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

volatile uint64_t gbench_sink;
const char *gbench_self;
static const struct row *const tables[] = {gbench_cpu, gbench_mem, gbench_sys};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double spent(const struct row *r, uint64_t n)
{
    double begin = now();

    r->run(n);
    return now() - begin;
}

/* Nanoseconds for one operation. */
static double measure(const struct row *r, double length, unsigned samples)
{
    uint64_t n = 1;
    double t = spent(r, n), best;

    while (t < length) { /* grows to the target, at most eightfold at a time */
        double factor = t > 0 ? length * 1.2 / t : 8;

        n = (uint64_t)((double)n * (factor > 8 ? 8 : factor)) + 1;
        t = spent(r, n);
    }
    best = t;
    for (unsigned i = 1; i < samples; i++) {
        t = spent(r, n);
        best = t < best ? t : best;
    }
    return best / (double)n;
}

static bool wanted(const struct row *r, char **names)
{
    if (*names == NULL)
        return true;
    for (; *names; names++)
        if (!strcmp(*names, r->name) || !strcmp(*names, r->group))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    double length = 2e6;
    unsigned samples = 21;
    char **arg = argv + 1;
    bool any = false;

    gbench_self = argv[0];
    if (argc == 2 && !strcmp(argv[1], "--nothing")) /* what the vfork+exec row starts */
        return 0;
    for (; arg[0] && arg[1] && !strncmp(arg[0], "--", 2); arg += 2) {
        if (!strcmp(arg[0], "--ms"))
            length = atof(arg[1]) * 1e6;
        else if (!strcmp(arg[0], "--samples"))
            samples = (unsigned)atoi(arg[1]);
        else
            return 2;
    }
    for (unsigned t = 0; t < COUNT(tables); t++)
        for (const struct row *r = tables[t]; r->name; r++)
            if (wanted(r, arg)) {
                any = true;
                if (r->prepare == NULL || r->prepare())
                    printf("gbench %s %s %.3f\n", r->name, r->group, measure(r, length, samples));
                else
                    printf("gbench-error %s: cannot be prepared\n", r->name);
                fflush(stdout);
            }
    return any ? 0 : 2;
}
