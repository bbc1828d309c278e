/* SPDX-License-Identifier: MIT */
/* hull-remote: a disk that is somewhere else, for one machine or one tool. src/block/remote.h tells
 * what is said on the socket; hull starts us, users do not. */
#include "remote.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static const char help[] =
    "Usage: hull-remote --readonly|--writable -- FORMAT ADDRESS\n"
    "\n"
    "Reads a disk from a server for hull, hull-vmm or hull disk, which start it with a socket as\n"
    "descriptor 3 and shared memory as descriptor 4. Not for use by hand: give ADDRESS as a disk,\n"
    "as in hull run --disk nbd://localhost/disk\n";

static bool say_hello(const struct remote_hello *h)
{
    return send(HELPER_SOCKET_FD, h, sizeof *h, MSG_NOSIGNAL) == sizeof *h;
}

static int refuse(const struct err *err)
{
    struct remote_hello h = {.error = err->code > 0 ? err->code : EIO};

    snprintf(h.text, sizeof h.text, "%s", err->text);
    say_hello(&h);
    return 1;
}

static bool describe(struct nbd_handle *nbd, bool readonly, struct remote_hello *h, struct err *err)
{
    int64_t size = nbd_get_size(nbd), block = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);

    if (size <= 0)
        return err_set(err, EINVAL, "the server's disk is empty");
    if (block > 512)
        return err_set(err, ENOTSUP, "the server wants blocks of %lld bytes; at most 512 will do",
                       (long long)block);
    h->size = (uint64_t)size;
    if (!readonly && !nbd_is_read_only(nbd) && size % 512 == 0)
        h->can = REMOTE_CAN_WRITE | (nbd_can_flush(nbd) == 1 ? REMOTE_CAN_FLUSH : 0) |
                 (nbd_can_trim(nbd) == 1 ? REMOTE_CAN_TRIM : 0) |
                 (nbd_can_zero(nbd) == 1 ? REMOTE_CAN_ZERO : 0);
    return true;
}

static int run(const char *format, const char *address, bool readonly, uint8_t *memory)
{
    struct remote_hello h = {0};
    struct err err;
    struct nbd_handle *nbd = connect_server(format, address, readonly, &err);
    int status;

    if (!nbd)
        return refuse(&err);
    if (!describe(nbd, readonly, &h, &err) || !fence_enter(&err))
        status = refuse(&err);
    else
        status = say_hello(&h) && serve(nbd, h.size, h.can, memory, &err) ? 0 : 1;
    nbd_close(nbd);
    return status;
}

int main(int argc, char **argv)
{
    size_t size = (size_t)REMOTE_SLOTS * REMOTE_SLOT_SIZE;
    uint8_t *memory;

    if (argc != 5 || strcmp(argv[2], "--")) {
        fputs(help, argc == 2 && !strcmp(argv[1], "--help") ? stdout : stderr);
        return argc == 2 && !strcmp(argv[1], "--help") ? 0 : 2;
    }
    prctl(PR_SET_NAME, "hull-remote");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C on the terminal is for the machine; its end is ours */
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, HELPER_MEMORY_FD, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "hull-remote: descriptor 4 is no shared memory: %s\n", strerror(errno));
        return 1;
    }
    return run(argv[3], argv[4], !strcmp(argv[1], "--readonly"), memory);
}
