/* SPDX-License-Identifier: MIT */
/* A snapshot's `state` file as programs read it that run no machine: what it says of the machine
 * beside devices and vCPUs. */
#ifndef HULL_MACHINE_SAVED_H
#define HULL_MACHINE_SAVED_H

#include "config/config.h"
#include "machine/state.h"
#include "mem/mem.h"

/* What the guest can notice of its machine, beside the devices. */
struct machine_facts {
    char hull[24], engine[8]; /* who saved it; for people */
    char cpu[24];             /* model */
    char features[1024];      /* that it offers, "name,name,..." */
    uint8_t id[16];           /* of this snapshot */
    uint8_t uuid[16];
    uint8_t generation[16]; /* VMGenID */
    uint64_t memory;        /* bytes */
    uint32_t cpus, tsc_khz, disks, nets;
    uint64_t xcr0_mask;
    uint64_t board_ns;    /* the board's clock */
    uint64_t saved_at_ns; /* the host's, since 1970 */
};
extern const struct field machine_facts_fields[];
#define MACHINE_FACTS_VERSION 1

/* A disk as it was: what was referenced in place must not have changed since. */
struct disk_fact {
    uint64_t size, mtime_ns;
    bool readonly;
};

struct disk_facts {
    struct disk_fact disk[CONFIG_DISKS];
};
extern const struct field disk_facts_fields[];
#define DISK_FACTS_VERSION 1

struct memory_region_fact {
    char name[32];
    uint64_t base, size, offset; /* guest address, bytes, place in the file */
};

struct memory_facts {
    bool partial;           /* only the pages of section "pages" are in the file */
    uint8_t base_id[16];    /* of the snapshot that has the others */
    char base[CONFIG_PATH]; /* its directory, relative to this one's */
    uint32_t count;
    struct memory_region_fact region[MEM_REGIONS_MAX];
};
extern const struct field memory_facts_fields[];
#define MEMORY_FACTS_VERSION 1

struct saved {
    char dir[CONFIG_PATH];
    uint8_t *bytes; /* of the file */
    struct state state;
    struct machine_facts facts;
    struct memory_facts memory;
};

/* Reads and checks DIR/state. NULL, with an error, if anything is wrong. */
struct saved *saved_open(const char *dir, struct err *err);
void saved_close(struct saved *s); /* accepts NULL */
/* The configuration that the machine was made of; `c` is zeroed. */
bool saved_config(const struct saved *s, struct config *c, struct err *err);
/* Opens DIR/NAME for reading; -1 with an error. */
int saved_file(const char *dir, const char *name, struct err *err);

#endif
