/* SPDX-License-Identifier: MIT */
/* Test Anything Protocol for plain C test programs: ok() per check, tap_done() at the end of main.
 */
#ifndef HULL_TAP_H
#define HULL_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_count, tap_failed;

/* One check. Returns `pass`, so a test can stop early: if (!ok(p, "opened")) return tap_done(); */
__attribute__((format(printf, 2, 3), unused)) static bool ok(bool pass, const char *fmt, ...)
{
    va_list ap;

    printf("%s %d - ", pass ? "ok" : "not ok", ++tap_count);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
    tap_failed += !pass;
    return pass;
}

/* A check that this host cannot make; `why` says what is missing. */
__attribute__((unused)) static void tap_skip(const char *name, const char *why)
{
    printf("ok %d - %s # SKIP %s\n", ++tap_count, name, why);
    fflush(stdout);
}

/* Prints the plan; the exit status of the test program. */
__attribute__((unused)) static int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed != 0;
}

#endif
