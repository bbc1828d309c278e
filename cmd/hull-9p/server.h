/* SPDX-License-Identifier: MIT */
/* The 9P2000.L server behind hull-9p: requests in, replies out, files below one directory.
 *
 *   main.c     the process: its socket, its threads     fence.c    what it may do
 *   server.c   one request to one reply                  fids.c     what the guest's numbers stand
 * for names.c    walking, making, renaming, removing       files.c    opening, reading, writing,
 * listing attr.c     attributes, file systems, xattrs
 *
 * A file is held by an O_PATH descriptor from the moment it is walked to, so a name is looked up
 * once, one component at a time, by openat2 below its parent; no symlink is followed, ever. What
 * the guest then does to the file goes through that descriptor, whatever became of the name. To
 * open it for reading or writing it is opened again by /proc/self/fd/N, once it is known to be a
 * regular file or a directory. */
#ifndef HULL_9P_SERVER_H
#define HULL_9P_SERVER_H

#include "wire.h"
#include <pthread.h>
#include <sys/stat.h>

#define P9_MSIZE   (512 * KiB)
#define P9_SMALL   8192 /* requests but for the data of a write: names and link targets */
#define P9_NAME    256  /* with its NUL */
#define P9_XATTR   (64 * KiB)
#define P9_BUCKETS 1024

struct node { /* a file that some fid is at; ".." is its parent, which it keeps */
    int refs; /* atomic */
    int fd;   /* O_PATH | O_NOFOLLOW */
    mode_t type;
    dev_t dev;
    ino_t ino;
    struct node *parent; /* NULL: the root */
    char name[];         /* when it was walked to */
};

enum fid_kind { FID_PATH, FID_FILE, FID_DIR, FID_XATTR_READ, FID_XATTR_WRITE };

struct fid {
    uint32_t id;
    int refs; /* under server->lock, as all but the listing and the xattr */
    enum fid_kind kind;
    uint32_t uid; /* of who attached */
    int fd;       /* of an open file or directory, else -1 */
    struct node *node;
    struct fid *next;     /* in its bucket */
    pthread_mutex_t lock; /* the directory's position, the xattr's bytes */
    uint64_t dir_at;
    struct xattr {
        char name[P9_NAME];
        uint8_t *value;
        size_t size, filled;
        uint32_t flags;
    } * xattr;
};

struct server {
    pthread_mutex_t lock;
    struct fid *bucket[P9_BUCKETS];
    uint32_t count, count_max;
    uint32_t msize;
    int proc; /* /proc/self/fd */
    struct node *root;
    bool readonly, owner; /* owner: we are root, so files get the guest's owners */
};

/* One request on its way. */
struct call {
    struct server *s;
    struct in in;
    struct out out;
    uint16_t tag;
    const uint8_t *data; /* of a write: in shared memory, for the kernel's eyes only */
};

/* `root` is the shared directory's descriptor, `proc` that of /proc/self/fd, both ours from now on.
 * The working directory must be `proc` too. NULL, with errno: no memory, or no openat2. */
struct server *server_open(int root, int proc, bool readonly);
void server_close(struct server *s);
/* One request of `len` bytes; gives the reply's length, at most `room`, 0 if none fits or the
 * request has no header. Any thread. Both buffers may be shared with somebody hostile: what was
 * checked is not read again. */
size_t server_handle(struct server *s, const uint8_t *request, size_t len, uint8_t *reply,
                     size_t room);

/* ---- fids.c ---- */
struct node *node_open(struct server *s, struct node *parent, const char *name, int *error);
struct node *node_keep(struct node *n);
void node_drop(struct node *n);
/* The fid with that number, kept until fid_drop; NULL: there is none. *node, if wanted, is kept
 * too. */
struct fid *fid_get(struct server *s, uint32_t id, struct node **node);
void fid_drop(struct server *s, struct fid *f);
/* Takes over `node`; -EEXIST, -ENOMEM, -EMFILE drop it. */
int fid_add(struct server *s, uint32_t id, uint32_t uid, struct node *node, struct fid **added);
/* Forgets the number; the fid lives on while others keep it. Gives it (to be dropped) or NULL. */
struct fid *fid_remove(struct server *s, uint32_t id);
void fid_remove_all(struct server *s);
/* A fid of an extended attribute. Takes over `node` and `x`. */
int fid_add_xattr(struct server *s, uint32_t id, uint32_t uid, struct node *node,
                  enum fid_kind kind, struct xattr *x);
int fid_becomes_xattr(struct server *s, struct fid *f, enum fid_kind kind, struct xattr *x);
/* Another place for a fid that is not open; takes over `node`. */
int fid_move(struct server *s, struct fid *f, struct node *node);
/* Its descriptor if it is of that kind, else -1. It stays open while the fid is kept. */
int fid_fd(struct server *s, struct fid *f, enum fid_kind kind);
bool fid_is(struct server *s, struct fid *f, enum fid_kind kind);
/* From a path to an open file; takes over `fd` and `node` (NULL: where it is). */
int fid_opened(struct server *s, struct fid *f, enum fid_kind kind, int fd, struct node *node);

/* ---- what handlers share ---- */
bool name_good(const char *name);                  /* one component that leads down */
void name_of(char text[16], const struct node *n); /* in /proc/self/fd */
void out_qid(struct call *c, const struct stat *st);
int node_stat(const struct node *n, struct stat *st);

typedef int handler(struct call *c); /* 0, or a negative errno */
handler do_walk, do_mkdir, do_symlink, do_mknod, do_link, do_rename, do_renameat, do_unlinkat,
    do_remove, do_readlink;
handler do_lopen, do_lcreate, do_read, do_write, do_readdir, do_fsync, do_clunk, do_lock,
    do_getlock;
handler do_getattr, do_setattr, do_statfs, do_xattrwalk, do_xattrcreate;
int xattr_store(struct server *s, struct fid *f); /* what a clunk of a written one does */

#endif
