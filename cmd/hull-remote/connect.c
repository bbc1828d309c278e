/* SPDX-License-Identifier: MIT */
/* Reaching a server. What is no NBD server becomes one: nbdkit and qemu-nbd are started as our
 * children, on a socket that only we have, and end with us. */
#include "remote.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS = 32 };

static bool on_path(const char *program)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : "/usr/bin:/bin"), *rest = copy, *dir, name[4096];
    bool found = false;

    while (copy && !found && (dir = strsep(&rest, ":"))) {
        snprintf(name, sizeof name, "%s/%s", dir, program);
        found = access(name, X_OK) == 0;
    }
    free(copy);
    return found;
}

static bool needs(const char *program, const char *package, struct err *err)
{
    return on_path(program) ||
           err_set(err, ENOENT, "needs the program %s: apt-get install %s", program, package);
}

/* The part of libnbd's text after "nbd_xxx: ". */
static bool fail(const char *what, struct err *err)
{
    const char *text = nbd_get_error();
    const char *colon = text ? strstr(text, ": ") : NULL;
    int code = nbd_get_errno();

    return err_set(err, code > 0 ? code : EIO, "%s: %s", what, colon ? colon + 2 : "no reason");
}

static bool connect_nbdkit(struct nbd_handle *nbd, const char *const *words, bool readonly,
                           struct err *err)
{
    const char *argv[WORDS + 6] = {"nbdkit", "--exit-with-parent", "--single"};
    unsigned n = 3;

    if (readonly)
        argv[n++] = "--readonly";
    for (unsigned i = 0; words[i]; i++)
        argv[n++] = words[i];
    return needs("nbdkit", "nbdkit", err) &&
           (!nbd_connect_command(nbd, (char **)argv) || fail("nbdkit", err));
}

static bool connect_curl(struct nbd_handle *nbd, const char *url, struct err *err)
{
    char text[4096 + 8];
    const char *words[] = {"curl", text, "protocols=http,https,ftp", "followlocation=true", NULL};

    snprintf(text, sizeof text, "url=%s", url);
    return connect_nbdkit(nbd, words, true, err);
}

/* nbdkit:PLUGIN ARGUMENT ...: words are parted by single spaces. */
static bool connect_plugin(struct nbd_handle *nbd, const char *text, bool readonly, struct err *err)
{
    char *copy = strdup(text), *rest = copy;
    const char *words[WORDS + 1] = {0};
    bool good = true;

    for (unsigned n = 0; rest && n <= WORDS; n++) {
        good = n < WORDS;
        words[n] = good ? strsep(&rest, " ") : NULL;
    }
    if (!copy || !good || !words[0][0])
        good = err_set(err, EINVAL,
                       "nbdkit:PLUGIN ARGUMENT ... takes a plugin and at most %d words", WORDS);
    else
        good = connect_nbdkit(nbd, words, readonly, err);
    free(copy);
    return good;
}

/* As options, not as a name: qemu-nbd would take some names for other things than files. */
static bool connect_qemu(struct nbd_handle *nbd, const char *format, const char *file,
                         struct err *err)
{
    char text[2 * 4096 + 64];
    const char *argv[] = {"qemu-nbd", "--read-only", "--image-opts", text, NULL};
    size_t n =
        (size_t)snprintf(text, sizeof text, "driver=%s,file.driver=file,file.filename=", format);

    if (access(file, R_OK))
        return err_set(err, errno, "%s", strerror(errno));
    for (; *file && n + 3 < sizeof text; file++) {
        if (*file == ',')
            text[n++] = ',';
        text[n++] = *file;
    }
    text[n] = 0;
    return needs("qemu-nbd", "qemu-utils", err) &&
           (!nbd_connect_systemd_socket_activation(nbd, (char **)argv) ||
            err_set(err, EIO, "qemu-nbd cannot read it as %s", format));
}

struct nbd_handle *connect_server(const char *format, const char *address, bool readonly,
                                  struct err *err)
{
    struct nbd_handle *nbd = nbd_create();
    bool good;

    if (!nbd) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (*format)
        good = connect_qemu(nbd, format, address, err);
    else if (!strncmp(address, "nbdkit:", 7))
        good = connect_plugin(nbd, address + 7, readonly, err);
    else if (!strncmp(address, "nbd", 3))
        good = !nbd_connect_uri(nbd, address) || fail("cannot be reached", err);
    else
        good = connect_curl(nbd, address, err);
    if (good)
        return nbd;
    nbd_close(nbd);
    return NULL;
}
