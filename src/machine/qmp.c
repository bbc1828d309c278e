/* SPDX-License-Identifier: MIT */
/* QMP's connections: framing, negotiation, answers, events. What commands do is in commands.c. */
#include "machine/qmp.h"
#include "loop/listener.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define CLIENTS_MAX 8
#define REQUEST_MAX (1 * MiB)
#define OUTPUT_MAX  (4 * MiB) /* a client that reads no more is dropped */
#define FDS_MAX     16        /* that clients have passed and nobody has taken */

struct client {
    struct watch watch;
    struct qmp *qmp;
    int fd; /* passed with the last bytes, not yet named by getfd; -1: none */
    bool used, negotiated;
    bool essential; /* hull's own connection: its end ends the machine */
    char *in, *out;
    size_t in_len, in_size, out_len, out_size;
    /* framing: where in `in` the scan stands, nesting depth, inside a string, after a backslash */
    size_t scan;
    unsigned depth;
    bool string, backslash;
};

struct qmp {
    struct machine *machine;
    struct listener listener;
    char path[108];
    struct passed_fd {
        char name[64]; /* empty: free */
        int fd;
    } passed[FDS_MAX];
    bool busy; /* a command runs, and may turn the loop: nobody is heard meanwhile */
    struct client client[CLIENTS_MAX];
};

static void drop(struct client *c)
{
    bool essential = c->essential;
    struct machine *m;

    if (!c->used)
        return;
    m = c->qmp->machine;
    loop_forget(m->loop, &c->watch);
    close(c->watch.fd);
    if (c->fd >= 0)
        close(c->fd);
    free(c->in);
    free(c->out);
    memset(c, 0, sizeof *c);
    if (essential)
        machine_quit(m, MACHINE_FAILED, "host-signal");
}

/* What to wait for. Nothing is read while the machine is in the middle of a change. */
static uint32_t wanted(const struct client *c)
{
    bool deaf = c->qmp->busy || c->qmp->machine->changing;

    return (deaf ? 0 : EPOLLIN) | (c->out_len ? EPOLLOUT : 0);
}

static void flush(struct client *c)
{
    size_t done = 0;

    while (done < c->out_len) {
        ssize_t n =
            send(c->watch.fd, c->out + done, c->out_len - done, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    memmove(c->out, c->out + done, c->out_len - done);
    c->out_len -= done;
    loop_rewatch(c->qmp->machine->loop, &c->watch, wanted(c));
}

/* Appends to a growing buffer; false when out of memory or over `max`. */
static bool append(char **buffer, size_t *len, size_t *size, const char *bytes, size_t count,
                   size_t max)
{
    if (*len + count > max)
        return false;
    if (*len + count > *size) {
        size_t want = (*len + count) * 2;
        char *bigger = realloc(*buffer, want);

        if (!bigger)
            return false;
        *buffer = bigger;
        *size = want;
    }
    memcpy(*buffer + *len, bytes, count);
    *len += count;
    return true;
}

/* Sends and releases one object. False: the client was dropped. */
static bool answer(struct client *c, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    bool good = text &&
                append(&c->out, &c->out_len, &c->out_size, text, strlen(text), OUTPUT_MAX) &&
                append(&c->out, &c->out_len, &c->out_size, "\r\n", 2, OUTPUT_MAX);

    free(text);
    json_decref(object);
    if (good)
        flush(c);
    else
        drop(c);
    return good;
}

/* The text may be a cut one, or name a file in another encoding. */
static json_t *error_object(const char *class, const char *text)
{
    json_t *desc = json_string(text);

    if (!desc)
        desc = json_string("the reason is not UTF-8 text");
    return json_pack("{s:{s:s, s:o}}", "error", "class", class, "desc", desc);
}

/* Whoever spoke while nobody was heard is heard now. */
static void qmp_hear(struct qmp *q)
{
    struct loop *l = q->machine->loop;

    q->busy = false;
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (q->client[i].used)
            loop_rewatch(l, &q->client[i].watch, wanted(&q->client[i]));
    if (q->listener.watch.active)
        listener_resume(&q->listener);
}

/* ---- descriptors: as QEMU's getfd and closefd ---- */

static struct passed_fd *find_fd(struct qmp *q, const char *name)
{
    for (unsigned i = 0; i < FDS_MAX; i++)
        if (!strcmp(q->passed[i].name, name))
            return &q->passed[i];
    return NULL;
}

int qmp_take_fd(struct qmp *q, const char *name, struct err *err)
{
    struct passed_fd *p = *name ? find_fd(q, name) : NULL;

    if (!p) {
        err_set(err, ENOENT, "File descriptor named '%.64s' not found", name);
        return -1;
    }
    p->name[0] = 0;
    return p->fd;
}

static bool name_fd(struct client *c, const char *name, struct err *err)
{
    struct passed_fd *p;

    if (c->fd < 0)
        return err_set(err, EINVAL, "No file descriptor supplied via SCM_RIGHTS");
    if (!name || !*name || strlen(name) >= sizeof p->name)
        return err_set(err, EINVAL, "Parameter 'fdname' must be 1 to %zu characters",
                       sizeof p->name - 1);
    p = find_fd(c->qmp, name);
    if (p)
        close(p->fd);
    else
        p = find_fd(c->qmp, "");
    if (!p)
        return err_set(err, ENOSPC, "%d descriptors wait to be used already", FDS_MAX);
    strcpy(p->name, name);
    p->fd = c->fd;
    c->fd = -1;
    return true;
}

static json_t *fd_command(struct client *c, bool get, const char *fdname)
{
    struct err err = {0};
    int fd = -1;

    if (get ? name_fd(c, fdname, &err)
            : (fd = qmp_take_fd(c->qmp, fdname ? fdname : "", &err)) >= 0) {
        if (fd >= 0)
            close(fd);
        return json_pack("{s:{}}", "return");
    }
    return error_object("GenericError", err.text);
}

static const struct qmp_command *find_command(const char *name)
{
    for (const struct qmp_command *const *t = qmp_tables; *t; t++)
        for (const struct qmp_command *q = *t; q->name; q++)
            if (!strcmp(q->name, name))
                return q;
    return NULL;
}

static json_t *run_command(struct client *c, const char *name, json_t *args)
{
    const struct qmp_command *q;
    struct err err = {0};
    json_t *result;

    if (!strcmp(name, "qmp_capabilities")) {
        c->negotiated = true;
        return json_pack("{s:{}}", "return");
    }
    if (!c->negotiated)
        return error_object("CommandNotFound",
                            "Expecting capabilities negotiation with 'qmp_capabilities'");
    if (!strcmp(name, "getfd") || !strcmp(name, "closefd"))
        return fd_command(c, *name == 'g', json_string_value(json_object_get(args, "fdname")));
    q = find_command(name);
    if (q) {
        c->qmp->busy = true;
        result = q->run(c->qmp->machine, args, &err);
        qmp_hear(c->qmp);
        if (result)
            return json_pack("{s:o}", "return", result);
        return error_object(err.code == ENOENT   ? "DeviceNotFound"
                            : err.code == ENODEV ? "DeviceNotActive"
                                                 : "GenericError",
                            err.text);
    }
    err_set(&err, ENOSYS, "The command %.64s has not been found", name);
    return error_object("CommandNotFound", err.text);
}

static json_t *obey(struct client *c, json_t *request)
{
    json_t *args = json_object_get(request, "arguments");
    const char *name = json_string_value(json_object_get(request, "execute"));

    if (!json_is_object(request) || !name)
        return error_object("GenericError",
                            "QMP input must be an object with a text member 'execute'");
    if (args && !json_is_object(args))
        return error_object("GenericError", "QMP input member 'arguments' must be an object");
    return run_command(c, name, args);
}

static bool take_request(struct client *c, size_t len)
{
    json_error_t why;
    json_t *request = json_loadb(c->in, len, 0, &why), *id, *reply;

    memmove(c->in, c->in + len, c->in_len - len);
    c->in_len -= len;
    c->scan = 0;
    if (!request)
        return answer(c, error_object("GenericError", "JSON parse error"));
    id = json_object_get(request, "id");
    reply = obey(c, request);
    if (reply && id)
        json_object_set(reply, "id", id);
    json_decref(request);
    if (c->used)
        return answer(c, reply);
    json_decref(reply); /* dropped by an event that it would not read */
    return false;
}

/* Moves the scan over one byte; true at the end of a top-level object. */
static bool scan_byte(struct client *c, char byte)
{
    if (c->string) {
        if (!c->backslash && byte == '"')
            c->string = false;
        c->backslash = !c->backslash && byte == '\\';
        return false;
    }
    if (byte == '"')
        c->string = true;
    if (byte == '{' || byte == '[')
        c->depth++;
    if ((byte == '}' || byte == ']') && c->depth)
        return --c->depth == 0;
    return c->depth == 0 && byte == '\n'; /* junk outside any object: reported at its line's end */
}

static void take_requests(struct client *c)
{
    while (c->used && c->scan < c->in_len) {
        bool end = scan_byte(c, c->in[c->scan++]);
        size_t blank = 0;

        if (!end)
            continue;
        while (blank < c->scan && strchr(" \t\r\n", c->in[blank]))
            blank++;
        if (blank == c->scan) { /* white space between requests */
            memmove(c->in, c->in + blank, c->in_len - blank);
            c->in_len -= blank;
            c->scan = 0;
        } else if (!take_request(c, c->scan))
            return;
    }
}

/* As recv; keeps a descriptor that came along, the last of several. */
static ssize_t receive(struct client *c, char *bytes, size_t len)
{
    struct iovec iov = {bytes, len};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    ssize_t got = recvmsg(c->watch.fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *m = got > 0 ? CMSG_FIRSTHDR(&h) : NULL;

    if (m && m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS &&
        m->cmsg_len >= CMSG_LEN(sizeof(int)))
        for (size_t at = CMSG_LEN(0); at + sizeof c->fd <= m->cmsg_len; at += sizeof c->fd) {
            if (c->fd >= 0)
                close(c->fd);
            memcpy(&c->fd, (uint8_t *)m + at, sizeof c->fd);
        }
    return got;
}

static void client_ready(struct watch *w, uint32_t events)
{
    struct client *c = container_of(w, struct client, watch);
    char bytes[4096];
    ssize_t got;

    if (events & EPOLLOUT)
        flush(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    if (!(wanted(c) & EPOLLIN)) { /* a nested turn: qmp_changed or qmp_hear will come */
        loop_rewatch(c->qmp->machine->loop, w, wanted(c));
        return;
    }
    got = receive(c, bytes, sizeof bytes);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || !append(&c->in, &c->in_len, &c->in_size, bytes, (size_t)got, REQUEST_MAX))
        drop(c);
    else
        take_requests(c);
}

static json_t *greeting(void)
{
    return json_pack("{s:{s:{s:{s:i, s:i, s:i}, s:s}, s:[]}}", "QMP", "version", "qemu", "major", 7,
                     "minor", 2, "micro", 0, "package", "hull-" HULL_VERSION, "capabilities");
}

static bool client_start(struct qmp *q, int fd, bool essential, struct err *err)
{
    struct client *c = NULL;

    for (unsigned i = 0; i < CLIENTS_MAX && !c; i++)
        if (!q->client[i].used)
            c = &q->client[i];
    if (!c) {
        close(fd);
        return err_set(err, EBUSY, "QMP has %d clients already", CLIENTS_MAX);
    }
    memset(c, 0, sizeof *c);
    c->fd = -1;
    c->watch = (struct watch){.fd = fd, .events = EPOLLIN, .ready = client_ready};
    c->qmp = q;
    if (!loop_watch(q->machine->loop, &c->watch, err)) {
        close(fd);
        return false;
    }
    c->used = true;
    if (answer(c, greeting()))
        c->essential = essential;
    return true;
}

bool qmp_add_client(struct qmp *q, int fd, struct err *err)
{
    return client_start(q, fd, true, err);
}

static void listener_ready(struct watch *w, uint32_t events)
{
    struct qmp *q = container_of(w, struct qmp, listener.watch);
    struct err err;
    int fd;

    if (q->busy || q->machine->changing) {
        listener_pause(&q->listener);
        return;
    }
    fd = listener_accept(&q->listener);
    if (fd >= 0 && !client_start(q, fd, false, &err))
        log_warn("%s", err.text);
}

static bool start_listening(struct qmp *q, const char *path, struct err *err)
{
    int fd = listen_unix(path, 4, err);

    if (fd < 0)
        return err_wrap(err, "--qmp ");
    snprintf(q->path, sizeof q->path, "%s", path);
    return listener_open(&q->listener, q->machine->loop, fd, listener_ready, err);
}

struct qmp *qmp_open(struct machine *m, const char *path, struct err *err)
{
    struct qmp *q = calloc(1, sizeof *q);

    if (!q) {
        err_set(err, ENOMEM, "no memory for QMP");
        return NULL;
    }
    q->machine = m;
    if (*path && !start_listening(q, path, err)) {
        qmp_close(q);
        return NULL;
    }
    return q;
}

void qmp_close(struct qmp *q)
{
    if (!q)
        return;
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        q->client[i].essential = false;
        drop(&q->client[i]);
    }
    listener_close(&q->listener);
    for (unsigned i = 0; i < FDS_MAX; i++)
        if (q->passed[i].name[0])
            close(q->passed[i].fd);
    if (q->path[0])
        unlink(q->path);
    free(q);
}

static json_t *event_object(const char *name)
{
    struct timeval now;

    gettimeofday(&now, NULL);
    return json_pack("{s:s, s:{s:I, s:I}}", "event", name, "timestamp", "seconds",
                     (json_int_t)now.tv_sec, "microseconds", (json_int_t)now.tv_usec);
}

bool qmp_busy(const struct qmp *q)
{
    return q && q->busy;
}

void qmp_changed(struct qmp *q)
{
    if (q && !q->busy)
        qmp_hear(q);
}

void qmp_event(struct qmp *q, const char *name, const char *data, ...)
{
    json_t *event;
    va_list ap;

    if (!q)
        return;
    event = event_object(name);
    if (data) {
        va_start(ap, data);
        json_object_set_new(event, "data", json_vpack_ex(NULL, 0, data, ap));
        va_end(ap);
    }
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (q->client[i].used && q->client[i].negotiated)
            answer(&q->client[i], json_incref(event));
    json_decref(event);
}
