/* SPDX-License-Identifier: MIT */
/* The machine's side: its words are obeyed in the main thread, connections wait for its answers. */
#include "nbd.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

int link_ask(struct server *s, struct connection *c, enum nbd_op op, unsigned flags,
             uint64_t offset, uint64_t length)
{
    struct nbd_call call = {.slot = c->slot,
                            .op = op,
                            .export = (uint32_t)c->export,
                            .flags = flags,
                            .offset = offset,
                            .length = length};
    int error;

    pthread_mutex_lock(&s->lock);
    c->answered = false;
    error = s->export[c->export].used ? 0 : ESHUTDOWN;
    if (!error && send(s->link, &call, sizeof call, MSG_NOSIGNAL) != sizeof call)
        error = EIO;
    while (!error && !c->answered)
        pthread_cond_wait(&s->changed, &s->lock);
    if (!error)
        error = c->error;
    pthread_mutex_unlock(&s->lock);
    return error;
}

static void send_away(struct server *s, int export)
{
    for (unsigned i = 0; i < NBD_SLOTS; i++)
        if (s->connection[i].fd >= 0 && (export < 0 || s->connection[i].export == export))
            shutdown(s->connection[i].fd, SHUT_RDWR);
}

static void started(struct server *s, int error)
{
    struct nbd_call call = {.op = NBD_OP_STARTED, .error = error};

    (void)!send(s->link, &call, sizeof call, MSG_NOSIGNAL);
}

static void obey_locked(struct server *s, struct nbd_word *w)
{
    struct export *e = &s->export[w->export < NBD_EXPORTS ? w->export : 0];

    w->name[NBD_NAME - 1] = w->text[NBD_NAME - 1] = 0;
    switch ((enum nbd_word_kind)w->kind) {
    case NBD_START: started(s, listen_start(s, w->name, w->text)); break;
    case NBD_ADD:
        *e = (struct export){.used = true, .writable = w->flags & NBD_WRITABLE, .size = w->size};
        memcpy(e->name, w->name, NBD_NAME);
        memcpy(e->bitmap, w->text, NBD_NAME);
        break;
    case NBD_RESIZE: e->size = w->size; break;
    case NBD_DEL:
        e->used = false;
        send_away(s, (int)w->export);
        break;
    case NBD_STOP:
        listen_stop(s);
        send_away(s, -1);
        memset(s->export, 0, sizeof s->export);
        break;
    case NBD_DONE:
        if (w->slot < NBD_SLOTS) {
            s->connection[w->slot].error = w->error;
            s->connection[w->slot].count = w->count;
            s->connection[w->slot].answered = true;
        }
        break;
    }
    pthread_cond_broadcast(&s->changed);
}

void link_serve(struct server *s)
{
    struct nbd_word w;

    while (recv(s->link, &w, sizeof w, 0) == sizeof w) {
        pthread_mutex_lock(&s->lock);
        obey_locked(s, &w);
        pthread_mutex_unlock(&s->lock);
    }
}
