/* SPDX-License-Identifier: MIT */
/* Requests about attributes: of files, of file systems, and extended ones. Those that have no call
 * for a descriptor opened with O_PATH go by /proc/self/fd/N, which leads to the file itself. */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { /* Tsetattr's valid bits */
       SET_MODE = 0x1,
       SET_UID = 0x2,
       SET_GID = 0x4,
       SET_SIZE = 0x8,
       SET_ATIME = 0x10,
       SET_MTIME = 0x20,
       SET_CTIME = 0x40,
       SET_ATIME_SET = 0x80,
       SET_MTIME_SET = 0x100,
};

enum { GETATTR_BASIC = 0x7ff };

static void out_time(struct out *o, const struct timespec *t)
{
    out_u64(o, (uint64_t)t->tv_sec);
    out_u64(o, (uint64_t)t->tv_nsec);
}

int do_getattr(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    struct node *node;
    struct stat st;
    struct fid *f;
    int result;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    result = node_stat(node, &st);
    node_drop(node);
    fid_drop(c->s, f);
    if (result)
        return result;
    out_u64(&c->out, GETATTR_BASIC);
    out_qid(c, &st);
    out_u32(&c->out, st.st_mode);
    out_u32(&c->out, st.st_uid);
    out_u32(&c->out, st.st_gid);
    out_u64(&c->out, st.st_nlink);
    out_u64(&c->out, st.st_rdev);
    out_u64(&c->out, (uint64_t)st.st_size);
    out_u64(&c->out, (uint64_t)st.st_blksize);
    out_u64(&c->out, (uint64_t)st.st_blocks);
    out_time(&c->out, &st.st_atim);
    out_time(&c->out, &st.st_mtim);
    out_time(&c->out, &st.st_ctim);
    for (unsigned i = 0; i < 4; i++) /* birth time, generation, data version */
        out_u64(&c->out, 0);
    return 0;
}

/* ---- changing ---- */

struct change {
    uint32_t valid, mode, uid, gid;
    uint64_t size;
    struct timespec time[2];
};

/* Set-uid and set-gid programs that a guest made would be the host's: no such bits on files. */
static mode_t safe_mode(const struct node *n, uint32_t mode)
{
    return mode & (S_ISDIR(n->type) ? 07777u : 01777u);
}

static int resize(struct server *s, struct fid *f, const char *name, const struct node *n,
                  uint64_t size)
{
    int fd = fid_fd(s, f, FID_FILE), own = -1, result;

    if (!S_ISREG(n->type))
        return S_ISDIR(n->type) ? -EISDIR : -EINVAL;
    if (fd >= 0 && !ftruncate(fd, (off_t)size))
        return 0; /* EINVAL: it is open for reading only */
    own = openat(s->proc, name, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    if (own < 0)
        return -errno;
    result = ftruncate(own, (off_t)size) ? -errno : 0;
    close(own);
    return result;
}

static int set_times(struct server *s, const char *name, struct change *ch)
{
    static const uint32_t change[2] = {SET_ATIME, SET_MTIME},
                          given[2] = {SET_ATIME_SET, SET_MTIME_SET};

    for (unsigned i = 0; i < 2; i++)
        if (!(ch->valid & change[i]))
            ch->time[i].tv_nsec = UTIME_OMIT;
        else if (!(ch->valid & given[i]))
            ch->time[i].tv_nsec = UTIME_NOW;
        else if (ch->time[i].tv_nsec < 0 || ch->time[i].tv_nsec > 999999999)
            return -EINVAL;
    return utimensat(s->proc, name, ch->time, 0) ? -errno : 0;
}

static int apply(struct server *s, struct fid *f, const struct node *n, struct change *ch)
{
    char name[16];
    int result = 0;

    name_of(name, n);
    if (ch->valid & (SET_UID | SET_GID) &&
        fchownat(n->fd, "", ch->valid & SET_UID ? ch->uid : (uid_t)-1,
                 ch->valid & SET_GID ? ch->gid : (gid_t)-1, AT_EMPTY_PATH))
        return -errno;
    if (ch->valid & SET_MODE && fchmodat(s->proc, name, safe_mode(n, ch->mode), 0))
        return -errno;
    if (ch->valid & SET_SIZE)
        result = resize(s, f, name, n, ch->size);
    if (!result && ch->valid & (SET_ATIME | SET_MTIME))
        result = set_times(s, name, ch);
    return result;
}

int do_setattr(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    struct change ch = {.valid = in_u32(&c->in)};
    struct node *node;
    struct fid *f;
    int result;

    ch.mode = in_u32(&c->in);
    ch.uid = in_u32(&c->in);
    ch.gid = in_u32(&c->in);
    ch.size = in_u64(&c->in);
    for (unsigned i = 0; i < 2; i++) {
        ch.time[i].tv_sec = (time_t)in_u64(&c->in);
        ch.time[i].tv_nsec = (long)in_u64(&c->in);
    }
    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    result = apply(c->s, f, node, &ch);
    node_drop(node);
    fid_drop(c->s, f);
    return result;
}

int do_statfs(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    struct node *node;
    struct statfs s;
    struct fid *f;
    int result;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    result = fstatfs(node->fd, &s) ? -errno : 0;
    node_drop(node);
    fid_drop(c->s, f);
    if (result)
        return result;
    out_u32(&c->out, (uint32_t)s.f_type);
    out_u32(&c->out, (uint32_t)s.f_bsize);
    out_u64(&c->out, s.f_blocks);
    out_u64(&c->out, s.f_bfree);
    out_u64(&c->out, s.f_bavail);
    out_u64(&c->out, s.f_files);
    out_u64(&c->out, s.f_ffree);
    out_u64(&c->out, 0); /* the file system's id: two shares must not look like one */
    out_u32(&c->out, (uint32_t)s.f_namelen);
    return 0;
}

/* ---- extended attributes: the working directory is /proc/self/fd ---- */

/* Those that mean something to programs, and nothing to the host's security. */
static bool xattr_allowed(const char *name)
{
    return !strncmp(name, "user.", 5) && name[5];
}

/* Leaves those out that the guest may not have: the list's new length. */
static size_t filter_list(char *list, size_t len)
{
    size_t kept = 0;

    for (size_t at = 0, n; at < len; at += n) {
        n = strnlen(list + at, len - at) + 1;
        if (at + n > len)
            break;
        if (xattr_allowed(list + at)) {
            memmove(list + kept, list + at, n);
            kept += n;
        }
    }
    return kept;
}

/* *value is the caller's to free. */
static ssize_t xattr_load(const struct node *n, const char *name, uint8_t **value)
{
    char path[16];
    ssize_t len;

    *value = malloc(P9_XATTR);
    if (!*value)
        return -ENOMEM;
    if (!S_ISREG(n->type) && !S_ISDIR(n->type))
        return name[0] ? -ENODATA : 0; /* user.* is for these alone */
    name_of(path, n);
    len = name[0] ? getxattr(path, name, *value, P9_XATTR)
                  : listxattr(path, (char *)*value, P9_XATTR);
    if (len < 0)
        return -errno;
    return name[0] ? len : (ssize_t)filter_list((char *)*value, (size_t)len);
}

static struct xattr *xattr_new(const char *name, uint8_t *value, size_t size)
{
    struct xattr *x = calloc(1, sizeof *x);

    if (!x)
        return NULL;
    snprintf(x->name, sizeof x->name, "%s", name);
    x->value = value;
    x->size = size;
    return x;
}

int do_xattrwalk(struct call *c)
{
    uint32_t id = in_u32(&c->in), new_id = in_u32(&c->in);
    char name[P9_NAME];
    uint8_t *value = NULL;
    struct xattr *x;
    struct node *node;
    struct fid *f;
    ssize_t len;
    int result;

    in_text(&c->in, name, sizeof name);
    if (c->in.bad)
        return -EINVAL;
    if (name[0] && !xattr_allowed(name))
        return -EOPNOTSUPP;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    len = xattr_load(node, name, &value);
    result = len < 0 ? (int)len : 0;
    x = result ? NULL : xattr_new(name, value, (size_t)len);
    if (!x) {
        free(value);
        node_drop(node);
        fid_drop(c->s, f);
        return result ? result : -ENOMEM;
    }
    result = fid_add_xattr(c->s, new_id, f->uid, node, FID_XATTR_READ, x);
    fid_drop(c->s, f);
    if (!result)
        out_u64(&c->out, (uint64_t)len);
    return result;
}

/* The fid becomes the attribute's: writes fill it, the clunk stores it. Replacing it by nothing is
 * how Linux asks to remove it. */
int do_xattrcreate(struct call *c)
{
    uint32_t id = in_u32(&c->in), flags;
    char name[P9_NAME];
    uint64_t size;
    struct xattr *x;
    uint8_t *value;
    struct fid *f;
    int result;

    in_text(&c->in, name, sizeof name);
    size = in_u64(&c->in);
    flags = in_u32(&c->in);
    if (c->in.bad || flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    if (!xattr_allowed(name))
        return -EOPNOTSUPP;
    if (size > P9_XATTR)
        return -E2BIG;
    f = fid_get(c->s, id, NULL);
    if (!f)
        return -EBADF;
    value = malloc(size + 1);
    x = value ? xattr_new(name, value, size) : NULL;
    if (x) {
        x->flags = flags;
        result = fid_becomes_xattr(c->s, f, FID_XATTR_WRITE, x);
    } else {
        free(value);
        result = -ENOMEM;
    }
    fid_drop(c->s, f);
    return result;
}

/* The fid has left the table, so its node stays. A thread may still be writing to it. */
int xattr_store(struct server *s, struct fid *f)
{
    const struct xattr *x = f->xattr;
    const struct node *n = f->node;
    char path[16];
    int result = -EINVAL;

    if (!S_ISREG(n->type) && !S_ISDIR(n->type))
        return -EPERM;
    name_of(path, n);
    pthread_mutex_lock(&f->lock);
    if (!x->size && x->flags == XATTR_REPLACE)
        result = removexattr(path, x->name) ? -errno : 0;
    else if (x->filled == x->size)
        result = setxattr(path, x->name, x->value, x->size, (int)x->flags) ? -errno : 0;
    pthread_mutex_unlock(&f->lock);
    return result;
}
