/* SPDX-License-Identifier: MIT */
/* The configuration of a saved machine, as this host's command line completes it. */
#include "saved_config.h"
#include "layers.h"
#include "machine/saved.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Options of hull run that do not change what the guest sees. */
static const char *const host_options[] = {
    "--name", "--engine", "--net",           "--serial",     "--console", "--qmp",   "--timeout",
    "--user", "--kernel", "--exit-on-panic", "--no-sandbox", "--initrd",  "--quiet", NULL,
};

static bool takes_value(const char *option)
{
    return strcmp(option, "--exit-on-panic") && strcmp(option, "--no-sandbox") &&
           strcmp(option, "--quiet") && !strchr(option, '=');
}

static bool known(const char *option)
{
    size_t len = strcspn(option, "=");

    for (unsigned i = 0; host_options[i]; i++)
        if (strlen(host_options[i]) == len && !strncmp(option, host_options[i], len))
            return true;
    return false;
}

static bool refuse(const char *option, struct err *err)
{
    const char *const *all = config_option_names(), *near;
    size_t len = strcspn(option, "=");

    for (unsigned i = 0; all[i]; i++)
        if (strlen(all[i]) == len && !strncmp(option, all[i], len))
            return err_set(err, EINVAL, "%s: belongs to the saved machine and cannot change",
                           all[i]);
    near = nearest_word(option, host_options);
    return err_set(err, EINVAL, "%s: no such option%s%s%s", option, near ? ", did you mean " : "",
                   near ? near : "", near ? "?" : "");
}

bool saved_options_read(struct saved_options *o, int argc, char **argv, struct err *err)
{
    o->rest = calloc((size_t)argc + 1, sizeof *o->rest);
    if (!o->rest)
        return err_set(err, ENOMEM, "no memory for options");
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--temporary"))
            o->temporary = true;
        else if (!strcmp(argv[i], "--verify"))
            o->verify = true;
        else if (!strcmp(argv[i], "--paused"))
            o->paused = true;
        else if (argv[i][0] == '-') {
            if (!known(argv[i]))
                return refuse(argv[i], err);
            o->rest[o->rest_count++] = argv[i];
            if (takes_value(argv[i]) && i + 1 < argc)
                o->rest[o->rest_count++] = argv[++i];
        } else if (o->dir)
            return err_set(err, EINVAL, "%s: one snapshot is enough", argv[i]);
        else
            o->dir = argv[i];
    }
    return o->dir || err_set(err, EINVAL, "expected the directory of a snapshot");
}

static bool option_given(const struct saved_options *o, const char *name)
{
    for (int i = 0; i < o->rest_count; i++)
        if (!strncmp(o->rest[i], name, strlen(name)) && strchr("=", o->rest[i][strlen(name)]))
            return true;
    return false;
}

/* ---- disks ---- */

/* A disk that was copied into the snapshot is used there. */
static void find_disks(const struct saved_options *o, struct config *c)
{
    char path[CONFIG_PATH + 16];

    for (unsigned i = 0; i < c->disk_count; i++) {
        struct config_disk *d = &c->disk[i];

        snprintf(path, sizeof path, "%s/disk%u", o->dir, i);
        if (!access(path, F_OK))
            snprintf(d->file, sizeof d->file, "%.*s", CONFIG_PATH - 1, path);
        d->temporary |= o->temporary;
    }
}

bool saved_options_apply(const struct saved_options *o, struct config *c, struct err *err)
{
    struct saved *saved = !o->verify || layers_verify(o->dir, err) ? saved_open(o->dir, err) : NULL;
    uint32_t nets;
    bool good = saved && saved_config(saved, c, err);

    saved_close(saved);
    if (!good)
        return false;
    nets = c->net_count;
    if (option_given(o, "--net"))
        c->net_count = 0;
    if (!config_parse_args(c, o->rest_count, o->rest, err))
        return false;
    if (c->net_count != nets)
        return err_set(err, EINVAL, "--net: the saved machine has %u interfaces, give as many",
                       nets);
    snprintf(c->restore, sizeof c->restore, "%s", o->dir);
    c->paused = o->paused;
    find_disks(o, c);
    return true;
}
