/* SPDX-License-Identifier: MIT */
/* From a request to its reply: the header is checked and what is small is copied before anything
 * of it is believed, a handler reads the fields and writes those of the answer, an error replaces
 * what it wrote. Waiting for a flushed request is main.c's. */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define VERSION "9P2000.L"

static int do_version(struct call *c)
{
    uint32_t msize = in_u32(&c->in);
    char version[32];

    in_text(&c->in, version, sizeof version);
    if (c->in.bad)
        return -EINVAL;
    if (msize < 4096)
        return -EMSGSIZE;
    fid_remove_all(c->s);
    msize = (uint32_t)min_u64(msize, P9_MSIZE);
    __atomic_store_n(&c->s->msize, msize, __ATOMIC_RELAXED);
    out_u32(&c->out, msize);
    if (strcmp(version, VERSION))
        out_text(&c->out, "unknown", 7);
    else
        out_text(&c->out, VERSION, sizeof VERSION - 1);
    return 0;
}

static int do_attach(struct call *c)
{
    uint32_t id = in_u32(&c->in), uid;
    char text[P9_NAME];
    struct stat st;
    int result;

    in_u32(&c->in); /* afid: nobody authenticates, so nobody can have one */
    in_text(&c->in, text, sizeof text);
    in_text(&c->in, text, sizeof text);
    uid = in_u32(&c->in);
    if (c->in.bad)
        return -EINVAL;
    result = node_stat(c->s->root, &st);
    if (!result)
        result = fid_add(c->s, id, uid == UINT32_MAX ? 0 : uid, node_keep(c->s->root), NULL);
    if (!result)
        out_qid(c, &st);
    return result;
}

/* By now the request it is about has been answered: see main.c. */
static int do_flush(struct call *c)
{
    in_u16(&c->in);
    return c->in.bad ? -EINVAL : 0;
}

static int do_auth(struct call *c)
{
    return -EOPNOTSUPP;
}

static handler *const handlers[P9_TYPES] = {
    [P9_VERSION] = do_version,     [P9_AUTH] = do_auth,
    [P9_ATTACH] = do_attach,       [P9_FLUSH] = do_flush,
    [P9_WALK] = do_walk,           [P9_LOPEN] = do_lopen,
    [P9_LCREATE] = do_lcreate,     [P9_READ] = do_read,
    [P9_WRITE] = do_write,         [P9_READDIR] = do_readdir,
    [P9_FSYNC] = do_fsync,         [P9_CLUNK] = do_clunk,
    [P9_LOCK] = do_lock,           [P9_GETLOCK] = do_getlock,
    [P9_REMOVE] = do_remove,       [P9_MKDIR] = do_mkdir,
    [P9_SYMLINK] = do_symlink,     [P9_MKNOD] = do_mknod,
    [P9_LINK] = do_link,           [P9_RENAME] = do_rename,
    [P9_RENAMEAT] = do_renameat,   [P9_UNLINKAT] = do_unlinkat,
    [P9_READLINK] = do_readlink,   [P9_GETATTR] = do_getattr,
    [P9_SETATTR] = do_setattr,     [P9_STATFS] = do_statfs,
    [P9_XATTRWALK] = do_xattrwalk, [P9_XATTRCREATE] = do_xattrcreate,
};

/* What changes files. Opening for writing and setting an xattr are refused where they happen. */
static bool changes(unsigned type)
{
    switch (type) {
    case P9_LCREATE:
    case P9_WRITE:
    case P9_REMOVE:
    case P9_MKDIR:
    case P9_SYMLINK:
    case P9_MKNOD:
    case P9_LINK:
    case P9_RENAME:
    case P9_RENAMEAT:
    case P9_UNLINKAT:
    case P9_SETATTR:
    case P9_XATTRCREATE: return true;
    }
    return false;
}

static int answer(struct call *c, unsigned type)
{
    int result;

    if (type >= P9_TYPES || !handlers[type])
        return -EOPNOTSUPP;
    if (c->s->readonly && changes(type) && type != P9_REMOVE) /* which removes the fid at least */
        return -EROFS;
    result = handlers[type](c);
    return !result && c->out.full ? -EMSGSIZE : result;
}

static size_t finish(struct out *o, unsigned type, uint16_t tag, int result)
{
    if (result) {
        o->len = P9_HEADER;
        o->full = false;
        out_u32(o, (uint32_t)-result);
        type = P9_LERROR;
    }
    put_le32(o->buf, (uint32_t)o->len);
    o->buf[4] = (uint8_t)(type + 1);
    put_le16(o->buf + 5, tag);
    return o->len;
}

size_t server_handle(struct server *s, const uint8_t *request, size_t len, uint8_t *reply,
                     size_t room)
{
    uint8_t copy[P9_SMALL];
    struct call c = {.s = s, .out = {.buf = reply, .len = P9_HEADER, .room = room}};
    size_t small = min_size(len, sizeof copy), size;
    unsigned type;
    int result = 0;

    if (len < P9_HEADER || room < P9_ERROR_LEN)
        return 0;
    memcpy(copy, request, small);
    size = le32(copy);
    type = copy[4];
    c.tag = le16(copy + 5);
    if (type == P9_WRITE) { /* the data stays where it is */
        small = min_size(small, P9_WRITE_HEADER);
        c.data = request + P9_WRITE_HEADER;
        c.in.end = copy + small;
    } else {
        c.in.end = copy + min_size(size, small);
        if (size > small)
            result = -EMSGSIZE;
    }
    c.in.at = copy + P9_HEADER;
    if (size < P9_HEADER || size > len || c.in.at > c.in.end)
        result = -EINVAL;
    if (!result && type == P9_WRITE &&
        (size < P9_WRITE_HEADER || le32(copy + P9_WRITE_HEADER - 4) > size - P9_WRITE_HEADER))
        result = -EINVAL;
    if (!result)
        result = answer(&c, type);
    return finish(&c.out, type, c.tag, result);
}

/* ---- what handlers share ---- */

bool name_good(const char *name)
{
    return name[0] && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

void name_of(char text[16], const struct node *n)
{
    unsigned fd = (unsigned)n->fd;
    char *p = text + 15;

    *p = 0;
    do
        *--p = (char)('0' + fd % 10);
    while (fd /= 10);
    memmove(text, p, (size_t)(text + 16 - p));
}

/* Inodes of file systems mounted below the root must not look like those of its own. */
static uint64_t qid_path(const struct server *s, const struct stat *st)
{
    uint64_t other = st->st_dev == s->root->dev ? 0 : st->st_dev;

    return st->st_ino ^ (other * 0x9e3779b97f4a7c15ULL & ~0xffffffffULL);
}

void out_qid(struct call *c, const struct stat *st)
{
    uint8_t type = S_ISDIR(st->st_mode) ? P9_QID_DIR : S_ISLNK(st->st_mode) ? P9_QID_LINK : 0;

    out_u8(&c->out, type);
    out_u32(&c->out, (uint32_t)st->st_mtim.tv_sec ^ (uint32_t)st->st_size << 8);
    out_u64(&c->out, qid_path(c->s, st));
}

/* ---- life ---- */

/* As many as the host lets us have: each file that the guest knows of is a descriptor of ours. */
static uint32_t raise_limit(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r))
        return 512;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    getrlimit(RLIMIT_NOFILE, &r);
    return (uint32_t)min_u64(r.rlim_cur * 2, 1 << 18);
}

struct server *server_open(int root, int proc, bool readonly)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
    struct server *s = calloc(1, sizeof *s);
    int fd = s ? (int)syscall(SYS_openat2, root, ".", &how, sizeof how) : -1;
    struct stat st;

    if (fd >= 0) {
        pthread_mutex_init(&s->lock, NULL);
        s->readonly = readonly;
        s->owner = !geteuid();
        s->msize = P9_MSIZE;
        s->count_max = raise_limit();
        s->proc = proc;
        s->root = calloc(1, sizeof *s->root + 1);
    }
    if (fd < 0 || !s->root) {
        if (fd >= 0)
            close(fd);
        free(s);
        return NULL;
    }
    close(root);
    *s->root = (struct node){.refs = 1, .fd = fd, .type = S_IFDIR};
    if (!fstat(fd, &st)) {
        s->root->dev = st.st_dev;
        s->root->ino = st.st_ino;
    }
    return s;
}

void server_close(struct server *s)
{
    fid_remove_all(s);
    node_drop(s->root);
    close(s->proc);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
