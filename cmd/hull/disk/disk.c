/* SPDX-License-Identifier: MIT */
/* hull disk: finds the verb, reads its options, runs it on a loop of its own. */
#include "disk.h"
#include "field/field.h"
#include <stdio.h>
#include <stdlib.h>

static const struct disk_verb *const verbs[] = {
    &disk_create,  &disk_info,   &disk_convert, &disk_check,  &disk_compare,  &disk_map,
    &disk_measure, &disk_resize, &disk_rebase,  &disk_commit, &disk_snapshot, &disk_bitmap,
};

static void print_help(FILE *out)
{
    fprintf(out, "Usage: hull disk VERB [options] FILE...\n\n"
                 "Makes, shows, changes and copies disk images (qcow2, raw). Takes qemu-img's "
                 "options too.\n\n");
    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
        fprintf(out, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(out, "\nExamples:\n"
                 "  hull disk create disk.qcow2 20G\n"
                 "  hull disk convert --compress disk.qcow2 small.qcow2\n"
                 "  hull disk info --backing-chain disk.qcow2\n"
                 "\nhull disk VERB --help tells more; so does man hull-disk.\n");
}

static const struct disk_verb *find_verb(const char *name, struct err *err)
{
    const char *names[ARRAY_SIZE(verbs) + 1] = {NULL}, *near;

    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++) {
        names[i] = verbs[i]->name;
        if (!strcmp(names[i], name))
            return verbs[i];
    }
    near = nearest_word(name, names);
    err_set(err, EINVAL, "disk %s: no such verb%s%s%s", name, near ? ", did you mean " : "",
            near ? near : "", near ? "?" : "");
    return NULL;
}

int disk_usage(const struct disk_args *a, const struct err *err)
{
    char verb[32];

    snprintf(verb, sizeof verb, "disk %s", a->verb->name);
    usage_error(verb, err);
    return a->verb->usage_status ? a->verb->usage_status : EXIT_USAGE;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    return false;
}

int cmd_disk(int argc, char **argv)
{
    struct disk_args a = {0};
    struct err err;
    int status;

    if (argc == 0) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h") || !strcmp(argv[0], "help")) {
        print_help(stdout);
        return EXIT_DONE;
    }
    a.verb = find_verb(argv[0], &err);
    if (!a.verb)
        return usage_error("disk", &err);
    if (wants_help(argc - 1, argv + 1)) {
        disk_verb_help(a.verb);
        return EXIT_DONE;
    }
    if (!disk_args_read(&a, argc - 1, argv + 1, &err)) {
        status = disk_usage(&a, &err);
    } else if (!(a.loop = loop_open(&err))) {
        status = disk_failed(&err);
    } else {
        status = a.verb->run(&a);
        loop_close(a.loop);
    }
    free(a.options);
    return status;
}
