/* SPDX-License-Identifier: MIT */
/* Byte streams on real descriptors: pipes, files, sockets, with a front that has little room. */
#include "dev/chardev.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct front {
    struct chardev_front f;
    char got[8192];
    size_t count, room;
    unsigned writables;
    int connected;
};

static size_t front_room(struct chardev_front *f)
{
    return container_of(f, struct front, f)->room;
}

static void front_receive(struct chardev_front *cf, const uint8_t *bytes, size_t len)
{
    struct front *f = container_of(cf, struct front, f);

    memcpy(f->got + f->count, bytes, len);
    f->count += len;
    f->room -= len;
}

static void front_writable(struct chardev_front *f)
{
    container_of(f, struct front, f)->writables++;
}

static void front_connected(struct chardev_front *f, bool yes)
{
    container_of(f, struct front, f)->connected += yes ? 1 : -1;
}

static const struct chardev_front_ops front_ops = {front_room, front_receive, front_writable,
                                                   front_connected};
static struct loop *loop;
static struct err err;

static struct front new_front(size_t room)
{
    return (struct front){.f.ops = &front_ops, .room = room};
}

static void turn(void)
{
    for (int i = 0; i < 10; i++)
        loop_turn(loop, 0);
}

static bool got(struct front *f, const char *text)
{
    return f->count == strlen(text) && !memcmp(f->got, text, f->count);
}

static void test_pipe(void)
{
    struct front f = new_front(4);
    struct chardev *c;
    int in[2], out[2];
    char bytes[64] = {0};

    if (pipe(in) || pipe(out))
        return;
    c = chardev_open_fd(loop, in[0], out[1], &err);
    ok(c != NULL, "a pair of pipes");
    ok(write(in[1], "abcdefgh", 8) == 8, "8 bytes wait");
    turn();
    ok(f.count == 0, "nobody reads them before there is a front");
    chardev_set_front(c, &f.f);
    turn();
    ok(got(&f, "abcd"), "no more than it has room for");
    f.room = 100;
    chardev_wanted(c);
    turn();
    ok(got(&f, "abcdefgh"), "the rest when asked for");
    ok(chardev_write(c, (const uint8_t *)"out", 3) == 3 && read(out[0], bytes, 64) == 3 &&
           !strcmp(bytes, "out"),
       "output");
    f.room = 0;
    ok(write(in[1], "last words", 10) == 10, "bytes, then the end,");
    close(in[1]);
    turn();
    f.room = 100;
    chardev_wanted(c);
    turn();
    ok(got(&f, "abcdefghlast words"), "while there was no room: none is lost");
    chardev_close(c);
    ok(fcntl(in[0], F_GETFD) < 0 && fcntl(out[1], F_GETFD) < 0, "closed");
    close(out[0]);
}

static void test_full_pipe(void)
{
    static uint8_t block[65536 * 2], back[65536 * 2];
    struct front f = new_front(0);
    struct chardev *c;
    int out[2];
    size_t sent, read_back;
    ssize_t n;

    if (pipe(out))
        return;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)(i * 7);
    c = chardev_open_fd(loop, -1, out[1], &err);
    chardev_set_front(c, &f.f);
    sent = chardev_write(c, block, sizeof block);
    ok(sent > 0 && sent < sizeof block, "a pipe that nobody reads takes %zu bytes, no wait", sent);
    turn();
    ok(f.writables == 0, "not writable");
    read_back = 0;
    while (read_back < sizeof block && (n = read(out[0], back + read_back, 16384)) > 0) {
        read_back += (size_t)n;
        turn();
        if (sent < sizeof block)
            sent += chardev_write(c, block + sent, sizeof block - sent);
    }
    ok(f.writables > 0 && sent == sizeof block && !memcmp(block, back, sizeof block),
       "writable as it is read; all bytes arrive in order");
    close(out[0]);
    ok(chardev_write(c, block, 100) == 100, "a reader that went: bytes vanish, no signal");
    turn();
    chardev_close(c);
}

static void test_files(const char *directory)
{
    char path[128], spec[160];
    struct front f = new_front(100);
    struct chardev *c;
    char bytes[16] = {0};
    int fd;

    snprintf(path, sizeof path, "%s/log", directory);
    snprintf(spec, sizeof spec, "file:%s", path);
    c = chardev_open(loop, spec, &err);
    ok(c && chardev_write(c, (const uint8_t *)"to disk", 7) == 7, "a file");
    chardev_close(c);
    fd = open(path, O_RDONLY);
    ok(read(fd, bytes, sizeof bytes) == 7 && !strcmp(bytes, "to disk"), "has the bytes");
    lseek(fd, 0, SEEK_SET);
    c = chardev_open_fd(loop, fd, -1, &err);
    chardev_set_front(c, &f.f);
    turn();
    ok(got(&f, "to disk"), "and is input too, though epoll refuses it");
    chardev_close(c);
    unlink(path);
    c = chardev_open(loop, "none", &err);
    ok(c && chardev_write(c, (const uint8_t *)"x", 1) == 1, "none takes and drops output");
    chardev_close(c);
    c = chardev_open_fd(loop, open("/dev/null", O_RDONLY), open("/dev/null", O_WRONLY), &err);
    chardev_set_front(c, &f.f);
    turn();
    ok(c && chardev_write(c, (const uint8_t *)"x", 1) == 1, "/dev/null");
    chardev_close(c);
    ok(!chardev_open(loop, "file:/nonexistent/x", &err) && strstr(err.text, "/nonexistent/x"), "%s",
       err.text);
    ok(!chardev_open(loop, "sereal", &err) && err.code == EINVAL, "%s", err.text);
    ok(!chardev_open(loop, "fd:999", &err) && !chardev_open(loop, "fd:", &err), "%s", err.text);
}

static int client(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    close(fd);
    return -1;
}

static void test_unix(const char *directory)
{
    char path[100], bytes[16] = {0};
    struct front f = new_front(100);
    struct chardev *c, *second;
    int a, b;

    snprintf(path, sizeof path, "%s/socket", directory);
    c = chardev_open_unix(loop, path, &err);
    if (!ok(c != NULL, "listens"))
        return;
    chardev_set_front(c, &f.f);
    ok(chardev_write(c, (const uint8_t *)"lost", 4) == 4, "nobody there: output is dropped");
    second = chardev_open_unix(loop, path, &err);
    ok(!second && err.code == EADDRINUSE, "a live socket is not taken: %s", err.text);
    turn();
    turn();
    f.connected = 0;
    a = client(path);
    turn();
    ok(f.connected == 1, "a client");
    ok(write(a, "hi", 2) == 2 && (turn(), got(&f, "hi")), "says something");
    ok(chardev_write(c, (const uint8_t *)"yes?", 4) == 4 && read(a, bytes, 16) == 4, "and hears");
    b = client(path);
    ok(write(b, "me too", 6) == 6 && (turn(), got(&f, "hi")), "a second client waits");
    close(a);
    turn();
    ok(got(&f, "hime too") && f.connected == 1, "until the first has gone");
    close(b);
    turn();
    ok(f.connected == 0, "gone");
    chardev_close(c);
    ok(access(path, F_OK) != 0, "the path is removed");
    a = socket(AF_UNIX, SOCK_STREAM, 0);
    if (a >= 0) { /* a stale socket: bound, then its owner died */
        struct sockaddr_un addr = {.sun_family = AF_UNIX};

        snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
        ok(bind(a, (struct sockaddr *)&addr, sizeof addr) == 0, "a stale socket");
        close(a);
    }
    c = chardev_open_unix(loop, path, &err);
    ok(c != NULL, "is replaced");
    chardev_close(c);
    memset(path, 'x', sizeof path - 1);
    snprintf(bytes, sizeof bytes, "%s", "/");
    ok(!chardev_open(loop, "unix:/nonexistent/x", &err), "%s", err.text);
}

static void test_socket_fd(void)
{
    struct front f = new_front(100);
    struct chardev *c;
    int s[2];
    char bytes[16] = {0};

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
        return;
    c = chardev_open_fd(loop, s[0], s[0], &err);
    chardev_set_front(c, &f.f);
    ok(write(s[1], "ping", 4) == 4 && (turn(), got(&f, "ping")), "one socket, both directions");
    ok(chardev_write(c, (const uint8_t *)"pong", 4) == 4 && read(s[1], bytes, 16) == 4, "both");
    close(s[1]);
    turn();
    ok(chardev_write(c, (const uint8_t *)"?", 1) == 1, "the other end has gone: bytes vanish");
    loop_turn(loop, 0);
    chardev_close(c);
}

int main(void)
{
    char directory[] = "/tmp/hull-chardev-XXXXXX";

    signal(SIGPIPE, SIG_IGN); /* as every hull program does */
    loop = loop_open(&err);
    if (!loop || !mkdtemp(directory))
        return 1;
    test_pipe();
    test_full_pipe();
    test_files(directory);
    test_unix(directory);
    test_socket_fd();
    rmdir(directory);
    loop_close(loop);
    return tap_done();
}
