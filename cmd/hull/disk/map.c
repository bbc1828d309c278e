/* SPDX-License-Identifier: MIT */
/* hull disk map: which part of a disk lies where. */
#include "disk.h"
#include "block/gather.h"
#include <errno.h>
#include <stdio.h>

struct mapping {
    struct disk_args *a;
    struct block_extent last;
    uint64_t start; /* of `last`; its length is 0 before the first */
    bool printed;
};

/* The file in which the data lie. */
static const char *file_of(const struct block *node)
{
    while (node->data || node->under)
        node = node->data ? node->data : node->under;
    return node->config.file;
}

static const char *word(bool b)
{
    return b ? "true" : "false";
}

static bool print_extent(struct mapping *m, struct err *err)
{
    const struct block_extent *e = &m->last;

    if (!e->length)
        return true;
    if (m->a->json) {
        printf("%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, "
               "\"zero\": %s, \"data\": %s",
               m->printed ? ",\n" : "[", (unsigned long long)m->start,
               (unsigned long long)e->length, e->depth, word(e->present), word(e->zero),
               word(e->data));
        if (e->has_offset)
            printf(", \"offset\": %llu", (unsigned long long)e->host_offset);
        printf("}");
        m->printed = true;
    } else if (e->data && !e->zero) {
        if (!e->has_offset)
            return err_set(err, ENOTSUP,
                           "%s: has compressed clusters, which have no offset: --json shows them",
                           m->a->file[0]);
        printf("%#-16llx%#-16llx%#-16llx%s\n", (unsigned long long)m->start,
               (unsigned long long)e->length, (unsigned long long)e->host_offset, file_of(e->node));
    }
    return true;
}

static bool goes_on(const struct block_extent *a, const struct block_extent *b)
{
    return a->length && a->present == b->present && a->zero == b->zero && a->data == b->data &&
           a->depth == b->depth && a->has_offset == b->has_offset &&
           (!a->has_offset || (a->host_offset + a->length == b->host_offset && a->node == b->node));
}

static bool map_all(struct mapping *m, struct block *b, uint64_t from, uint64_t to, struct err *err)
{
    for (uint64_t at = from; at < to;) {
        struct block_extent e;

        if (!block_map(b, at, to - at, &e, err))
            return false;
        if (goes_on(&m->last, &e)) {
            m->last.length += e.length;
        } else {
            if (!print_extent(m, err))
                return false;
            m->last = e;
            m->start = at;
        }
        at += e.length;
    }
    return print_extent(m, err);
}

static int map_run(struct disk_args *a)
{
    struct mapping m = {.a = a};
    struct err err;
    struct block *b;
    uint64_t end;
    bool good;

    b = disk_open(a, a->file[0], a->format, true, NULL, &err);
    if (!b)
        return disk_failed(&err);
    end = a->length ? min_u64(b->size, a->start + min_u64(a->length, b->size)) : b->size;
    if (!a->json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    good = map_all(&m, b, a->start, end, &err);
    if (a->json && good)
        printf("%s]\n", m.printed ? "" : "[");
    block_close(b);
    return good ? EXIT_DONE : disk_failed(&err);
}

static const struct disk_opt opts[] = {
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "its format; default: found by looking"),
    DISK_OPT('s', "start-offset", OPT_SIZE, start, "SIZE", "from there on"),
    DISK_OPT('l', "max-length", OPT_SIZE, length, "SIZE", "no more than that"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to it"),
    {0},
};

const struct disk_verb disk_map = {
    .name = "map",
    .summary = "which part of a disk lies where",
    .usage = "FILE",
    .about =
        "Lists the parts of a disk that hold data, where they lie and in which file of the chain.\n"
        "With --json all parts.\n",
    .examples = "  hull disk map disk.qcow2\n"
                "  hull disk map --json overlay.qcow2\n",
    .opts = opts,
    .files_min = 1,
    .files_max = 1,
    .run = map_run,
};
