/* SPDX-License-Identifier: MIT */
/* A hostile client of hull-nbd: the input is all that it says, with the handshake's first words put
 * before it. The machine is played here, and insists on what the server must have checked. */
#include "nbd.h"
#include "protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t memory[NBD_SLOT_SIZE];
static uint64_t asked;

static void must(bool good)
{
    if (!good)
        abort();
}

int link_ask(struct server *s, struct connection *c, enum nbd_op op, unsigned flags,
             uint64_t offset, uint64_t length)
{
    const struct export *e = c->export >= 0 ? &s->export[c->export] : NULL;
    struct nbd_extent *extent = (void *)memory;

    must(e && c->export < NBD_EXPORTS && e->used && c->slot == 0);
    must(op <= NBD_OP_BITMAP && flags <= (NBD_OP_FUA | NBD_OP_NO_HOLE));
    must(offset <= e->size && length <= e->size - offset);
    must(e->writable || (op != NBD_OP_WRITE && op != NBD_OP_TRIM && op != NBD_OP_ZERO));
    must((op != NBD_OP_READ && op != NBD_OP_WRITE) || length <= NBD_SLOT_SIZE);
    must(op != NBD_OP_BITMAP || e->bitmap[0]);
    asked++;
    if (asked % 7 == 6)
        return asked % 2 ? EIO : ENOTCONN;
    c->count = (uint32_t)(asked % (NBD_EXTENTS + 2)); /* a machine's word is checked too */
    for (unsigned i = 0; op >= NBD_OP_STATUS && i < NBD_EXTENTS; i++)
        extent[i] = (struct nbd_extent){512, i % 4};
    return 0;
}

static const struct server fresh = {
    .memory = memory,
    .export = {{.used = true, .writable = true, .size = 8 << 20, .name = "disk", .bitmap = "b"},
               {.used = true, .size = 4096, .name = "d2"}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct connection c = {.export = -1};
    uint8_t flags[4], *copy;
    static struct server s;
    int pair[2];

    if (!size)
        return 0;
    s = fresh;
    pthread_mutex_init(&s.lock, NULL);
    if (data[0] & 4)
        s.export[1].used = false; /* a client that names none gets the only one */
    asked = data[0] >> 4;
    must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    put_be32(flags, data[0] & 3);
    copy = malloc(size + 3); /* exactly as long as it is */
    must(copy != NULL);
    memcpy(copy, flags, 4);
    memcpy(copy + 4, data + 1, size - 1);
    (void)!send(pair[1], copy, size + 3, MSG_NOSIGNAL);
    shutdown(pair[1], SHUT_WR);
    free(copy);
    c.fd = pair[0];
    talk(&s, &c); /* a full socket ends it: nothing here reads the replies */
    close(pair[0]);
    close(pair[1]);
    pthread_mutex_destroy(&s.lock);
    return 0;
}
