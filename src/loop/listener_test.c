/* SPDX-License-Identifier: MIT */
#include "loop/listener.h"
#include "base/clock.h"
#include "tap.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct loop *l;
static struct listener s;
static unsigned called;
static int accepted = -1;
static char path[64];

static void ready(struct watch *w, uint32_t events)
{
    (void)w;
    (void)events;
    called++;
    accepted = listener_accept(&s);
}

static int dial(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(to.sun_path, path);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

static void turns(uint64_t ns)
{
    for (uint64_t end = now_ns() + ns; now_ns() < end && accepted < 0;)
        loop_turn(l, 20000000);
}

static void test_paths(void)
{
    struct err err;
    FILE *file;
    char text[200];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    ok(listen_unix(text, 1, &err) < 0 && err.code == ENAMETOOLONG, "%s", err.text + 190);
    file = fopen(path, "w");
    fclose(file);
    ok(listen_unix(path, 1, &err) < 0 && err.code == EEXIST, "%s", err.text);
    unlink(path);
}

static void test_stale(void)
{
    struct err err;
    int fd = listen_unix(path, 1, &err);

    ok(fd >= 0 && listen_unix(path, 1, &err) < 0 && err.code == EADDRINUSE, "%s", err.text);
    close(fd); /* as a killed process leaves it */
    fd = listen_unix(path, 1, &err);
    ok(fd >= 0, "a socket that nobody listens on is replaced");
    ok(listener_open(&s, l, fd, ready, &err), "open");
}

/* Without descriptors the connection waits, and the loop sleeps. */
static void test_no_descriptors(void)
{
    struct rlimit old, none = {0};
    int fd = dial(), spare = dup(fd);

    getrlimit(RLIMIT_NOFILE, &old);
    none.rlim_max = old.rlim_max;
    none.rlim_cur = (rlim_t)spare;
    close(spare);
    setrlimit(RLIMIT_NOFILE, &none);
    called = 0;
    turns(350000000);
    ok(accepted < 0 && called >= 1 && called <= 8, "out of descriptors: asked %u times", called);
    setrlimit(RLIMIT_NOFILE, &old);
    turns(5000000000);
    ok(accepted >= 0, "accepted when there are some again");
    close(accepted);
    close(fd);
}

int main(void)
{
    struct err err;

    snprintf(path, sizeof path, "/tmp/hull-listener-%d", getpid());
    l = loop_open(&err);
    test_paths();
    test_stale();
    test_no_descriptors();
    listener_close(&s);
    listener_close(&s);
    ok(dial() < 0, "closed");
    unlink(path);
    loop_close(l);
    return tap_done();
}
