/* SPDX-License-Identifier: MIT */
/* Finding and starting hull's other programs. */
#include "base/helper.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 8 };

bool helper_find(const char *name, char *path, size_t size, struct err *err)
{
    /* Installed beside us, installed in libexec, in the build tree: from a program, from a test. */
    static const struct place {
        const char *dir;
        bool own_folder;
    } places[] = {{"", false}, {"../libexec/hull/", false}, {"../", true}, {"../../cmd/", true}};
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);

    if (len < 0)
        return err_set(err, errno, "/proc/self/exe: %s; is /proc mounted?", strerror(errno));
    self[len] = 0;
    strrchr(self, '/')[1] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        const struct place *p = &places[i];
        int n = snprintf(path, size, "%s%s%s%s%s", self, p->dir, p->own_folder ? name : "",
                         p->own_folder ? "/" : "", name);

        if (n > 0 && (size_t)n < size && !access(path, X_OK))
            return true;
    }
    return err_set(err, ENOENT, "%s is missing: it belongs in %.80s or %.80s../libexec/hull", name,
                   self, self);
}

bool helper_channel(const char *name, size_t size, int pair[2], int *memory, struct err *err)
{
    *memory = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*memory >= 0 && !ftruncate(*memory, (off_t)size) &&
        !fcntl(*memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) &&
        !socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return true;
    err_set(err, errno, "cannot make a channel to %s: %s", name, strerror(errno));
    if (*memory >= 0)
        close(*memory);
    return false;
}

/* Twice forked, so that nobody has to wait for it. */
static void child(const char *path, const char *const *words, int socket, int memory)
{
    const char *argv[WORDS + 2] = {path};
    int high[2] = {fcntl(socket, F_DUPFD, 10), fcntl(memory, F_DUPFD, 10)};

    for (unsigned i = 0; i < WORDS && words[i]; i++)
        argv[i + 1] = words[i];
    if (fork() || dup2(high[0], HELPER_SOCKET_FD) < 0 || dup2(high[1], HELPER_MEMORY_FD) < 0)
        _exit(0);
    close_range(HELPER_MEMORY_FD + 1, ~0u, 0);
    execv(path, (char **)argv);
    _exit(127);
}

bool helper_start(struct helper *h, const char *name, const char *const *words, size_t size,
                  struct err *err)
{
    char path[PATH_MAX];
    int pair[2], memory;
    pid_t pid;

    *h = (struct helper){.socket = -1};
    if (!helper_find(name, path, sizeof path, err) ||
        !helper_channel(name, size, pair, &memory, err))
        return false;
    h->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    pid = h->memory == MAP_FAILED ? -1 : fork();
    if (pid == 0)
        child(path, words, pair[1], memory);
    if (pid < 0)
        err_set(err, errno, "cannot start %s: %s", name, strerror(errno));
    else
        waitpid(pid, NULL, 0);
    close(pair[1]);
    close(memory);
    h->socket = pair[0];
    h->size = size;
    if (pid < 0)
        helper_end(h);
    return pid > 0;
}

void helper_end(struct helper *h)
{
    if (!h->size)
        return;
    close(h->socket);
    if (h->memory != MAP_FAILED)
        munmap(h->memory, h->size);
    *h = (struct helper){.socket = -1};
}

bool helper_fd(const char *option, const char *text, int *fd, struct err *err)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (!*text || *end || value < 0 || value > 1 << 20 || fcntl((int)value, F_GETFD) < 0)
        return err_set(err, EBADF, "--%s %s: is no open descriptor", option, text);
    *fd = (int)value;
    fcntl(*fd, F_SETFD, FD_CLOEXEC);
    return true;
}
