/* SPDX-License-Identifier: MIT */
/* Fids, the guest's numbers for files, and nodes, the files. A fid's place in the table and its
 * kind change under the server's lock; whoever got one keeps it alive until it drops it, so a
 * descriptor is never closed under a thread that uses it. */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- nodes ---- */

static struct node *node_new(struct node *parent, const char *name, int fd)
{
    struct node *n = malloc(sizeof *n + strlen(name) + 1);
    struct stat st;

    if (!n || fstat(fd, &st)) {
        free(n);
        close(fd);
        return NULL;
    }
    *n = (struct node){.refs = 1,
                       .fd = fd,
                       .type = st.st_mode & S_IFMT,
                       .dev = st.st_dev,
                       .ino = st.st_ino,
                       .parent = parent ? node_keep(parent) : NULL};
    strcpy(n->name, name);
    return n;
}

struct node *node_open(struct server *s, struct node *parent, const char *name, int *error)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    struct node *n;
    int fd;

    /* ".." is no name to look up: the directory may have been moved out of the share meanwhile. */
    if (!strcmp(name, ".."))
        return node_keep(parent->parent ? parent->parent : parent);
    if (!name_good(name)) {
        *error = -ENOENT;
        return NULL;
    }
    /* With a symlink as the only component the descriptor is the link's: O_PATH | O_NOFOLLOW. */
    fd = (int)syscall(SYS_openat2, parent->fd, name, &how, sizeof how);
    if (fd < 0) {
        *error = -errno;
        return NULL;
    }
    n = node_new(parent, name, fd);
    *error = n ? 0 : -ENOMEM;
    return n;
}

struct node *node_keep(struct node *n)
{
    __atomic_fetch_add(&n->refs, 1, __ATOMIC_RELAXED);
    return n;
}

void node_drop(struct node *n)
{
    while (n && __atomic_sub_fetch(&n->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        struct node *parent = n->parent;

        close(n->fd);
        free(n);
        n = parent;
    }
}

int node_stat(const struct node *n, struct stat *st)
{
    return fstat(n->fd, st) ? -errno : 0;
}

/* ---- the table ---- */

static struct fid **find_locked(struct server *s, uint32_t id)
{
    struct fid **at = &s->bucket[id * 2654435761u >> 22];

    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

struct fid *fid_get(struct server *s, uint32_t id, struct node **node)
{
    struct fid *f;

    pthread_mutex_lock(&s->lock);
    f = *find_locked(s, id);
    if (f) {
        f->refs++;
        if (node)
            *node = node_keep(f->node);
    }
    pthread_mutex_unlock(&s->lock);
    return f;
}

int fid_fd(struct server *s, struct fid *f, enum fid_kind kind)
{
    int fd;

    pthread_mutex_lock(&s->lock);
    fd = f->kind == kind ? f->fd : -1;
    pthread_mutex_unlock(&s->lock);
    return fd;
}

bool fid_is(struct server *s, struct fid *f, enum fid_kind kind)
{
    bool is;

    pthread_mutex_lock(&s->lock);
    is = f->kind == kind;
    pthread_mutex_unlock(&s->lock);
    return is;
}

static void xattr_free(struct xattr *x)
{
    if (x)
        free(x->value);
    free(x);
}

static void fid_free(struct fid *f)
{
    if (f->fd >= 0)
        close(f->fd);
    xattr_free(f->xattr);
    node_drop(f->node);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

void fid_drop(struct server *s, struct fid *f)
{
    bool last;

    pthread_mutex_lock(&s->lock);
    last = !--f->refs;
    pthread_mutex_unlock(&s->lock);
    if (last)
        fid_free(f);
}

int fid_add(struct server *s, uint32_t id, uint32_t uid, struct node *node, struct fid **added)
{
    struct fid *f = calloc(1, sizeof *f), **at;
    int result = 0;

    if (f) {
        *f = (struct fid){
            .id = id, .refs = added ? 2 : 1, .kind = FID_PATH, .uid = uid, .fd = -1, .node = node};
        pthread_mutex_init(&f->lock, NULL);
    } else
        result = -ENOMEM;
    pthread_mutex_lock(&s->lock);
    at = find_locked(s, id);
    if (*at)
        result = -EEXIST;
    else if (s->count >= s->count_max)
        result = -EMFILE;
    if (!result) {
        *at = f;
        s->count++;
    }
    pthread_mutex_unlock(&s->lock);
    if (result && f)
        fid_free(f);
    else if (result)
        node_drop(node);
    else if (added)
        *added = f;
    return result;
}

struct fid *fid_remove(struct server *s, uint32_t id)
{
    struct fid **at, *f;

    pthread_mutex_lock(&s->lock);
    at = find_locked(s, id);
    f = *at;
    if (f) {
        *at = f->next;
        s->count--;
    }
    pthread_mutex_unlock(&s->lock);
    return f;
}

void fid_remove_all(struct server *s)
{
    for (unsigned i = 0; i < P9_BUCKETS; i++) {
        struct fid *f, *next;

        pthread_mutex_lock(&s->lock);
        f = s->bucket[i];
        s->bucket[i] = NULL;
        for (next = f; next; next = next->next)
            s->count--;
        pthread_mutex_unlock(&s->lock);
        for (; f; f = next) {
            next = f->next;
            fid_drop(s, f);
        }
    }
}

int fid_becomes_xattr(struct server *s, struct fid *f, enum fid_kind kind, struct xattr *x)
{
    int result = -EBUSY;

    pthread_mutex_lock(&s->lock);
    if (f->kind == FID_PATH) {
        f->xattr = x;
        f->kind = kind;
        result = 0;
    }
    pthread_mutex_unlock(&s->lock);
    if (result)
        xattr_free(x);
    return result;
}

int fid_add_xattr(struct server *s, uint32_t id, uint32_t uid, struct node *node,
                  enum fid_kind kind, struct xattr *x)
{
    struct fid *f;
    int result = fid_add(s, id, uid, node, &f);

    if (result) {
        xattr_free(x);
        return result;
    }
    result = fid_becomes_xattr(s, f, kind, x);
    fid_drop(s, f);
    return result;
}

int fid_move(struct server *s, struct fid *f, struct node *node)
{
    struct node *old = node;
    int result = -EBUSY;

    pthread_mutex_lock(&s->lock);
    if (f->kind == FID_PATH) {
        old = f->node;
        f->node = node;
        result = 0;
    }
    pthread_mutex_unlock(&s->lock);
    node_drop(old);
    return result;
}

int fid_opened(struct server *s, struct fid *f, enum fid_kind kind, int fd, struct node *node)
{
    struct node *old = node;
    int result = -EBUSY;

    pthread_mutex_lock(&s->lock);
    if (f->kind == FID_PATH) {
        f->kind = kind;
        f->fd = fd;
        if (node) {
            old = f->node;
            f->node = node;
        }
        result = 0;
    }
    pthread_mutex_unlock(&s->lock);
    node_drop(old);
    if (result && fd >= 0)
        close(fd);
    return result;
}
