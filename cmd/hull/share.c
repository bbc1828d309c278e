/* SPDX-License-Identifier: MIT */
/* Starts what serves a --share: virtiofsd (share_fs.c) where it works, else hull-9p, with a socket
 * pair and memory that it has in common with the machine. */
#include "share.h"
#include "virtio/9p_link.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_directory(const struct config_share *s, struct err *err)
{
    int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        err_set(err, errno, "--share %s: %s", s->dir, strerror(errno));
    return fd;
}

/* hull-9p says that it is ready, or dies having said why not. */
static bool wait_ready(int fd, pid_t pid, struct err *err)
{
    struct p9_link_message m;

    if (recv(fd, &m, sizeof m, 0) == sizeof m && m.slot == P9_LINK_READY)
        return true;
    waitpid(pid, NULL, 0);
    err->text[0] = 0;
    return false;
}

static bool start_on(const struct config_share *s, const char *user, const int fd[3], pid_t *pid,
                     struct err *err)
{
    char path[4096], number[3][16];
    char *argv[] = {path,      "--root-fd", number[0], "--link-fd", number[1], "--area-fd",
                    number[2], NULL,        NULL,      NULL,        NULL};
    int keep[] = {fd[0], fd[1], fd[2], -1}, argc = 7;

    if (!helper_find("hull-9p", path, sizeof path, err))
        return false;
    for (unsigned i = 0; i < 3; i++)
        snprintf(number[i], sizeof number[i], "%d", fd[i]);
    if (s->readonly)
        argv[argc++] = "--readonly";
    if (user[0]) {
        argv[argc++] = "--user";
        argv[argc++] = (char *)user;
    }
    *pid = program_start(argv, keep, err);
    return *pid > 0;
}

static bool start_9p(struct config_share *s, const char *user, int root, pid_t *pid,
                     struct err *err)
{
    int pair[2], area;
    bool good;

    if (!helper_channel("hull-9p", P9_LINK_BYTES, pair, &area, err))
        return false;
    good = start_on(s, user, (const int[]){root, pair[1], area}, pid, err);
    close(pair[1]);
    if (good && !wait_ready(pair[0], *pid, err)) {
        *pid = 0; /* collected already */
        good = false;
    }
    if (good) {
        s->fd = (uint32_t)pair[0];
        s->area_fd = (uint32_t)area;
    } else {
        close(pair[0]);
        close(area);
    }
    return good;
}

static bool start_built_in(struct config_share *s, const char *user, pid_t *pid, struct err *err)
{
    int root = open_directory(s, err);
    bool good = root >= 0 && start_9p(s, user, root, pid, err);

    if (root >= 0)
        close(root);
    return good;
}

/* A directory's name is relative to where hull is, which is not where virtiofsd will be. */
static bool make_absolute(struct config_share *s, struct err *err)
{
    char *real = realpath(s->dir, NULL);
    struct stat st = {0};

    if (!real || stat(real, &st))
        err_set(err, errno, "--share %s: %s", s->dir, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        err_set(err, ENOTDIR, "--share %s: is no directory", s->dir);
    else if (strlen(real) < sizeof s->dir)
        strcpy(s->dir, real);
    free(real);
    return !err->text[0];
}

bool share_start(struct config_share *s, const char *user, pid_t *pid, struct err *err)
{
    bool choose = strcmp(s->type, "9p") && strcmp(s->type, "virtiofs"), good;

    err->text[0] = 0;
    if (!make_absolute(s, err))
        return false;
    good = strcmp(s->type, "9p") && (!choose || virtiofsd_path()) &&
           share_start_virtiofs(s, user, pid, err);
    if (!good && choose && err->text[0])
        log_warn("%s", err->text);
    if (choose)
        strcpy(s->type, good ? "virtiofs" : "9p");
    return good || (!strcmp(s->type, "9p") && start_built_in(s, user, pid, err));
}

void share_say(const struct config_share *s)
{
    const char *options =
        strcmp(s->type, "9p") ? "" : " -o trans=virtio,version=9p2000.L,msize=512000";

    fprintf(stderr, "hull: in the guest: mount -t %s%s %s /mnt\n", s->type, options, s->tag);
}
