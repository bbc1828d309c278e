/* SPDX-License-Identifier: MIT */
/* Defaults, the checks that need no host, and the field tables that JSON and --disk are read by. */
#include "config/tables.h"
#include <stdlib.h>

#define LIMIT_MAX 1000000000000000 /* as QEMU has it */

const struct field config_disk_fields[] = {
    FIELD_TEXT(struct config_disk, file),
    FIELD_TEXT(struct config_disk, format),
    FIELD_TEXT(struct config_disk, serial),
    FIELD_TEXT(struct config_disk, cache),
    FIELD(struct config_disk, readonly, 1),
    FIELD(struct config_disk, discard, 1),
    FIELD(struct config_disk, temporary, 1),
    FIELD_TEXT(struct config_disk, aio),
    FIELD(struct config_disk, queues, 16),
    FIELD_TEXT(struct config_disk, werror),
    FIELD_TEXT(struct config_disk, rerror),
    FIELD_SIZE(struct config_disk, bps, LIMIT_MAX),
    FIELD_SIZE(struct config_disk, bps_rd, LIMIT_MAX),
    FIELD_SIZE(struct config_disk, bps_wr, LIMIT_MAX),
    FIELD(struct config_disk, iops, LIMIT_MAX),
    FIELD(struct config_disk, iops_rd, LIMIT_MAX),
    FIELD(struct config_disk, iops_wr, LIMIT_MAX),
    {0},
};

const struct field config_net_fields[] = {
    FIELD_TEXT(struct config_net, text),
    FIELD(struct config_net, fd, 65535),
    {0},
};

const struct field config_port_fields[] = {
    FIELD_TEXT(struct config_port, name),
    FIELD_TEXT(struct config_port, socket),
    {0},
};

const struct field config_share_fields[] = {
    FIELD_TEXT(struct config_share, dir),
    FIELD_TEXT(struct config_share, tag),
    FIELD_TEXT(struct config_share, type),
    FIELD(struct config_share, readonly, 1),
    FIELD(struct config_share, fd, 65535),
    FIELD(struct config_share, area_fd, 65535),
    {0},
};

/* clang-format off */
const struct field config_fields[] = {
    FIELD_TEXT(struct config, name),
    FIELD_TEXT(struct config, engine),
    FIELD_TEXT(struct config, cpu),
    FIELD(struct config, cpus, UINT32_MAX),
    FIELD(struct config, memory, UINT64_MAX),
    FIELD(struct config, hugepages, 1),
    FIELD_TEXT(struct config, kernel),
    FIELD_TEXT(struct config, initrd),
    FIELD_TEXT(struct config, append),
    FIELD_TEXT(struct config, serial),
    FIELD_TEXT(struct config, console),
    FIELD_TEXT(struct config, qmp),
    FIELD(struct config, control_fd, 65535),
    FIELD(struct config, random_seed, UINT64_MAX),
    FIELD(struct config, has_random_seed, 1),
    FIELD(struct config, deterministic, 1),
    FIELD(struct config, timeout_s, UINT32_MAX),
    FIELD(struct config, exit_on_panic, 1),
    FIELD(struct config, debug_exit, 1),
    FIELD(struct config, balloon, 1),
    FIELD(struct config, vsock_cid, UINT32_MAX),
    FIELD_TEXT(struct config, vsock_socket),
    FIELD_TEXT(struct config, restore),
    FIELD(struct config, paused, 1),
    FIELD(struct config, fresh_identity, 1),
    FIELD_TEXT(struct config, image_dir),
    FIELD(struct config, nbd, 1),
    FIELD_TEXT(struct config, user),
    FIELD(struct config, sandbox, 1),
    FIELD(struct config, quiet, 1),
    {0},
};
/* clang-format on */

void config_copy(struct config *to, const struct config *from)
{
    const struct {
        size_t from, to;
    } part[] = {
        {0, offsetof(struct config, disk[from->disk_count])},
        {offsetof(struct config, disk_count), offsetof(struct config, net[from->net_count])},
        {offsetof(struct config, net_count), offsetof(struct config, port[from->port_count])},
        {offsetof(struct config, port_count), sizeof *to},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(part); i++)
        memcpy((char *)to + part[i].from, (const char *)from + part[i].from,
               part[i].to - part[i].from);
}

void config_defaults(struct config *c)
{
    memset(c, 0, sizeof *c);
    config_defaults_zeroed(c);
}

void config_defaults_zeroed(struct config *c)
{
    strcpy(c->engine, "auto");
    strcpy(c->cpu, "x86-64-v2");
    c->cpus = 1;
    c->memory = 512 * MiB;
    strcpy(c->serial, "stdio");
    strcpy(c->console, "none");
    c->balloon = true;
    c->sandbox = true;
}

static bool check_word(const char *option, const char *value, const char *const *words,
                       struct err *err)
{
    const char *near;

    for (unsigned i = 0; words[i]; i++)
        if (!strcmp(value, words[i]))
            return true;
    near = nearest_word(value, words);
    if (near && *near)
        return err_set(err, EINVAL, "%s %s: no such choice, did you mean %s?", option, value, near);
    return err_set(err, EINVAL, "%s %s: no such choice; one of them is %s", option, value,
                   words[words[0][0] ? 0 : 1]);
}

static bool check_disks(const struct config *c, struct err *err)
{
    static const char *const caches[] = {"", "writeback", "none", "unsafe", "writethrough", NULL};
    static const char *const aios[] = {"", "uring", "threads", NULL};
    static const char *const formats[] = {"", "raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", NULL};
    static const char *const policies[] = {"", "report", "ignore", "enospc", "stop", NULL};
    static const char *const read_policies[] = {"", "report", "ignore", "stop", NULL};

    for (unsigned i = 0; i < c->disk_count; i++) {
        const struct config_disk *d = &c->disk[i];

        if (!d->file[0])
            return err_set(err, EINVAL, "--disk: the file is missing: --disk FILE[,format=raw]");
        if (!check_word("--disk format", d->format, formats, err) ||
            !check_word("--disk cache", d->cache, caches, err) ||
            !check_word("--disk aio", d->aio, aios, err) ||
            !check_word("--disk werror", d->werror, policies, err) ||
            !check_word("--disk rerror", d->rerror, read_policies, err))
            return false;
    }
    return true;
}

static bool check_memory(uint64_t memory, bool hugepages, struct err *err)
{
    unsigned long long bytes = memory;

    if (hugepages && memory % (2 * MiB))
        return err_set(err, EINVAL, "--memory %llu,hugepages=on: must be a multiple of 2M", bytes);

    if (memory < 2 * MiB)
        return err_set(err, EINVAL,
                       "--memory %llu: too small, at least 2M (a plain number is bytes)", bytes);
    if (memory % (64 * KiB))
        return err_set(err, EINVAL, "--memory %llu: must be a multiple of 64K", bytes);
    if (memory > 512 * GiB)
        return err_set(err, EINVAL, "--memory %lluG: at most 512G", bytes >> 30);
    return true;
}

static bool check_vsock(const struct config *c, struct err *err)
{
    if (c->vsock_cid < 3 && (c->vsock_cid || c->vsock_socket[0]))
        return err_set(err, EINVAL, "--vsock %u: a guest's CID is 3 or more (2 is the host)",
                       c->vsock_cid);
    return c->vsock_cid != UINT32_MAX ||
           err_set(err, EINVAL, "--vsock %u: stands for any CID; choose one from 3", c->vsock_cid);
}

static bool check_share(const struct config *c, unsigned i, struct err *err)
{
    static const char *const types[] = {"", "auto", "9p", "virtiofs", NULL};
    const struct config_share *s = &c->share[i];

    if (!s->dir[0] || !s->tag[0])
        return err_set(err, EINVAL, "--share: must be DIR or DIR:TAG");
    for (unsigned k = 0; k < i; k++)
        if (!strcmp(c->share[k].tag, s->tag))
            return err_set(err, EINVAL,
                           "--share %s: two shares are named %s; name them apart: DIR:TAG", s->dir,
                           s->tag);
    return check_word("--share type", s->type, types, err);
}

bool config_check(const struct config *c, struct err *err)
{
    static const char *const engines[] = {"auto",         "kvm",          "soft", "soft,jit=on",
                                          "soft,jit=off", "soft,perf=on", NULL};

    if (!check_word("--engine", c->engine, engines, err) || !check_disks(c, err) ||
        !check_memory(c->memory, c->hugepages, err) || !check_vsock(c, err))
        return false;
    for (unsigned i = 0; i < c->share_count; i++)
        if (!check_share(c, i, err))
            return false;
    if (c->cpus < 1 || c->cpus > CONFIG_CPUS_MAX)
        return err_set(err, EINVAL, "--cpus %u: must be 1 to %u", c->cpus, CONFIG_CPUS_MAX);
    if ((c->initrd[0] || c->append[0]) && !c->kernel[0])
        return err_set(err, EINVAL, "%s needs --kernel FILE",
                       c->initrd[0] ? "--initrd" : "--append");
    return true;
}
