/* SPDX-License-Identifier: MIT */
/* Requests about what is in files: opening, creating, reading, writing, listing, closing. Only
 * regular files and directories are ever opened: to open a device or a FIFO is to do something to
 * it. */
#include "server.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { /* open flags as 9P2000.L has them: x86's */
       P9_O_ACCMODE = 3,
       P9_O_EXCL = 0200,
       P9_O_TRUNC = 01000,
       P9_O_APPEND = 02000,
       P9_O_DSYNC = 010000,
       P9_O_SYNC = 04010000,
};

enum { LISTING = 32 * KiB };

/* ---- opening ---- */

/* What else may be asked for (direct I/O, no atime, ...) is a hint that we do not take. */
static int host_flags(uint32_t flags)
{
    int f = (int)(flags & P9_O_ACCMODE);

    f |= flags & P9_O_TRUNC ? O_TRUNC : 0;
    f |= flags & P9_O_APPEND ? O_APPEND : 0;
    f |= flags & P9_O_DSYNC ? O_DSYNC : 0;
    f |= (flags & P9_O_SYNC) == P9_O_SYNC ? O_SYNC : 0;
    return f | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
}

static bool writes(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

/* Opens what a node is at for I/O: a descriptor or a negative errno. */
static int reopen(struct server *s, const struct node *n, int flags)
{
    char name[16];
    int fd;

    if (S_ISLNK(n->type))
        return -ELOOP;
    if (!S_ISREG(n->type) && !S_ISDIR(n->type))
        return -EPERM;
    if (s->readonly && writes(flags))
        return -EROFS;
    if (S_ISDIR(n->type))
        flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    name_of(name, n);
    fd = openat(s->proc, name, flags);
    return fd < 0 ? -errno : fd;
}

/* How much one read or write can carry. */
static uint32_t io_unit(const struct call *c)
{
    return __atomic_load_n(&c->s->msize, __ATOMIC_RELAXED) - 24;
}

static void opened(struct call *c, const struct stat *st)
{
    out_qid(c, st);
    out_u32(&c->out, io_unit(c));
}

int do_lopen(struct call *c)
{
    uint32_t id = in_u32(&c->in), flags = in_u32(&c->in);
    struct node *node;
    struct stat st;
    struct fid *f;
    int fd, result;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, &node);
    if (!f)
        return -EBADF;
    fd = fid_is(c->s, f, FID_PATH) ? reopen(c->s, node, host_flags(flags)) : -EBUSY;
    result = fd < 0 ? fd : node_stat(node, &st);
    if (fd >= 0)
        result = fid_opened(c->s, f, S_ISDIR(node->type) ? FID_DIR : FID_FILE, fd, NULL) ?: result;
    if (!result)
        opened(c, &st);
    node_drop(node);
    fid_drop(c->s, f);
    return result;
}

/* A new file, or one that is there and regular, unless it had to be new. */
static int create(struct server *s, const struct node *dir, const char *name, uint32_t flags,
                  uint32_t mode, bool *is_new)
{
    struct open_how how = {.flags = (uint64_t)(host_flags(flags) | O_CREAT | O_EXCL | O_NOFOLLOW),
                           .mode = mode & 01777,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, dir->fd, name, &how, sizeof how);

    *is_new = fd >= 0;
    return fd < 0 ? -errno : fd;
}

static int create_or_open(struct call *c, struct node *dir, const char *name, uint32_t flags,
                          uint32_t mode, struct node **node, bool *is_new)
{
    int fd = create(c->s, dir, name, flags, mode, is_new), error = 0;

    if (fd < 0 && (fd != -EEXIST || flags & P9_O_EXCL))
        return fd;
    *node = node_open(c->s, dir, name, &error);
    if (fd < 0 && *node)
        fd = reopen(c->s, *node, host_flags(flags));
    else if (fd >= 0 && !*node) /* removed already by the host, or renamed */
        close(fd);
    if (!*node)
        return error;
    if (fd < 0 || S_ISREG((*node)->type))
        return fd;
    close(fd);
    return -EISDIR;
}

int do_lcreate(struct call *c)
{
    uint32_t id = in_u32(&c->in), flags, mode, gid;
    struct node *dir, *node = NULL;
    char name[P9_NAME];
    bool is_new;
    struct stat st;
    struct fid *f;
    int fd, result;

    in_text(&c->in, name, sizeof name);
    flags = in_u32(&c->in);
    mode = in_u32(&c->in);
    gid = in_u32(&c->in);
    if (c->in.bad || !name_good(name))
        return -EINVAL;
    f = fid_get(c->s, id, &dir);
    if (!f)
        return -EBADF;
    fd = fid_is(c->s, f, FID_PATH) ? create_or_open(c, dir, name, flags, mode, &node, &is_new)
                                   : -EBUSY;
    result = fd < 0 ? fd : 0;
    if (!result && is_new && c->s->owner && fchown(fd, f->uid, gid))
        result = -errno;
    if (!result && fstat(fd, &st))
        result = -errno;
    if (!result) {
        result = fid_opened(c->s, f, FID_FILE, fd, node);
        node = NULL;
    } else if (fd >= 0)
        close(fd);
    if (!result)
        opened(c, &st);
    node_drop(node);
    node_drop(dir);
    fid_drop(c->s, f);
    return result;
}

/* ---- reading and writing ---- */

static ssize_t read_xattr(struct fid *f, uint64_t offset, uint8_t *to, size_t count)
{
    const struct xattr *x = f->xattr;

    if (!x || offset >= x->size)
        return 0;
    count = min_size(count, x->size - offset);
    memcpy(to, x->value + offset, count);
    return (ssize_t)count;
}

int do_read(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    uint64_t offset = in_u64(&c->in);
    size_t count = in_u32(&c->in), head = c->out.len + 4;
    ssize_t n = -EBADF;
    struct fid *f;
    int fd;

    if (c->in.bad || c->out.room < head)
        return -EINVAL;
    f = fid_get(c->s, id, NULL);
    if (!f)
        return -EBADF;
    count = min_size(count, min_size(c->out.room - head, io_unit(c)));
    fd = fid_fd(c->s, f, FID_FILE);
    if (fd >= 0) {
        n = pread(fd, c->out.buf + head, count, (off_t)offset);
        n = n < 0 ? -errno : n;
    } else if (fid_is(c->s, f, FID_XATTR_READ))
        n = read_xattr(f, offset, c->out.buf + head, count);
    fid_drop(c->s, f);
    if (n < 0)
        return (int)n;
    out_u32(&c->out, (uint32_t)n);
    c->out.len += (size_t)n;
    return 0;
}

static ssize_t write_xattr(struct fid *f, uint64_t offset, const uint8_t *from, size_t count)
{
    struct xattr *x = f->xattr;
    ssize_t result = -ENOSPC;

    pthread_mutex_lock(&f->lock);
    if (offset == x->filled && count <= x->size - x->filled) {
        memcpy(x->value + offset, from, count);
        x->filled += count;
        result = (ssize_t)count;
    }
    pthread_mutex_unlock(&f->lock);
    return result;
}

/* The count was checked against the request's length. */
int do_write(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    uint64_t offset = in_u64(&c->in);
    size_t count = in_u32(&c->in);
    ssize_t n = -EBADF;
    struct fid *f;
    int fd;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, NULL);
    if (!f)
        return -EBADF;
    fd = fid_fd(c->s, f, FID_FILE);
    if (fd >= 0) {
        n = pwrite(fd, c->data, count, (off_t)offset);
        n = n < 0 ? -errno : n;
    } else if (fid_is(c->s, f, FID_XATTR_WRITE))
        n = write_xattr(f, offset, c->data, count);
    fid_drop(c->s, f);
    if (n < 0)
        return (int)n;
    out_u32(&c->out, (uint32_t)n);
    return 0;
}

int do_fsync(struct call *c)
{
    uint32_t id = in_u32(&c->in), only_data = c->in.at < c->in.end ? in_u32(&c->in) : 0;
    int fd, result = -EBADF;
    struct fid *f;

    if (c->in.bad)
        return -EINVAL;
    f = fid_get(c->s, id, NULL);
    if (!f)
        return -EBADF;
    fd = fid_fd(c->s, f, FID_FILE);
    if (fd < 0)
        fd = fid_fd(c->s, f, FID_DIR);
    if (fd >= 0)
        result = (only_data ? fdatasync(fd) : fsync(fd)) ? -errno : 0;
    fid_drop(c->s, f);
    return result;
}

/* ---- listing ---- */

struct entry { /* getdents64 */
    uint64_t ino;
    int64_t next;
    uint16_t len;
    uint8_t type;
    char name[];
};

/* False: no room for it. The entry's numbers are hints; a walk gives the real ones. */
static bool put_entry(struct call *c, const struct entry *e, size_t limit)
{
    struct stat st = {.st_ino = e->ino,
                      .st_dev = c->s->root->dev,
                      .st_mode = e->type == DT_DIR   ? S_IFDIR
                                 : e->type == DT_LNK ? S_IFLNK
                                                     : S_IFREG};
    size_t name = strlen(e->name);

    if (c->out.len + P9_QID + 8 + 1 + 2 + name > limit)
        return false;
    out_qid(c, &st);
    out_u64(&c->out, (uint64_t)e->next);
    out_u8(&c->out, e->type);
    out_text(&c->out, e->name, name);
    return true;
}

/* Entries from `offset` on until the reply is full. */
static int list_locked(struct call *c, struct fid *f, int fd, uint64_t offset, size_t limit)
{
    _Alignas(8) uint8_t buf[LISTING];
    bool room = true;
    long n;

    if (f->dir_at != offset && lseek(fd, (off_t)offset, SEEK_SET) < 0)
        return -errno;
    f->dir_at = offset;
    while (room && (n = syscall(SYS_getdents64, fd, buf, sizeof buf)) > 0)
        for (long at = 0; room && at < n;) {
            const struct entry *e = (const struct entry *)(buf + at);

            room = put_entry(c, e, limit);
            if (room)
                f->dir_at = (uint64_t)e->next;
            at += e->len;
        }
    if (room)
        return n < 0 ? -errno : 0;
    /* Those that were read and did not fit are read again next time. */
    return lseek(fd, (off_t)f->dir_at, SEEK_SET) < 0 ? -errno : 0;
}

int do_readdir(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    uint64_t offset = in_u64(&c->in);
    size_t count = in_u32(&c->in), head = c->out.len;
    struct fid *f;
    int fd, result = -EBADF;

    if (c->in.bad || c->out.room < head + 4)
        return -EINVAL;
    f = fid_get(c->s, id, NULL);
    if (!f)
        return -EBADF;
    out_u32(&c->out, 0);
    fd = fid_fd(c->s, f, FID_DIR);
    if (fd >= 0) {
        size_t limit = c->out.len + min_size(count, c->out.room - c->out.len);

        pthread_mutex_lock(&f->lock);
        result = list_locked(c, f, fd, offset, limit);
        pthread_mutex_unlock(&f->lock);
    }
    fid_drop(c->s, f);
    put_le32(c->out.buf + head, (uint32_t)(c->out.len - head - 4));
    return result;
}

/* ---- the end ---- */

int do_clunk(struct call *c)
{
    uint32_t id = in_u32(&c->in);
    struct fid *f;
    int result = 0;

    if (c->in.bad)
        return -EINVAL;
    f = fid_remove(c->s, id);
    if (!f)
        return -EBADF;
    if (fid_is(c->s, f, FID_XATTR_WRITE))
        result = xattr_store(c->s, f);
    fid_drop(c->s, f);
    return result;
}

/* ---- locks: the guest's kernel keeps them among its programs, nobody else is told ---- */

int do_lock(struct call *c)
{
    struct fid *f = fid_get(c->s, in_u32(&c->in), NULL);

    if (!f)
        return -EBADF;
    fid_drop(c->s, f);
    out_u8(&c->out, 0); /* success */
    return 0;
}

int do_getlock(struct call *c)
{
    enum { UNLOCKED = 2 };
    struct fid *f = fid_get(c->s, in_u32(&c->in), NULL);
    uint64_t start, length;
    uint32_t process;
    char client[P9_NAME];

    if (!f)
        return -EBADF;
    fid_drop(c->s, f);
    in_u8(&c->in);
    start = in_u64(&c->in);
    length = in_u64(&c->in);
    process = in_u32(&c->in);
    in_text(&c->in, client, sizeof client);
    if (c->in.bad)
        return -EINVAL;
    out_u8(&c->out, UNLOCKED);
    out_u64(&c->out, start);
    out_u64(&c->out, length);
    out_u32(&c->out, process);
    out_text(&c->out, client, strlen(client));
    return 0;
}
