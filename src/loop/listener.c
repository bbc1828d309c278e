/* SPDX-License-Identifier: MIT */
/* Listening sockets: see listener.h. */
#include "loop/listener.h"
#include "base/clock.h"
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REST_NS 100000000

static void rested(struct timer *t)
{
    listener_resume(container_of(t, struct listener, retry));
}

/* A socket that nobody listens on any more is what a killed process leaves: it may go. Connecting
 * to a file of another kind is refused too: that one stays. */
static bool remove_stale(const struct sockaddr_un *to, struct err *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool live =
        fd >= 0 && (!connect(fd, (const struct sockaddr *)to, sizeof *to) || errno == EAGAIN);
    bool stale = !live && errno == ECONNREFUSED;
    struct stat st;

    if (fd >= 0)
        close(fd);
    if (!lstat(to->sun_path, &st) && !S_ISSOCK(st.st_mode))
        return err_set(err, EEXIST, "%s: is a file, not a socket; choose another path",
                       to->sun_path);
    if (live)
        return err_set(err, EADDRINUSE, "%s: another process listens there; choose another path",
                       to->sun_path);
    return !stale || !unlink(to->sun_path) ||
           err_set(err, errno, "%s: cannot replace the old socket: %s", to->sun_path,
                   strerror(errno));
}

int listen_unix(const char *path, int backlog, struct err *err)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof to.sun_path) {
        err_set(err, ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path,
                sizeof to.sun_path - 1);
        return -1;
    }
    strcpy(to.sun_path, path);
    if (!remove_stale(&to, err))
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&to, sizeof to) && !listen(fd, backlog))
        return fd;
    err_set(err, errno, "%s: %s; choose another path", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

bool listener_open(struct listener *s, struct loop *loop, int fd,
                   void (*ready)(struct watch *w, uint32_t events), struct err *err)
{
    *s = (struct listener){
        .watch = {.fd = fd, .events = EPOLLIN, .ready = ready},
        .retry = {.fire = rested},
        .loop = loop,
    };
    if (loop_watch(loop, &s->watch, err))
        return true;
    listener_close(s);
    return false;
}

int listener_accept(struct listener *s)
{
    int fd = accept4(s->watch.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
        /* The connection stays in the backlog, so epoll would say so without end. */
        listener_pause(s);
        loop_at(s->loop, &s->retry, now_ns() + REST_NS);
    }
    return fd;
}

void listener_pause(struct listener *s)
{
    loop_rewatch(s->loop, &s->watch, 0);
}

void listener_resume(struct listener *s)
{
    loop_rewatch(s->loop, &s->watch, EPOLLIN);
}

void listener_close(struct listener *s)
{
    if (s->watch.fd <= 0)
        return;
    loop_cancel(s->loop, &s->retry);
    loop_forget(s->loop, &s->watch);
    close(s->watch.fd);
    s->watch.fd = -1;
}
