/* SPDX-License-Identifier: MIT */
/* The parts of the qcow2 driver to each other. The format: QEMU's docs/interop/qcow2.txt; the
 * design, with the order of writes that keeps an image whole through a power cut: doc/qcow2.md.
 *
 * Nothing here blocks and nothing is a coroutine. A request (q_req) has a step function that does
 * what it can; when a metadata page is missing or a cluster is busy it leaves its q_wait there and
 * returns, and resume() calls the step again, which looks everything up anew. */
#ifndef HULL_QCOW2_H
#define HULL_QCOW2_H

#include "block/bitmap.h"
#include "block/format.h"
#include "block/image.h"
#include "base/log.h"

#define Q_MAGIC       0x514649fbu
#define Q_OFFSET_MASK 0x00fffffffffffe00ULL
#define Q_COPIED      BIT(63)
#define Q_COMPRESSED  BIT(62)
#define Q_ZERO_FLAG   BIT(0)

enum {
    Q_HEAD = 512, /* the part of the header that changes: one sector, so written whole or not */
    Q_L1_MAX = 32 << 20,
    Q_REFTABLE_MAX = 8 << 20,
    Q_SNAPSHOTS_MAX = 65536,
    Q_PAGE_MAX = 4096,
    Q_BITMAPS_MAX = 4096,
    Q_BITMAP_DIR_MAX = 1 << 20,
    Q_BITMAP_LOAD_MAX = 16 << 20, /* bytes of bits that are not zero, of all bitmaps of an image */
};

enum { /* incompatible features */
       Q_INCOMPAT_DIRTY = 1,
       Q_INCOMPAT_CORRUPT = 2,
       Q_INCOMPAT_DATA_FILE = 4,
       Q_INCOMPAT_COMPRESSION = 8,
       Q_INCOMPAT_EXTL2 = 16,
       Q_INCOMPAT_KNOWN = 31,
};
enum { Q_COMPAT_LAZY = 1 };
enum { Q_AUTOCLEAR_BITMAPS = 1, Q_AUTOCLEAR_DATA_RAW = 2, Q_AUTOCLEAR_KNOWN = 3 };

enum { /* header extensions */
       Q_EXT_END = 0,
       Q_EXT_BACKING_FORMAT = 0xe2792aca,
       Q_EXT_FEATURES = 0x6803f857,
       Q_EXT_BITMAPS = 0x23852875,
       Q_EXT_CRYPTO = 0x0537be77,
       Q_EXT_DATA_FILE = 0x44415441,
};

struct q_header { /* checked: see header.c */
    uint32_t version, cluster_bits, crypt_method, l1_size, reftable_clusters, snapshot_count;
    uint32_t refcount_order, header_length;
    uint64_t size, l1_offset, reftable_offset, snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint8_t compression; /* 0 zlib, 1 zstd */
    uint32_t bitmap_count;
    uint64_t bitmaps_offset, bitmaps_size;
    uint64_t backing_at; /* where in the file the name is; 0: anywhere */
    char backing[1024], backing_format[16], data_file[1024];
};

struct q_wait { /* embedded in whoever waits; on one list at a time */
    struct list link;
    int error; /* of what was waited for */
    void (*resume)(struct q_wait *w);
};

enum q_page_kind { Q_PAGE_L2, Q_PAGE_REF };

struct q_page { /* a piece of an L2 table or refcount block */
    struct list hash, lru;
    uint64_t offset; /* in the file */
    uint8_t *data;
    enum q_page_kind kind;
    bool loading, dirty;
    bool fresh;   /* part of a new table that nothing on disk refers to yet */
    bool writing; /* a commit has it in hand */
    unsigned pins;
    struct list waits;
    struct qcow2 *q;
    struct iovec iov;
    struct block_req req;
};

struct q_cache {
    unsigned page_size, count, max, dirty;
    struct list *bucket;
    unsigned buckets;
    struct list lru; /* least recently used first */
};

enum q_kind { Q_NONE, Q_ZERO, Q_DATA, Q_PACKED };

struct q_map { /* a range of the disk that is all alike */
    enum q_kind kind;
    uint64_t host;   /* of its first byte; of packed data, the descriptor */
    uint64_t length; /* bytes */
    bool copied;     /* ours alone: may be written in place */
    bool allocated;  /* there is a host cluster, whatever the subcluster is */
};

struct q_free { /* clusters that one reference less is held of */
    uint64_t first, count;
};

struct q_frees {
    struct q_free *item;
    unsigned count, room;
};

struct q_write;

struct q_commit { /* commit.c */
    struct qcow2 *q;
    struct call call;
    struct list waits, served; /* q_wait: for the next commit, for this one */
    struct q_write **write;
    unsigned count, room, step, written, pending;
    bool running, syncing, moved, retable;
    int error;
    struct block_req sync, data_sync;
    struct q_frees frees;
};

struct q_bitmaps {     /* bitmap_store.c */
    uint8_t *dir;      /* as on disk; NULL: none, or not open for writing */
    bool in_use;       /* the disk says so */
    bool marking;      /* it is being written */
    bool removed;      /* some of them, in memory only */
    struct list waits; /* writes that must wait for that */
    struct block_req req;
    struct iovec iov;
};

struct qcow2 {
    struct block *b;
    struct q_header h;
    uint8_t head[Q_HEAD]; /* as on disk */
    uint64_t cluster_size;
    unsigned cluster_bits, l2_bits, entry_size, sub_bits, subs; /* subs: subclusters per cluster */
    uint64_t *l1;                                               /* host byte order */
    uint32_t l1_size;
    uint64_t *reftable;
    uint32_t reftable_size; /* entries */
    struct q_cache cache;
    bool reftable_dirty, reftable_moved;
    uint8_t *l1_dirty; /* one for 64 entries, a sector */
    /* refcount.c */
    uint64_t free_hint; /* no cluster below is free */
    uint64_t virgin;    /* the file was never written from here on: reads as zeroes */
    struct q_frees frees, drain_next, draining, releasing;
    unsigned epoch, epoch_count[2]; /* requests in flight, by the epoch they began in */
    struct q_wait release_wait;
    bool release_waiting, release_busy;
    struct q_page *release_page;
    uint64_t release_index, release_first, release_count;
    struct block_req release_req;
    struct q_commit commit;
    struct list allocs;       /* write.c: q_alloc in flight */
    struct list tables;       /* write.c: L2 tables being made */
    uint64_t compress_at;     /* where the next compressed cluster may go; 0: take a cluster */
    uint64_t snapshots_bytes; /* of the table, while one is changed */
    bool corrupt;
    uint8_t *unpacked; /* the cluster that was decompressed last, and its descriptor */
    uint64_t unpacked_from;
    struct q_bitmaps bitmaps;
    struct log_limit limit;
};

struct q_req { /* one block_req on its way */
    struct qcow2 *q;
    struct block_req *req;
    uint64_t at, end;
    unsigned pending; /* parts in flight, plus one while stepping */
    int error;
    unsigned epoch;
    bool submitting, committing;
    struct q_wait wait;
    void (*step)(struct q_req *r);
};

struct q_part { /* one I/O for a request */
    struct block_req req;
    struct q_req *owner;
    uint64_t guest; /* where in the disk */
    uint64_t descriptor;
    int data_count;
    uint8_t *buffer;
    struct iovec iov[];
};

static inline uint64_t q_in_cluster(const struct qcow2 *q, uint64_t offset)
{
    return offset & (q->cluster_size - 1);
}

/* header.c */
bool q_header_read(struct block *under, const char *file, struct q_header *h, struct err *err);
/* The first cluster's contents; false if it does not fit. `sector`: only the first sector is going
 * to be written, and the name of the backing file is where backing_at says already. */
bool q_header_write(const struct q_header *h, uint8_t *cluster, bool sector, struct err *err);

/* cache.c. Get: 0 and *page, or 1 and `w` will be resumed, or -errno. A page may go at the next get
 * unless it is pinned. */
bool q_cache_open(struct qcow2 *q, uint64_t bytes, struct err *err);
void q_cache_close(struct qcow2 *q);
int q_page_get(struct qcow2 *q, uint64_t offset, enum q_page_kind kind, struct q_wait *w,
               struct q_page **page);
/* A page of a new table: zeroes, dirty, fresh. NULL: out of memory. */
struct q_page *q_page_make(struct qcow2 *q, uint64_t offset, enum q_page_kind kind);
struct q_page *q_page_find(struct qcow2 *q, uint64_t offset);
void q_page_dirty(struct q_page *p);
void q_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t length); /* of clusters now free */
void q_cache_forget(struct qcow2 *q); /* all pages, written or not; nothing may be in flight */
void q_resume_all(struct list *waits, int error);

/* map.c: 0, 1 (waiting) or -errno; *m says what is at `offset`, for at most `length` bytes. */
int q_lookup(struct qcow2 *q, uint64_t offset, uint64_t length, struct q_wait *w, struct q_map *m);
int q_decode(struct qcow2 *q, const uint8_t *entry, unsigned sub, struct q_map *m);
int q_l2_offset(struct qcow2 *q, uint64_t offset, uint64_t *table, bool *copied);
int q_l2_page(struct qcow2 *q, uint64_t table, uint64_t offset, struct q_wait *w,
              struct q_page **page, unsigned *at);
uint64_t q_packed_offset(const struct qcow2 *q, uint64_t descriptor, uint64_t *length);
int q_corrupt_now(struct qcow2 *q, const char *what, uint64_t where); /* and marks the image */
int q_corrupt(struct qcow2 *q, const char *what, uint64_t where);     /* says so; returns -EIO */

/* read.c */
void q_read_step(struct q_req *r);
/* The next `length` bytes of the request as an I/O of its own, counted as pending; NULL: no memory.
 * The end frees it and reports. */
struct q_part *q_part_new(struct q_req *r, uint64_t length);
void q_part_end(struct q_part *p, int result);
int q_iov_slice(const struct iovec *iov, int count, uint64_t from, uint64_t length,
                struct iovec *out);
void q_iov_zero(const struct iovec *iov, int count);

/* refcount.c. Take: how many of the wanted clusters, in a row at *offset, counted once; 0: waiting.
 * *virgin: they read as zeroes. Free: one reference less, some time after the next commit. */
int64_t q_take(struct qcow2 *q, uint64_t want, struct q_wait *w, uint64_t *offset, bool *virgin);
void q_free(struct qcow2 *q, uint64_t offset, uint64_t clusters);
int q_ref_more(struct qcow2 *q, uint64_t offset, struct q_wait *w);
uint64_t q_ref_get(const uint8_t *block, uint64_t index, unsigned order);
void q_ref_set(uint8_t *block, uint64_t index, unsigned order, uint64_t value);
uint64_t q_ref_max(const struct qcow2 *q);
bool q_overlaps(const struct qcow2 *q, uint64_t offset, uint64_t length); /* header, tables */
void q_frees_move(struct q_frees *to, struct q_frees *from);
void q_drain_check(struct qcow2 *q);
void q_refcount_open(struct qcow2 *q);

/* commit.c. Commit: begins one soon; `w` (or NULL) is resumed after one that covers all until now.
 * Settle: waits until all is on disk and everything freed is free. */
void q_commit(struct qcow2 *q, struct q_wait *w);
void q_commit_open(struct qcow2 *q);
bool q_is_clean(const struct qcow2 *q);
int q_settle(struct qcow2 *q);

/* write.c, zero.c */
void q_write_step(struct q_req *r);
void q_zero_step(struct q_req *r);
/* A piece at r->at, at most up to `to`: 0, 1 (waiting) or -errno. */
int q_write_piece(struct q_req *r, uint64_t to);
int q_pack_piece(struct q_req *r); /* the same, compressed */
/* The L2 table for `offset` is ours alone, made or copied if need be: 0, 1 or -errno. */
int q_own_table(struct qcow2 *q, uint64_t offset, struct q_wait *w, uint64_t *table);
struct q_alloc *q_alloc_at(struct qcow2 *q, uint64_t offset); /* in flight there, or NULL */
void q_alloc_wait(struct q_alloc *a, struct q_wait *w);
void q_free_entry(struct qcow2 *q, uint64_t entry); /* what an L2 entry referred to */

/* compress.c: bytes or -errno. Unpack fills `out` wholly or fails. */
int q_unpack(const struct qcow2 *q, const uint8_t *in, size_t len, uint8_t *out);
int q_pack(const struct qcow2 *q, const uint8_t *in, uint8_t *out, size_t room);

/* open.c */
int q_head_write(struct qcow2 *q); /* q->head, durable; waits */
int q_header_update(struct qcow2 *q, const struct q_header *h, struct err *err); /* header.c */
void q_req_put(struct q_req *r, int result); /* one pending less; the last one ends the request */

/* For set-up and tools: a waiter that turns the loop. q_sleep: 1 (look again) or -errno. */
struct q_sleep {
    struct q_wait wait;
    bool woken;
};
void q_sleep_init(struct q_sleep *s);
int q_sleep(struct qcow2 *q, struct q_sleep *s);
/* `entries` big-endian numbers in host order; the caller's to free. NULL on error. */
uint64_t *q_table_read(struct qcow2 *q, uint64_t offset, uint64_t entries, struct err *err);

/* walk.c: each L1 entry that is not 0, then the entries of its table that are not 0 (`at`: where in
 * the file; `guest`: where in the disk). A visitor's error ends the walk. */
struct q_walk {
    int (*table)(struct q_walk *w, uint64_t index, uint64_t entry);
    int (*entry)(struct q_walk *w, uint64_t at, uint64_t guest, const uint8_t *entry);
};
int q_walk(struct qcow2 *q, const uint64_t *l1, uint64_t l1_size, struct q_walk *w);
uint64_t q_file_clusters(struct qcow2 *q);
uint64_t q_entry_clusters(const struct qcow2 *q, const uint8_t *entry, uint64_t *first);
int q_page_wait(struct qcow2 *q, uint64_t offset, enum q_page_kind kind, struct q_page **page);
int q_ref_wait(struct qcow2 *q, uint64_t cluster, bool more, uint64_t *count);

/* check.c, resize.c */
int q_check(struct qcow2 *q, unsigned fix, struct block_check *result, struct err *err);
bool qcow2_check(struct block *b, unsigned fix, struct block_check *result, struct err *err);
bool qcow2_resize(struct block *b, uint64_t size, struct err *err);

/* bitmap.c: calls mark(arg, offset, bytes, what) for all that bitmaps occupy. */
int q_bitmaps_visit(struct qcow2 *q, void (*mark)(void *, uint64_t, uint64_t, const char *),
                    void *arg);
struct q_bitmap_entry {     /* of the directory, checked */
    uint64_t table, length; /* length: of the entry */
    uint32_t entries, flags, extra;
    uint8_t granularity_bits;
    uint16_t name_length;
    const uint8_t *name;
};
enum { Q_BITMAP_IN_USE = 1, Q_BITMAP_AUTO = 2, Q_BITMAP_EXTRA_COMPATIBLE = 4 };
bool q_bitmap_parse(const struct qcow2 *q, const uint8_t *p, uint64_t left,
                    struct q_bitmap_entry *e);
bool q_bitmaps_open(struct qcow2 *q, struct err *err);
bool q_bitmap_load(struct block_bitmap *m, struct err *err);

/* bitmap_store.c */
bool q_bitmap_may_persist(struct block *b, const char *name, uint32_t granularity, struct err *err);
void q_bitmap_removed(struct block_bitmap *m);
int q_bitmaps_in_use(struct qcow2 *q, struct q_wait *w); /* 0, or 1: `w` waits for the mark */
int q_bitmaps_in_use_now(struct qcow2 *q);               /* waits */
int q_bitmaps_store(struct qcow2 *q);                    /* at the end; the image is at rest */

/* snapshot.c */
struct q_snapshot {
    uint64_t l1_offset, vm_clock, state_size, disk_size, icount;
    uint32_t l1_size, date_s, date_ns, extra_size;
    uint8_t *extra; /* as found */
    char id[64], name[256];
};
bool q_snapshots_load(struct qcow2 *q, struct q_snapshot **list, unsigned *count, struct err *err);
void q_snapshots_free(struct q_snapshot *s, unsigned count);
uint64_t q_snapshots_bytes(const struct q_snapshot *s, unsigned count);
bool q_snapshot_open(struct qcow2 *q, const char *name, struct err *err);
int q_take_row(struct qcow2 *q, uint64_t clusters, uint64_t *offset); /* in a row; waits */

/* create.c */
bool q_create_check(const struct block_create *c, struct err *err);
bool q_create(struct block *under, const struct block_create *c, uint64_t size, struct err *err);

#endif
