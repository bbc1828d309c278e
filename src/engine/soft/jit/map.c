/* SPDX-License-Identifier: MIT */
/* A list of translated code for perf(1): /tmp/perf-PID.map, "address size name" a line, one file
 * for all vCPUs. It is opened with the first of them, before the machine's process gives up its
 * right to open files. Code memory that is used again gets further lines; perf takes the last. */
#include "base/log.h"
#include "engine/soft/jit/jit_int.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int map_fd = -1;
static pid_t map_pid; /* of a process forked from that one: another file */

void jit_map_open(struct jit *j)
{
    char path[40];

    if (!j->opt.perf)
        return;
    pthread_mutex_lock(&lock);
    if (map_pid != getpid()) {
        if (map_fd >= 0)
            close(map_fd);
        map_pid = getpid();
        snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)map_pid);
        /* Others may write to /tmp: what lies there under this name is not followed. */
        unlink(path);
        map_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_APPEND, 0644);
        if (map_fd < 0)
            log_warn("%s: %s: perf will not know the guest's code", path, strerror(errno));
    }
    pthread_mutex_unlock(&lock);
}

/* `t` NULL: the ways in and out. */
void jit_map_add(struct jit *j, const uint8_t *from, const uint8_t *to, const char *what,
                 const struct trans *t)
{
    char line[120];
    int n;

    if (!j->opt.perf || map_fd < 0 || from == to)
        return;
    n = snprintf(line, sizeof line, "%llx %llx ", (unsigned long long)(uintptr_t)jit_exec(j, from),
                 (unsigned long long)(to - from));
    if (t)
        n += snprintf(line + n, sizeof line - (size_t)n, "guest-%s:%#llx%s\n",
                      t->user ? "user" : "kernel", (unsigned long long)t->rip, what);
    else
        n += snprintf(line + n, sizeof line - (size_t)n, "guest-stubs:cpu%u\n",
                      j->cpu->vcpu ? j->cpu->vcpu->id : 0);
    if (write(map_fd, line, (size_t)n) < 0)
        j->opt.perf = false; /* the disk is full */
}
