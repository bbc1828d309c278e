/* SPDX-License-Identifier: MIT */
/* Reading a snapshot's `state` file. */
#include "machine/saved.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int saved_file(const char *dir, const char *name, struct err *err)
{
    char path[CONFIG_PATH + 16];
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        err_set(err, errno, "%s: %s%s", path, strerror(errno),
                errno == ENOENT ? ": this is no snapshot, or not a whole one" : "");
    return fd;
}

/* All of a regular file; NULL on error. */
static uint8_t *read_all(int fd, size_t *len, struct err *err)
{
    struct stat st;
    uint8_t *bytes;
    size_t done = 0;

    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > STATE_BYTES) {
        err_set(err, EINVAL, "is not a file, or larger than %llu MiB", STATE_BYTES / MiB);
        return NULL;
    }
    bytes = malloc((size_t)st.st_size + 1);
    if (!bytes) {
        err_set(err, ENOMEM, "no memory for it");
        return NULL;
    }
    while (done < (size_t)st.st_size) {
        ssize_t n = pread(fd, bytes + done, (size_t)st.st_size - done, (off_t)done);

        if (n <= 0)
            break;
        done += (size_t)n;
    }
    *len = done;
    return bytes;
}

static bool read_saved(struct saved *s, struct err *err)
{
    int fd = saved_file(s->dir, "state", err);
    size_t len = 0;
    bool good;

    if (fd < 0)
        return false;
    s->bytes = read_all(fd, &len, err);
    close(fd);
    good = s->bytes && state_open(&s->state, s->bytes, len, err) &&
           state_restore(&s->state, "machine", MACHINE_FACTS_VERSION, machine_facts_fields,
                         &s->facts, err) &&
           state_restore(&s->state, "memory", MEMORY_FACTS_VERSION, memory_facts_fields, &s->memory,
                         err);
    return good || err_wrap(err, "%s/state", s->dir);
}

struct saved *saved_open(const char *dir, struct err *err)
{
    struct saved *s = calloc(1, sizeof *s);

    if (!s) {
        err_set(err, ENOMEM, "no memory for a snapshot's state");
        return NULL;
    }
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    if (strlen(dir) < sizeof s->dir ? read_saved(s, err)
                                    : err_set(err, ENAMETOOLONG, "%s: the name is too long", dir))
        return s;
    saved_close(s);
    return NULL;
}

void saved_close(struct saved *s)
{
    if (!s)
        return;
    state_close(&s->state);
    free(s->bytes);
    free(s);
}

bool saved_config(const struct saved *s, struct config *c, struct err *err)
{
    const struct state_section *section = state_find(&s->state, "config", 1, err);

    return (section && config_read_json(c, (const char *)section->body, section->len, err)) ||
           err_wrap(err, "%s/state", s->dir);
}
