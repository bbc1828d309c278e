/* SPDX-License-Identifier: MIT */
/* Guest memory: RAM regions in memfds, checked translation, dirty pages.
 *
 * Regions are added while the machine is assembled and never move afterwards, so lookups take no
 * lock. The only way from a guest address to a host pointer is mem_at, and it always takes a
 * length. */
#ifndef HULL_MEM_H
#define HULL_MEM_H

#include "base/err.h"

typedef uint64_t gpa; /* guest physical address */

#define MEM_REGIONS_MAX 16

struct mem_region {
    const char *name;
    gpa base;
    uint64_t size; /* bytes, a multiple of 4 KiB */
    uint8_t *host; /* followed by an inaccessible guard page */
    int fd; /* memfd, owned by the region; -1: anonymous, or a private mapping of a saved memory */
    uint64_t fd_offset; /* where the region begins in it */
    bool anonymous;     /* fd is -1 because it has no file: what is dropped comes back as zeroes */
    bool huge;          /* of reserved huge pages */
    bool readonly;      /* ROM: guest writes vanish, mem_write refuses */
    uint64_t *dropped;  /* of a saved memory: pages that the guest gave back, one bit each */
    uint64_t *dirty;    /* one bit per page, NULL while the log is off; set with atomic or */
};

struct mem_watcher { /* an engine that caches decoded code hears of every write by devices */
    void (*written)(struct mem_watcher *w, struct mem_region *r, uint64_t offset, size_t len);
};

struct mem {
    struct mem_region region[MEM_REGIONS_MAX]; /* sorted by base */
    unsigned count;
    const char *unlogged;        /* who writes to memory without marking pages; NULL: nobody */
    struct mem_watcher *watcher; /* set by the engine; may be NULL */
    int backing;                 /* mem_back's file, -1: none */
    bool huge;                   /* mem_use_huge */
    bool files;                  /* mem_use_files */
};

void mem_init(struct mem *m);
/* Maps `size` fresh zero bytes at `base`. Overlap is an error. Pages are allocated on first touch.
 */
bool mem_add(struct mem *m, const char *name, gpa base, uint64_t size, bool readonly,
             struct err *err);
void mem_close(struct mem *m);
/* Regions added from now on are made of the host's reserved huge pages of 2 MiB, but for those that
 * are smaller. An error if fewer than `bytes` of them are free. */
bool mem_use_huge(struct mem *m, uint64_t bytes, struct err *err);

/* Regions added from now on are in files that another process can map: what a vhost-user back end
 * needs. */
void mem_use_files(struct mem *m);

/* Regions added from now on begin with the contents of a saved memory, which is mapped privately:
 * pages come from the file when they are touched, and what the guest writes stays in this process.
 * `fd` stays the caller's and may be closed once all regions are there; it must be long enough. */
void mem_back(struct mem *m, int fd);
/* Where region `i` lies in a saved memory, and (i == count) how long that file is. */
uint64_t mem_file_offset(const struct mem *m, unsigned i);
/* Lays `len` bytes of another saved memory, from the same offset in it, over a private region.
 * Whole pages. */
bool mem_overlay(struct mem_region *r, uint64_t offset, uint64_t len, int fd, uint64_t file_offset,
                 struct err *err);
/* Gives whole pages back to the host: they read as zeroes afterwards, if the host can do it. */
void mem_discard(struct mem_region *r, uint64_t offset, uint64_t len);

struct mem_region *mem_find(struct mem *m, gpa addr,
                            size_t len); /* NULL unless wholly inside one */

/* `len` bytes inside one RAM region, or NULL. Mark them dirty after writing them, not before. */
void *mem_at(struct mem *m, gpa addr, size_t len);
/* As mem_at, but NULL for read-only regions: for devices that will write. */
void *mem_at_writable(struct mem *m, gpa addr, size_t len);
void mem_dirty(struct mem *m, gpa addr, size_t len);

/* Copies may cross regions: all bytes and 0, or no bytes and -EFAULT. */
int mem_read(struct mem *m, gpa addr, void *dst, size_t len);
int mem_write(struct mem *m, gpa addr, const void *src, size_t len);
/* For loaders: mem_write that may fill read-only regions too. */
int mem_load(struct mem *m, gpa addr, const void *src, size_t len);

/* Starts the dirty log with all pages clean. Both while vCPUs and devices are paused. */
bool mem_log_start(struct mem *m, struct err *err);
void mem_log_stop(struct mem *m);

#endif
