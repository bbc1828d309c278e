/* SPDX-License-Identifier: MIT */
/* Starts virtiofsd for a --share: the C one that comes with QEMU, or the later one in Rust.
 *
 * Both want to be root. A user is, in a user namespace of their own, where root is that user: all
 * files are theirs. What is read-only is so by a mount that only virtiofsd sees. */
#include "hull.h"
#include "share.h"
#include "virtio/vhost_user_wire.h"
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_S = 10 };

/* In the order in which they are better. */
static const char *const places[] = {"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd",
                                     "/usr/local/bin/virtiofsd", "/usr/lib/qemu/virtiofsd"};

const char *virtiofsd_path(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
        if (!access(places[i], X_OK))
            return places[i];
    return NULL;
}

/* ---- in the child ---- */

struct place {
    const struct config_share *share;
    const char *user;
};

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return good;
}

static bool become(const char *user)
{
    const struct passwd *p = getpwnam(user);

    /* Dumpable, or /proc/self stays root's and its maps cannot be written. */
    return p && !setgroups(0, NULL) && !setgid(p->pw_gid) && !setuid(p->pw_uid) &&
           !prctl(PR_SET_DUMPABLE, 1);
}

static bool own_namespace(void)
{
    char uid[32], gid[32];

    snprintf(uid, sizeof uid, "0 %u 1", geteuid());
    snprintf(gid, sizeof gid, "0 %u 1", getegid());
    return !unshare(CLONE_NEWUSER | CLONE_NEWNS) && write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/uid_map", uid) && write_text("/proc/self/gid_map", gid);
}

/* A mount over itself takes the flags that those of a namespace around ours cannot lose. */
static bool make_readonly(const char *dir)
{
    const unsigned long keep = MS_NOSUID | MS_NODEV;

    return !unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) &&
           !mount(dir, dir, NULL, MS_BIND, NULL) &&
           (!mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) ||
            !mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | keep, NULL));
}

static bool prepare(void *arg)
{
    const struct place *p = arg;
    bool good = !p->user[0] || geteuid() || become(p->user);

    good = good && (!geteuid() || own_namespace());
    good = good && (!p->share->readonly || make_readonly(p->share->dir));
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* which a change of rights clears */
    if (!good)
        fprintf(stderr, "hull: --share %s: virtiofsd cannot be given its rights: %s\n",
                p->share->dir, strerror(errno));
    else /* it complains of every machine's end; whether it works we see */
        good = freopen("/dev/null", "w", stderr) != NULL;
    return good;
}

/* ---- */

/* A listening socket without a name in the file system, and a connection to it. */
static bool open_sockets(int *listener, int *fd, struct err *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    socklen_t len = sizeof at;

    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener >= 0 && *fd >= 0 &&
        !bind(*listener, (struct sockaddr *)&at, sizeof at.sun_family) && !listen(*listener, 1) &&
        !getsockname(*listener, (struct sockaddr *)&at, &len) &&
        !connect(*fd, (struct sockaddr *)&at, len))
        return true;
    err_set(err, errno, "cannot make a socket for virtiofsd: %s", strerror(errno));
    if (*listener >= 0)
        close(*listener);
    if (*fd >= 0)
        close(*fd);
    return false;
}

static pid_t start_on(const struct config_share *s, const char *user, const char *program,
                      int listener, struct err *err)
{
    bool qemu = strstr(program, "/qemu/") != NULL;
    char fd[32], source[CONFIG_PATH + 16];
    char *old[] = {(char *)program, fd,   "-f",         "-o", source,  "-o",
                   "log_level=err", "-o", "cache=auto", "-o", "xattr", NULL};
    char *new[] = {(char *)program, fd, source, "--log-level", "error", "--xattr", NULL};
    struct place place = {s, user};
    int keep[] = {listener, -1};

    snprintf(fd, sizeof fd, "--fd=%d", listener);
    snprintf(source, sizeof source, "%s=%s", qemu ? "source" : "--shared-dir", s->dir);
    return program_start_prepared(qemu ? old : new, keep, prepare, &place, err);
}

/* virtiofsd answers as soon as it has locked itself in; one that cannot ends. */
static bool answers(int fd)
{
    struct vhost_user_head ask = {VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0};
    struct timeval limit = {.tv_sec = ANSWER_S};
    struct {
        struct vhost_user_head head;
        uint8_t features[8];
    } answer;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return send(fd, &ask, sizeof ask, MSG_NOSIGNAL) == sizeof ask &&
           recv(fd, &answer, sizeof answer, MSG_WAITALL) == sizeof answer;
}

bool share_start_virtiofs(struct config_share *s, const char *user, pid_t *pid, struct err *err)
{
    const char *program = virtiofsd_path();
    int listener, fd;

    if (!program)
        return err_set(err, ENOENT,
                       "--share %s,type=virtiofs: there is no virtiofsd; install it, or type=9p",
                       s->dir);
    if (!open_sockets(&listener, &fd, err))
        return false;
    *pid = start_on(s, user, program, listener, err);
    close(listener);
    if (*pid > 0 && answers(fd)) {
        s->fd = (uint32_t)fd;
        return true;
    }
    close(fd);
    if (*pid <= 0)
        return false;
    kill(*pid, SIGKILL);
    waitpid(*pid, NULL, 0);
    *pid = 0;
    return err_set(err, EIO,
                   "--share %s,type=virtiofs: %s does not work for this user; type=9p does", s->dir,
                   program);
}
