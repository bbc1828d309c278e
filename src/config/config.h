/* SPDX-License-Identifier: MIT */
/* What a machine should be, as plain structs: from the command line (`hull run`) or from JSON (what
 * hull-vmm is started with). Every string is NUL-terminated; an empty one means "not given". */
#ifndef HULL_CONFIG_H
#define HULL_CONFIG_H

#include "field/field.h"

#define CONFIG_PATH     4096
#define CONFIG_DISKS    24
#define CONFIG_NETS     8
#define CONFIG_PORTS    8
#define CONFIG_SHARES   8
#define CONFIG_CPUS_MAX 64u

struct config_disk { /* --disk FILE[,key=value]... */
    char file[CONFIG_PATH];
    char format[16]; /* raw, qcow2; empty: look at the file */
    char serial[21];
    char cache[16]; /* writeback, none, unsafe, writethrough */
    bool readonly;
    bool discard;
    bool temporary;            /* writes end with the machine; many machines may share the file */
    char aio[8];               /* uring, threads; empty: what the host offers */
    uint16_t queues;           /* 0: one per vCPU, at most 4 */
    char werror[8], rerror[8]; /* report, ignore, enospc, stop; empty: enospc, report */
    uint64_t bps, bps_rd, bps_wr, iops, iops_rd, iops_wr; /* a second; 0: no limit */
};

struct config_net {  /* --net KIND[,key=value]... */
    char text[2048]; /* as given; net_config_parse reads it */
    uint32_t fd;     /* connected hull-usernet socket inside hull-vmm, 0: none */
};

struct config_port { /* --port NAME,socket=PATH: a virtio-serial port */
    char name[64];
    char socket[108];
};

struct config_share { /* --share DIR[:TAG][,type=T][,readonly=on] */
    char dir[CONFIG_PATH];
    char tag[37];
    char type[12]; /* 9p, virtiofs; empty or auto: what this host has */
    bool readonly;
    /* Inside hull-vmm: connected to hull-9p or virtiofsd, 0: not; memory shared with hull-9p. */
    uint32_t fd, area_fd;
};

struct config {
    char name[64];
    char engine[16]; /* auto, kvm, soft, and soft,jit=on or off */
    char cpu[256];
    uint32_t cpus;
    uint64_t memory; /* bytes */
    bool hugepages;  /* of the host's reserved ones */
    char kernel[CONFIG_PATH], initrd[CONFIG_PATH];
    char append[CONFIG_PATH];
    struct config_disk disk[CONFIG_DISKS];
    uint32_t disk_count;
    struct config_net net[CONFIG_NETS];
    uint32_t net_count;
    struct config_port port[CONFIG_PORTS];
    uint32_t port_count;
    struct config_share share[CONFIG_SHARES];
    uint32_t share_count;
    char serial[CONFIG_PATH];  /* stdio, none, file:F, unix:S; fd:N inside hull-vmm */
    char console[CONFIG_PATH]; /* the virtio console, same words; none by default */
    char qmp[108];
    uint32_t control_fd; /* a connected QMP client inside hull-vmm, 0: none */
    uint64_t random_seed;
    bool has_random_seed;
    bool deterministic;
    uint32_t timeout_s; /* 0: none */
    bool exit_on_panic;
    bool debug_exit; /* isa-debug-exit at 0xf4 */
    bool balloon;
    uint32_t vsock_cid;        /* 0: no vsock */
    char vsock_socket[96];     /* in user space over this socket; empty: the kernel's vhost-vsock */
    char restore[CONFIG_PATH]; /* a snapshot's directory to go on from; empty: power on */
    bool paused;               /* restored, and waits for cont */
    bool fresh_identity;       /* a clone: new VMGenID and MACs */
    char image_dir[CONFIG_PATH]; /* block commands may open files below it; empty: none */
    bool nbd;                    /* block commands may export disks */
    char user[64];               /* drop to this user when started as root */
    bool sandbox;
    bool quiet; /* nothing about why it is not KVM */
};

void config_defaults(struct config *c);
/* The same of zeroes. A config is large and mostly empty: what is not touched costs nothing. */
void config_defaults_zeroed(struct config *c);
/* Disks, networks and ports beyond the counts stay as they are. */
void config_copy(struct config *to, const struct config *from);
/* Checks what can be checked without touching the host's files; errors name option, value and fix.
 */
bool config_check(const struct config *c, struct err *err);

/* The whole config as JSON and back. Unknown members and wrong types are errors. The text is
 * malloc'ed; NULL when out of memory, or if a text of the config is not UTF-8. */
char *config_to_json(const struct config *c);
bool config_from_json(struct config *c, const char *text, size_t len, struct err *err);
bool config_read_json(struct config *c, const char *text, size_t len, struct err *err); /* zeroed */

/* `hull run`'s arguments after the verb, in any order. Every error is wrong usage. */
bool config_parse_args(struct config *c, int argc, char **argv, struct err *err);
/* The option table as text for --help. */
void config_print_options(FILE *out);
/* "--engine", "--cpu", ..., NULL: for shell completion. */
const char *const *config_option_names(void);

#endif
