/* SPDX-License-Identifier: MIT */
/* The client's side of QMP. Blocking: hull has nothing else to do meanwhile. */
#include "qmp_client.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MAX (16 * MiB)

static bool receive_more(struct qmp_client *q, struct err *err)
{
    ssize_t n;

    if (q->len + 1 >= q->size) {
        size_t size = q->size ? 2 * q->size : 65536;
        char *more = size <= ANSWER_MAX ? realloc(q->text, size) : NULL;

        if (!more)
            return err_set(err, ENOMEM, "the machine's answer is too long");
        q->text = more;
        q->size = size;
    }
    do
        n = recv(q->fd, q->text + q->len, q->size - q->len - 1, 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return err_set(err, n ? errno : ECONNRESET, "the machine has closed the connection");
    q->len += (size_t)n;
    q->text[q->len] = 0;
    return true;
}

/* The next line as an object. */
static json_t *read_object(struct qmp_client *q, struct err *err)
{
    char *end;
    json_t *object;

    while (!q->len || !(end = memchr(q->text, '\n', q->len)))
        if (!receive_more(q, err))
            return NULL;
    object = json_loadb(q->text, (size_t)(end - q->text), 0, NULL);
    q->len -= (size_t)(end + 1 - q->text);
    memmove(q->text, end + 1, q->len);
    if (!object)
        err_set(err, EPROTO, "the machine's answer is no JSON: is this a QMP socket?");
    return object;
}

static bool send_text(struct qmp_client *q, const char *text, int fd, struct err *err)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {(char *)text, strlen(text)};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        h.msg_control = &control;
        h.msg_controllen = sizeof control;
        control.align = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), &fd, sizeof fd);
    }
    while (iov.iov_len) {
        ssize_t n = sendmsg(q->fd, &h, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(err, errno, "the machine does not listen: %s", strerror(errno));
        iov.iov_base = (char *)iov.iov_base + n;
        iov.iov_len -= (size_t)n;
        h.msg_control = NULL;
        h.msg_controllen = 0;
    }
    return true;
}

static json_t *call(struct qmp_client *q, const char *command, json_t *args, int fd,
                    struct err *err)
{
    json_t *request = args ? json_pack("{s:s, s:o}", "execute", command, "arguments", args)
                           : json_pack("{s:s}", "execute", command);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    bool sent = text && send_text(q, text, fd, err);
    json_t *answer = NULL, *result;

    if (!text)
        err_set(err, EINVAL, "a name is not UTF-8");
    free(text);
    json_decref(request);
    while (sent && (answer = read_object(q, err)) && json_object_get(answer, "event"))
        json_decref(answer);
    if (!sent || !answer)
        return NULL;
    result = json_incref(json_object_get(answer, "return"));
    if (!result) {
        json_t *error = json_object_get(answer, "error");
        const char *why = json_string_value(json_object_get(error, "desc"));

        err_set(err, EIO, "%s", why ? why : "the machine refuses");
    }
    json_decref(answer);
    return result;
}

json_t *qmp_client_call(struct qmp_client *q, const char *command, json_t *args, struct err *err)
{
    return call(q, command, args, -1, err);
}

bool qmp_client_give(struct qmp_client *q, const char *name, int fd, struct err *err)
{
    json_t *result = call(q, "getfd", json_pack("{s:s}", "fdname", name), fd, err);

    json_decref(result);
    return result != NULL;
}

bool qmp_client_open(struct qmp_client *q, const char *path, struct err *err)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    json_t *greeting, *result;

    *q = (struct qmp_client){.fd = -1};
    if (strlen(path) >= sizeof to.sun_path)
        return err_set(err, ENAMETOOLONG, "--qmp %s: the name is too long for a socket", path);
    strcpy(to.sun_path, path);
    q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (q->fd < 0 || connect(q->fd, (struct sockaddr *)&to, sizeof to))
        return err_set(err, errno, "--qmp %s: %s: does a machine run with this socket?", path,
                       strerror(errno));
    greeting = read_object(q, err);
    json_decref(greeting);
    if (!greeting)
        return false;
    result = qmp_client_call(q, "qmp_capabilities", NULL, err);
    json_decref(result);
    return result != NULL;
}

void qmp_client_close(struct qmp_client *q)
{
    if (q->fd >= 0)
        close(q->fd);
    free(q->text);
    *q = (struct qmp_client){.fd = -1};
}
