/* SPDX-License-Identifier: MIT */
/* The verbs of `hull disk` and what they share. A verb is one file with a `struct disk_verb`,
 * listed in disk.c: its options are a table from which parsing and --help come; run() gets them
 * read. */
#ifndef HULL_CMD_DISK_H
#define HULL_CMD_DISK_H

#include "../hull.h"
#include "block/image.h"
#include <jansson.h>

enum disk_opt_kind {
    OPT_FLAG,   /* bool */
    OPT_TEXT,   /* const char * */
    OPT_SIZE,   /* uint64_t: bytes, "10G" */
    OPT_NUMBER, /* uint64_t */
    OPT_LIST,   /* char *: "a=b,c=d"; given again, it is appended */
    OPT_SKIP,   /* taken for qemu-img's sake, changes nothing */
    OPT_SKIP_VALUE,
};

struct disk_opt {
    const char *name; /* without "--"; NULL: only the letter */
    char letter;      /* 0: only the name */
    uint8_t kind;
    uint16_t to;           /* offset in struct disk_args */
    const char *arg, *say; /* for --help; say NULL: not shown */
};

struct disk_args { /* what the command line said; see the verbs' tables */
    const struct disk_verb *verb;
    struct loop *loop;
    const char *file[64]; /* what is no option */
    unsigned files;
    bool json, quiet, share, show_progress;
    const char *output, *progress_as;                /* --output, --progress */
    const char *format, *second_format;              /* of the first and second image */
    const char *out_format;                          /* -O */
    const char *backing, *backing_format, *snapshot; /* -b or -B, -F, -l */
    const char *repair, *preallocation, *cache;      /* -r, --preallocation, -t */
    const char *sparse;                              /* -S */
    char *options;                                   /* -o, joined; ours to free */
    bool chain, unsafe, strict, compress, shrink, no_create, target_is_zero, sync;
    uint64_t workers, start, length, size;
    /* rebase, commit, snapshot, bitmap */
    const char *base, *create, *apply, *remove_name, *merge, *granularity;
    bool list, add, remove, clear, enable, disable, keep;
    struct disk_given { /* all options in their order, for who does them in turn */
        uint16_t to;
        const char *value;
    } given[64];
    unsigned given_count;
};

struct disk_verb {
    const char *name, *summary;
    const char *usage;    /* "FILE [SIZE]" */
    const char *about;    /* a paragraph, lines ended by \n */
    const char *examples; /* lines, each with two blanks in front */
    const struct disk_opt *opts;
    unsigned files_min, files_max;
    int usage_status; /* for wrong usage, where EXIT_USAGE means something else; 0: EXIT_USAGE */
    bool no_json;     /* it has no answer that --json could give */
    int (*run)(struct disk_args *a);
};

extern const struct disk_verb disk_bitmap, disk_check, disk_commit, disk_compare, disk_convert,
    disk_create, disk_info, disk_map, disk_measure, disk_rebase, disk_resize, disk_snapshot;

/* ---- options ---- */

#define DISK_OPT(letter, name, kind, member, arg, say)                                             \
    {                                                                                              \
        name, letter, kind, offsetof(struct disk_args, member), arg, say                           \
    }
/* What every verb takes: --json, --output, --quiet, --help. */
extern const struct disk_opt disk_common_opts[];

bool disk_args_read(struct disk_args *a, int argc, char **argv, struct err *err);
void disk_verb_help(const struct disk_verb *verb);
/* A usage error of the verb at hand: says it, returns the status. */
int disk_usage(const struct disk_args *a, const struct err *err);

/* ---- what verbs have in common (common.c) ---- */

/* "hull: text" on stderr; returns EXIT_FAILED. */
int disk_failed(const struct err *err);
/* Opens with --format, --force-share. `more`, unless NULL, is what else to set. NULL on error. */
struct block *disk_open(struct disk_args *a, const char *file, const char *format, bool readonly,
                        const struct block_config *more, struct err *err);
void disk_print_json(json_t *json); /* and lets go of it */
/* "64 MiB", "1.5 GiB", as qemu-img says it; `text` has room for 32. */
const char *disk_size_text(uint64_t bytes, char *text);
/* What -l means: "name", or qemu-img's "snapshot.id=1" and "snapshot.name=n". */
const char *disk_snapshot_name(const char *option);
bool disk_prealloc_parse(const char *word, enum block_prealloc *p, struct err *err);

/* After this SIGINT, SIGTERM and SIGHUP only make disk_stopped() true, so that the verb can clean
 * up; it should then end with disk_stopped_status(). */
void disk_catch_signals(void);
bool disk_stopped(void);
int disk_stopped_status(void); /* 130 for Ctrl-C, as shells have it */

/* "Snapshot list:" and a line for each, as qemu-img has it (info.c). */
json_t *disk_snapshots_json(const struct block_snapshot *s, unsigned count);
void disk_print_snapshots(const struct block_snapshot *s, unsigned count);

/* ---- progress (progress.c): a bar on a terminal, JSON lines, or qemu-img's -p ---- */

/* Cheap to call often; `done` of `all`. */
void disk_progress(const struct disk_args *a, const char *what, uint64_t done, uint64_t all);
/* The bar goes; what is written next starts on a clean line. `good`: show 100 % first. */
void disk_progress_end(const struct disk_args *a, const char *what, bool good);

/* ---- -o and its like (create_options.c) ---- */

/* Fills *c from a->options, --backing and so on, for an image of c->format. The strings live as
 * long as `a`. "help" prints the options: *helped, and nothing else is to be done. */
bool disk_create_options(struct disk_args *a, struct block_create *c, bool *helped,
                         struct err *err);
/* The format that a new file of this name should have. */
const char *disk_format_for(const char *file);

#endif
