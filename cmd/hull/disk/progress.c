/* SPDX-License-Identifier: MIT */
/* How far a long verb is. On a terminal a bar on stderr, without asking; with --progress json one
 * object a line on stdout; with -p what qemu-img prints, on stdout, for who reads that. */
#include "disk.h"
#include "base/clock.h"
#include <stdio.h>
#include <unistd.h>

enum { WIDTH = 30 };
#define EVERY_NS 100000000ULL

static bool as_json(const struct disk_args *a)
{
    return a->progress_as && !strcmp(a->progress_as, "json");
}

static bool as_bar(const struct disk_args *a)
{
    return !a->progress_as && !a->show_progress && !a->quiet && isatty(STDERR_FILENO);
}

static void show(const struct disk_args *a, const char *what, double part)
{
    if (as_json(a)) {
        printf("{\"status\": \"running\", \"percent\": %.1f}\n", 100 * part);
    } else if (a->show_progress && !a->quiet) {
        printf("    (%3.2f/100%%)\r", 100 * part);
    } else if (as_bar(a)) {
        int full = (int)(part * WIDTH);

        fprintf(stderr, "\r%.40s [%.*s%.*s] %5.1f %%", what, full, "##############################",
                WIDTH - full, "                              ", 100 * part);
    }
    fflush(stdout);
}

void disk_progress(const struct disk_args *a, const char *what, uint64_t done, uint64_t all)
{
    static uint64_t next_ns;
    uint64_t now = now_ns();

    if (now < next_ns)
        return;
    next_ns = now + EVERY_NS;
    show(a, what, all ? (double)min_u64(done, all) / (double)all : 1);
}

void disk_progress_end(const struct disk_args *a, const char *what, bool good)
{
    if (good && !as_bar(a) && !as_json(a))
        show(a, what, 1);
    if (as_json(a))
        printf("{\"status\": \"%s\"%s}\n", good ? "concluded" : "failed",
               good ? ", \"percent\": 100.0" : "");
    else if (a->show_progress && !a->quiet)
        printf("\n");
    else if (as_bar(a))
        fprintf(stderr, "\r\033[K");
    fflush(stdout);
}
