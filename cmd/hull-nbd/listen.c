/* SPDX-License-Identifier: MIT */
/* Where clients come in: a UNIX socket's path, or an address and a port in numbers (names would
 * need files and servers that the fence has not left). */
#include "nbd.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int bind_path(int fd, const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof to.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(to.sun_path, path, strlen(path) + 1);
    return bind(fd, (struct sockaddr *)&to, sizeof to);
}

static int bind_address(int fd, bool six, const char *host, const char *port)
{
    unsigned long number = strtoul(port, NULL, 10);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)number)};
    const void *address = six ? (void *)&to6 : (void *)&to;
    int one = 1;

    if (number > 65535 || (six ? inet_pton(AF_INET6, host, &to6.sin6_addr)
                               : inet_pton(AF_INET, host, &to.sin_addr)) != 1) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return bind(fd, address, six ? sizeof to6 : sizeof to);
}

int listen_start(struct server *s, const char *name, const char *port)
{
    bool local = !*port, six = !local && strchr(name, ':');
    int fd = socket(local ? AF_UNIX : six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int code;

    if (local && fd >= 0 && bind_path(fd, name) == 0)
        strcpy(s->path, name); /* both have NBD_NAME bytes */
    else if (fd < 0 || local ||
             bind_address(fd, six, strcmp(name, "localhost") ? name : "127.0.0.1", port))
        goto failed;
    if (listen(fd, NBD_SLOTS))
        goto failed;
    s->listener = fd;
    return 0;
failed:
    code = errno;
    if (fd >= 0)
        close(fd);
    return code;
}

/* Threads that wait in accept are woken by the shutdown. */
void listen_stop(struct server *s)
{
    if (s->listener < 0)
        return;
    shutdown(s->listener, SHUT_RDWR);
    close(s->listener);
    s->listener = -1;
    if (s->path[0])
        unlink(s->path);
    s->path[0] = 0;
}
