/* SPDX-License-Identifier: MIT */
/* Requests about names: walking to files, making, linking, renaming and removing them. Each takes
 * one component below a directory that the guest has walked to; no call here follows a symlink. */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

/* ---- walking ---- */

/* As far as it goes: *count components. The first one must exist, later ones end the walk. */
static struct node *walk(struct call *c, struct node *from, unsigned names, struct stat *st,
                         unsigned *count, int *error)
{
    struct node *at = node_keep(from);
    char name[P9_NAME];

    for (*count = 0; *count < names; ++*count) {
        struct node *next;

        in_text(&c->in, name, sizeof name);
        *error = c->in.bad ? -ENAMETOOLONG : 0;
        next = *error ? NULL : node_open(c->s, at, name, error);
        if (!next)
            break;
        node_drop(at);
        at = next;
        *error = node_stat(at, &st[*count]);
        if (*error)
            break;
    }
    return at;
}

/* A walk of no names clones the fid. One that ends early makes no new fid. */
int do_walk(struct call *c)
{
    uint32_t id = in_u32(&c->in), new_id = in_u32(&c->in);
    unsigned names = in_u16(&c->in), count;
    struct stat st[P9_WALK_MAX];
    struct node *from, *at;
    struct fid *f;
    int result = 0;

    if (c->in.bad || names > P9_WALK_MAX)
        return -EINVAL;
    f = fid_get(c->s, id, &from);
    if (!f)
        return -EBADF;
    at = walk(c, from, names, st, &count, &result);
    node_drop(from);
    if (count < names && count)
        result = 0;
    if (result || count < names)
        node_drop(at);
    else if (new_id == id)
        result = fid_move(c->s, f, at);
    else
        result = fid_add(c->s, new_id, f->uid, at, NULL);
    fid_drop(c->s, f);
    if (result)
        return result;
    out_u16(&c->out, (uint16_t)count);
    for (unsigned i = 0; i < count; i++)
        out_qid(c, &st[i]);
    return 0;
}

/* ---- making ---- */

/* Whose it is: only root may give files away, and others have no need to. */
static int own(struct call *c, const struct fid *f, const struct node *dir, const char *name,
               uint32_t gid)
{
    if (!c->s->owner || !fchownat(dir->fd, name, f->uid, gid, AT_SYMLINK_NOFOLLOW))
        return 0;
    return -errno;
}

static int made(struct call *c, const struct fid *f, const struct node *dir, const char *name,
                uint32_t gid)
{
    int result = own(c, f, dir, name, gid);
    struct stat st;

    if (!result && fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW))
        result = -errno;
    if (!result)
        out_qid(c, &st);
    return result;
}

int do_mkdir(struct call *c)
{
    uint32_t id = in_u32(&c->in), mode, gid;
    char name[P9_NAME];
    struct node *dir;
    struct fid *f;
    int result;

    in_text(&c->in, name, sizeof name);
    mode = in_u32(&c->in);
    gid = in_u32(&c->in);
    if (c->in.bad || !name_good(name))
        return -EINVAL;
    f = fid_get(c->s, id, &dir);
    if (!f)
        return -EBADF;
    result = mkdirat(dir->fd, name, mode & 07777) ? -errno : 0;
    if (!result)
        result = made(c, f, dir, name, gid);
    node_drop(dir);
    fid_drop(c->s, f);
    return result;
}

int do_symlink(struct call *c)
{
    uint32_t id = in_u32(&c->in), gid;
    char name[P9_NAME], target[PATH_MAX];
    struct node *dir;
    struct fid *f;
    int result;

    in_text(&c->in, name, sizeof name);
    in_text(&c->in, target, sizeof target);
    gid = in_u32(&c->in);
    if (c->in.bad || !name_good(name))
        return -EINVAL;
    f = fid_get(c->s, id, &dir);
    if (!f)
        return -EBADF;
    result = symlinkat(target, dir->fd, name) ? -errno : 0;
    if (!result)
        result = made(c, f, dir, name, gid);
    node_drop(dir);
    fid_drop(c->s, f);
    return result;
}

/* Regular files, FIFOs and sockets. A device node would be the host's device. */
int do_mknod(struct call *c)
{
    uint32_t id = in_u32(&c->in), mode, gid;
    char name[P9_NAME];
    struct node *dir;
    struct fid *f;
    int result;

    in_text(&c->in, name, sizeof name);
    mode = in_u32(&c->in);
    in_u64(&c->in); /* major, minor */
    gid = in_u32(&c->in);
    if (c->in.bad || !name_good(name))
        return -EINVAL;
    if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        return -EPERM;
    f = fid_get(c->s, id, &dir);
    if (!f)
        return -EBADF;
    result = mknodat(dir->fd, name, mode & (S_IFMT | 01777), 0) ? -errno : 0;
    if (!result)
        result = made(c, f, dir, name, gid);
    node_drop(dir);
    fid_drop(c->s, f);
    return result;
}

int do_link(struct call *c)
{
    uint32_t dir_id = in_u32(&c->in), id = in_u32(&c->in);
    char name[P9_NAME], from[16];
    struct node *dir = NULL, *node = NULL;
    struct fid *d, *f;
    int result = -EBADF;

    in_text(&c->in, name, sizeof name);
    if (c->in.bad || !name_good(name))
        return -EINVAL;
    d = fid_get(c->s, dir_id, &dir);
    f = fid_get(c->s, id, &node);
    if (d && f) {
        /* Through /proc: AT_EMPTY_PATH wants a right that only root has. */
        name_of(from, node);
        result = linkat(c->s->proc, from, dir->fd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
    }
    node_drop(dir);
    node_drop(node);
    if (d)
        fid_drop(c->s, d);
    if (f)
        fid_drop(c->s, f);
    return result;
}

/* ---- renaming and removing ---- */

static int rename_between(struct call *c, uint32_t from_id, const char *from, uint32_t to_id,
                          const char *to)
{
    struct node *a = NULL, *b = NULL;
    struct fid *f = fid_get(c->s, from_id, &a), *t = fid_get(c->s, to_id, &b);
    int result = -EBADF;

    if (f && t)
        result = renameat(a->fd, from, b->fd, to) ? -errno : 0;
    node_drop(a);
    node_drop(b);
    if (f)
        fid_drop(c->s, f);
    if (t)
        fid_drop(c->s, t);
    return result;
}

int do_renameat(struct call *c)
{
    char from[P9_NAME], to[P9_NAME];
    uint32_t from_id = in_u32(&c->in), to_id;

    in_text(&c->in, from, sizeof from);
    to_id = in_u32(&c->in);
    in_text(&c->in, to, sizeof to);
    if (c->in.bad || !name_good(from) || !name_good(to))
        return -EINVAL;
    return rename_between(c, from_id, from, to_id, to);
}

/* For requests that name a file by its fid: its directory, if the name there is still the file's.
 */
static int still_there(const struct node *n)
{
    struct stat st;

    if (!n->parent)
        return -EBUSY;
    if (fstatat(n->parent->fd, n->name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    return st.st_dev == n->dev && st.st_ino == n->ino ? 0 : -ESTALE;
}

int do_rename(struct call *c)
{
    uint32_t id = in_u32(&c->in), dir_id = in_u32(&c->in);
    char name[P9_NAME];
    struct node *dir = NULL, *node = NULL;
    struct fid *f, *d;
    int result = -EBADF;

    in_text(&c->in, name, sizeof name);
    if (c->in.bad || !name_good(name))
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    d = fid_get(c->s, dir_id, &dir);
    if (f && d)
        result = still_there(node);
    if (!result && renameat(node->parent->fd, node->name, dir->fd, name))
        result = -errno;
    if (!result) { /* under its new name from now on */
        struct node *moved = node_open(c->s, dir, name, &result);

        if (moved)
            result = fid_move(c->s, f, moved);
        result = 0;
    }
    node_drop(node);
    node_drop(dir);
    if (f)
        fid_drop(c->s, f);
    if (d)
        fid_drop(c->s, d);
    return result;
}

int do_unlinkat(struct call *c)
{
    uint32_t id = in_u32(&c->in), flags;
    char name[P9_NAME];
    struct node *dir;
    struct fid *f;
    int result;

    in_text(&c->in, name, sizeof name);
    flags = in_u32(&c->in);
    if (c->in.bad || !name_good(name) || flags & ~(uint32_t)AT_REMOVEDIR)
        return -EINVAL;
    f = fid_get(c->s, id, &dir);
    if (!f)
        return -EBADF;
    result = unlinkat(dir->fd, name, (int)flags) ? -errno : 0;
    node_drop(dir);
    fid_drop(c->s, f);
    return result;
}

/* The fid is gone whether or not the file is. */
int do_remove(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    struct node *node;
    struct fid *f;
    int result;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    result = c->s->readonly ? -EROFS : still_there(node);
    if (!result && unlinkat(node->parent->fd, node->name, S_ISDIR(node->type) ? AT_REMOVEDIR : 0))
        result = -errno;
    node_drop(node);
    fid_drop(c->s, f);
    f = fid_remove(c->s, id);
    if (f)
        fid_drop(c->s, f);
    return result;
}

int do_readlink(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    char target[PATH_MAX];
    struct node *node;
    struct fid *f;
    ssize_t n;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    n = readlinkat(node->fd, "", target, sizeof target);
    if (n < 0)
        n = -errno;
    else
        out_text(&c->out, target, (size_t)n);
    node_drop(node);
    fid_drop(c->s, f);
    return n < 0 ? (int)n : 0;
}
