/* SPDX-License-Identifier: MIT */
/* hull-9p: one directory for one machine's guest, in a process of its own.
 *
 * The machine's virtio-9p device is at the other end of a socket pair and puts requests into
 * memory that both have: see virtio/9p_link.h. A few threads take them in turns, so a slow file
 * holds up nobody else. Order matters: the directory, the fence, word to the parent, then the first
 * request. We end when the socket closes or the parent dies. */
#include "fence.h"
#include "server.h"
#include "base/helper.h"
#include "base/log.h"
#include "virtio/9p_link.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 4 };

struct options {
    int root, link, area;
    bool readonly;
    const char *user;
};

static const char help[] =
    "Usage: hull-9p --root-fd N --link-fd N --area-fd N [--readonly] [--user NAME]\n"
    "\n"
    "Serves a directory to the guest of a machine by 9P2000.L. hull run starts one for each\n"
    "--share DIR:TAG of type 9p; it is of no use by hand. See man hull-run, --share.\n"
    "\n"
    "  --root-fd N   the directory\n"
    "  --link-fd N   the machine's requests: one end of a socket pair\n"
    "  --area-fd N   memory shared with the machine\n"
    "  --readonly    nothing is changed\n"
    "  --user NAME   when root: become this user\n"
    "\n"
    "Example: hull run debian.img --share /srv/data:data,type=9p\n";

/* ---- serving ---- */

static struct {
    struct server *server;
    int link;
    uint8_t *area;
    pthread_mutex_t turn; /* to receive: a request is known before the next one is taken */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    struct {
        bool busy;
        uint16_t tag;
        uint64_t number; /* in the order of arrival */
    } slot[P9_LINK_SLOTS];
    uint64_t taken;
} link_state = {.turn = PTHREAD_MUTEX_INITIALIZER,
                .lock = PTHREAD_MUTEX_INITIALIZER,
                .answered = PTHREAD_COND_INITIALIZER};

static uint8_t *request_of(uint32_t slot)
{
    return link_state.area + (size_t)slot * P9_LINK_SLOT;
}

/* Takes the next request and marks its slot; false: the machine is gone, or makes no sense. */
static bool take(struct p9_link_message *m, uint64_t *number)
{
    bool good;
    ssize_t n;

    do
        n = recv(link_state.link, m, sizeof *m, 0);
    while (n < 0 && errno == EINTR);
    if (n != sizeof *m || m->slot >= P9_LINK_SLOTS || m->len > P9_LINK_HALF || m->len < P9_HEADER ||
        m->room > P9_LINK_HALF)
        return false;
    pthread_mutex_lock(&link_state.lock);
    good = !link_state.slot[m->slot].busy;
    link_state.slot[m->slot].busy = true;
    link_state.slot[m->slot].tag = le16(request_of(m->slot) + 5);
    link_state.slot[m->slot].number = *number = link_state.taken++;
    pthread_mutex_unlock(&link_state.lock);
    return good;
}

/* To pass the turn on wakes a thread, which costs more than most requests do. So a request that
 * seldom waits for a disk is answered first, if no other is there by then. */
static bool keeps_turn(const struct p9_link_message *m)
{
    uint8_t byte;

    switch (request_of(m->slot)[4]) {
    case P9_READ:
    case P9_WRITE:
    case P9_FSYNC:
    case P9_FLUSH: return false;
    }
    return recv(link_state.link, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

static bool under_way_locked(uint16_t tag, uint64_t before)
{
    for (unsigned i = 0; i < P9_LINK_SLOTS; i++)
        if (link_state.slot[i].busy && link_state.slot[i].tag == tag &&
            link_state.slot[i].number < before)
            return true;
    return false;
}

/* A flush is answered after what it flushes. That came earlier, so nobody waits in a circle. */
static void wait_flushed(const uint8_t *request, uint32_t len, uint64_t number)
{
    uint16_t old;

    if (len < P9_HEADER + 2 || request[4] != P9_FLUSH)
        return;
    old = le16(request + P9_HEADER);
    pthread_mutex_lock(&link_state.lock);
    while (under_way_locked(old, number))
        pthread_cond_wait(&link_state.answered, &link_state.lock);
    pthread_mutex_unlock(&link_state.lock);
}

static bool answer(struct p9_link_message m, uint64_t number)
{
    uint8_t *request = request_of(m.slot);
    ssize_t n;

    wait_flushed(request, m.len, number);
    m.len =
        (uint32_t)server_handle(link_state.server, request, m.len, request + P9_LINK_HALF, m.room);
    m.room = 0;
    pthread_mutex_lock(&link_state.lock);
    link_state.slot[m.slot].busy = false;
    n = send(link_state.link, &m, sizeof m, MSG_NOSIGNAL);
    pthread_cond_broadcast(&link_state.answered);
    pthread_mutex_unlock(&link_state.lock);
    return n == sizeof m;
}

static void *serve(void *unused)
{
    struct p9_link_message m;
    uint64_t number;
    bool good;

    pthread_mutex_lock(&link_state.turn);
    do {
        bool keep;

        good = take(&m, &number);
        keep = good && keeps_turn(&m);
        if (!keep)
            pthread_mutex_unlock(&link_state.turn);
        good = good && answer(m, number);
        if (!keep)
            pthread_mutex_lock(&link_state.turn);
    } while (good);
    _exit(0); /* one that ends ends all */
}

/* ---- beginning ---- */

static bool parse_options(struct options *o, int argc, char **argv, struct err *err)
{
    static const struct option longs[] = {
        {"root-fd", required_argument, NULL, 0},
        {"link-fd", required_argument, NULL, 1},
        {"area-fd", required_argument, NULL, 2},
        {"readonly", no_argument, NULL, 'r'},
        {"user", required_argument, NULL, 'u'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int *const to[] = {&o->root, &o->link, &o->area};
    int c;

    *o = (struct options){.root = -1, .link = -1, .area = -1};
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 0:
        case 1:
        case 2:
            if (!helper_fd(longs[c].name, optarg, to[c], err))
                return false;
            break;
        case 'r': o->readonly = true; break;
        case 'u': o->user = optarg; break;
        case 'h': fputs(help, stdout); exit(0);
        default:
            return err_set(err, EINVAL, "%s: unknown, or its value is missing", argv[optind - 1]);
        }
    }
    if (optind < argc)
        return err_set(err, EINVAL, "%s: unknown argument", argv[optind]);
    return (o->root >= 0 && o->link >= 0 && o->area >= 0) ||
           err_set(err, EINVAL, "--root-fd, --link-fd and --area-fd are needed: see --help");
}

static bool map_area(int fd, struct err *err)
{
    struct stat st;
    void *at = MAP_FAILED;

    if (!fstat(fd, &st) && st.st_size == P9_LINK_BYTES)
        at = mmap(NULL, P9_LINK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return err_set(err, EINVAL, "--area-fd: is not memory of %d bytes", P9_LINK_BYTES);
    link_state.area = at;
    close(fd);
    return true;
}

static bool start_threads(struct err *err)
{
    pthread_t thread;

    for (unsigned i = 1; i < THREADS; i++)
        if (pthread_create(&thread, NULL, serve, NULL))
            return err_set(err, EAGAIN, "cannot start a thread");
    return true;
}

/* The threads are started with `turn` taken, and wait for it until all fences are up. */
static bool begin(const struct options *o, struct err *err)
{
    struct p9_link_message ready = {.slot = P9_LINK_READY};
    int proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);

    umask(0);
    link_state.link = o->link;
    if (proc < 0 || fchdir(proc)) /* whose names are those of xattr calls: see attr.c */
        return err_set(err, errno, "/proc/self/fd: %s; is /proc mounted?", strerror(errno));
    if (!map_area(o->area, err) || !fence_files(o->root, o->readonly, o->user, err))
        return false;
    link_state.server = server_open(o->root, proc, o->readonly);
    if (!link_state.server)
        return err_set(err, errno, "cannot serve the directory: %s (Linux 5.6 is needed)",
                       strerror(errno));
    pthread_mutex_lock(&link_state.turn);
    if (!start_threads(err) || !fence_calls(proc, err))
        return false;
    if (send(o->link, &ready, sizeof ready, MSG_NOSIGNAL) != sizeof ready)
        return err_set(err, errno, "the machine is gone");
    pthread_mutex_unlock(&link_state.turn);
    return true;
}

int main(int argc, char **argv)
{
    pid_t parent = getppid();
    struct options o;
    struct err err;

    log_setup("hull-9p", LOG_WARN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file over a limit is the guest's error, not our end */
    if (!parse_options(&o, argc, argv, &err)) {
        log_error("%s", err.text);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        return 1;
    if (!begin(&o, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    serve(NULL);
}
