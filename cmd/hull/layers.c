/* SPDX-License-Identifier: MIT */
/* Partial snapshots and their bases: checked, or made into a whole one.
 *
 *   layers_flatten   memory of the lowest layer, the pages of each above it laid over
 *                    -> a state that names no base -> checksums -> disks, if the snapshot has them
 */
#include "layers.h"
#include "copy.h"
#include "machine/saved.h"
#include "machine/sums.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LAYERS_MAX 64
#define RUN_BYTES  (1 * MiB)

struct layers {
    struct saved *saved[LAYERS_MAX]; /* the snapshot, its base, the base's base, ... */
    unsigned count;
};

static void layers_close(struct layers *l)
{
    for (unsigned i = 0; i < l->count; i++)
        saved_close(l->saved[i]);
}

static bool fits(const struct saved *above, const struct saved *base, struct err *err)
{
    if (memcmp(base->facts.id, above->memory.base_id, sizeof base->facts.id))
        return err_set(err, EINVAL, "%s: is not the snapshot that %s was based on", base->dir,
                       above->dir);
    return (base->memory.count == above->memory.count &&
            !memcmp(base->memory.region, above->memory.region, sizeof base->memory.region)) ||
           err_set(err, EINVAL, "%s: its memory is laid out differently from %s", base->dir,
                   above->dir);
}

static bool layers_open(struct layers *l, const char *dir, struct err *err)
{
    char path[CONFIG_PATH];

    snprintf(path, sizeof path, "%s", dir);
    while (l->count < LAYERS_MAX) {
        struct saved *s = saved_open(path, err);
        int n;

        if (!s)
            return l->count ? err_wrap(err, "%s needs its base", l->saved[l->count - 1]->dir)
                            : false;
        l->saved[l->count++] = s;
        if (l->count > 1 && !fits(l->saved[l->count - 2], s, err))
            return false;
        if (!s->memory.partial)
            return true;
        n = *s->memory.base == '/' ? snprintf(path, sizeof path, "%s", s->memory.base)
                                   : snprintf(path, sizeof path, "%s/%s", s->dir, s->memory.base);
        if (!*s->memory.base || n < 0 || (size_t)n >= sizeof path)
            return err_set(err, EINVAL, "%s/state: names no base that could be opened", s->dir);
    }
    return err_set(err, EINVAL, "%s: has more than %d bases", dir, LAYERS_MAX - 1);
}

bool layers_verify(const char *dir, struct err *err)
{
    struct layers l = {0};
    bool good = layers_open(&l, dir, err);

    for (unsigned i = 0; good && i < l.count; i++)
        good = sums_check(l.saved[i]->dir, err);
    layers_close(&l);
    return good;
}

/* ---- memory ---- */

static bool copy_bytes(int from, int to, uint64_t at, uint64_t len, uint8_t *buffer)
{
    while (len) {
        ssize_t n = pread(from, buffer, min_u64(len, RUN_BYTES), (off_t)at);

        if (n <= 0 || pwrite(to, buffer, (size_t)n, (off_t)at) != n)
            return false;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return true;
}

static bool overlay_region(const uint8_t *bits, const struct memory_region_fact *r, int from,
                           int to, uint8_t *buffer)
{
    uint64_t pages = r->size / PAGE_SIZE, first, end;

    for (first = 0; first < pages; first = end) {
        bool held = bits[first / 8] >> first % 8 & 1;

        for (end = first + 1; end < pages && (bits[end / 8] >> end % 8 & 1) == held;)
            end++;
        if (held &&
            !copy_bytes(from, to, r->offset + first * PAGE_SIZE, (end - first) * PAGE_SIZE, buffer))
            return false;
    }
    return true;
}

static bool overlay(const struct saved *s, int to, uint8_t *buffer, struct err *err)
{
    const struct state_section *pages = state_find(&s->state, "pages", 1, err);
    int from = pages ? saved_file(s->dir, "memory", err) : -1;
    size_t at = 0;
    bool good = from >= 0;

    if (!pages)
        err_wrap(err, "%s/state", s->dir);
    for (unsigned i = 0; good && i < s->memory.count; i++) {
        size_t bytes = (s->memory.region[i].size / PAGE_SIZE + 63) / 64 * 8;

        if (bytes > pages->len - at)
            good = err_set(err, EINVAL, "%s/state: its map of pages is too short", s->dir);
        else if (!overlay_region(pages->body + at, &s->memory.region[i], from, to, buffer))
            good = err_set(err, errno ? errno : EIO, "%s/memory: cannot be copied: %s", s->dir,
                           strerror(errno));
        at += bytes;
    }
    if (from >= 0)
        close(from);
    return good;
}

static bool merge_memory(const struct layers *l, int to, struct err *err)
{
    char path[CONFIG_PATH + 16];
    uint8_t *buffer = malloc(RUN_BYTES);
    bool good = buffer || err_set(err, ENOMEM, "no memory to copy with");

    snprintf(path, sizeof path, "%s/memory", l->saved[l->count - 1]->dir);
    good = good && copy_to_fd(path, to, "memory", err);
    for (unsigned i = l->count - 1; good && i-- > 0;)
        good = overlay(l->saved[i], to, buffer, err);
    free(buffer);
    return good;
}

/* ---- state ---- */

static bool put_section(struct stream *out, const struct saved *s, const struct state_section *from,
                        struct err *err)
{
    struct memory_facts *whole;
    bool good;

    if (!strcmp(from->name, "pages"))
        return true;
    if (strcmp(from->name, "memory"))
        return state_put(out, from->name, from->version, from->body, from->len, err);
    whole = malloc(sizeof *whole);
    if (!whole)
        return err_set(err, ENOMEM, "no memory for a state");
    *whole = s->memory;
    whole->partial = false;
    whole->base[0] = 0;
    memset(whole->base_id, 0, sizeof whole->base_id);
    good = state_save(out, "memory", MEMORY_FACTS_VERSION, memory_facts_fields, whole, err);
    free(whole);
    return good;
}

static bool write_state(const struct saved *s, int to, struct err *err)
{
    struct stream out = {0};
    bool good = state_begin(&out, err);

    for (unsigned i = 0; good && i < s->state.count; i++)
        good = put_section(&out, s, &s->state.section[i], err);
    good = good && state_end(&out, err) &&
           (pwrite(to, out.data, out.size, 0) == (ssize_t)out.size ||
            err_set(err, errno, "the state cannot be written: %s", strerror(errno)));
    stream_free(&out);
    return good;
}

/* ---- all of it ---- */

static bool copy_disks(const char *dir, const char *part, struct err *err)
{
    char from[CONFIG_PATH + 16], to[CONFIG_PATH + 16];

    for (unsigned i = 0; i < CONFIG_DISKS; i++) {
        snprintf(from, sizeof from, "%s/disk%u", dir, i);
        snprintf(to, sizeof to, "%s/disk%u", part, i);
        if (!access(from, F_OK) && !copy_file(from, to, err))
            return false;
    }
    return true;
}

static int make_file(const char *part, const char *name, struct err *err)
{
    char path[CONFIG_PATH + 16];
    int fd;

    snprintf(path, sizeof path, "%s/%s", part, name);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        err_set(err, errno, "%s: %s", path, strerror(errno));
    return fd;
}

static bool write_all(const struct layers *l, const char *part, struct err *err)
{
    int memory = make_file(part, "memory", err);
    int state = memory >= 0 ? make_file(part, "state", err) : -1;
    int sums = state >= 0 ? make_file(part, SUMS_FILE, err) : -1;
    bool good = sums >= 0 && merge_memory(l, memory, err) && write_state(l->saved[0], state, err) &&
                sums_write(memory, state, sums, err);

    if (good && (fsync(memory) || fsync(state) || fsync(sums)))
        good = err_set(err, errno, "%s: cannot be finished: %s", part, strerror(errno));
    if (memory >= 0)
        close(memory);
    if (state >= 0)
        close(state);
    if (sums >= 0)
        close(sums);
    return good;
}

bool layers_flatten(const char *dir, const char *part, struct err *err)
{
    struct layers l = {0};
    bool good = layers_open(&l, dir, err) && write_all(&l, part, err) && copy_disks(dir, part, err);

    layers_close(&l);
    return good;
}
