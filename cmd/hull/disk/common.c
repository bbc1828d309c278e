/* SPDX-License-Identifier: MIT */
/* What the verbs of `hull disk` have in common: opening, answers, signals. */
#include "disk.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

int disk_failed(const struct err *err)
{
    log_error("%s", err->text);
    return EXIT_FAILED;
}

struct block *disk_open(struct disk_args *a, const char *file, const char *format, bool readonly,
                        const struct block_config *more, struct err *err)
{
    struct block_config c = more ? *more : (struct block_config){.discard = true};

    if (strlen(file) >= sizeof c.file || (format && strlen(format) >= sizeof c.format)) {
        err_set(err, ENAMETOOLONG, "%.100s: the name of a file or format is too long", file);
        return NULL;
    }
    snprintf(c.file, sizeof c.file, "%s", file);
    snprintf(c.format, sizeof c.format, "%s", format ? format : "");
    c.readonly = readonly;
    c.no_lock |= a->share;
    return block_open(a->loop, &c, err);
}

void disk_print_json(json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(4));

    puts(text ? text : "{}");
    free(text);
    json_decref(json);
}

const char *disk_size_text(uint64_t bytes, char *text)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned u = 0;
    double value = (double)bytes;

    while (value >= 1000 && u + 1 < ARRAY_SIZE(units)) {
        value /= 1024;
        u++;
    }
    snprintf(text, 32, "%.3g %s", value, units[u]);
    return text;
}

bool disk_prealloc_parse(const char *word, enum block_prealloc *p, struct err *err)
{
    static const char *const words[] = {"off", "metadata", "falloc", "full"};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        if (!strcmp(words[i], word)) {
            *p = (enum block_prealloc)i;
            return true;
        }
    }
    return err_set(err, EINVAL, "preallocation=%.40s: off, metadata, falloc or full", word);
}

const char *disk_snapshot_name(const char *option)
{
    static const char *const keys[] = {"snapshot.id=", "snapshot.name="};

    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        if (!strncmp(option, keys[i], strlen(keys[i])))
            return option + strlen(keys[i]);
    return option;
}

/* ---- signals ---- */

static volatile sig_atomic_t stopped_by;

static void on_signal(int number)
{
    stopped_by = number;
}

void disk_catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal}, old;

    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        if (!sigaction(numbers[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

bool disk_stopped(void)
{
    return stopped_by != 0;
}

int disk_stopped_status(void)
{
    return 128 + stopped_by;
}
