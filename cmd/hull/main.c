/* SPDX-License-Identifier: MIT */
/* hull: the command line. Finds the verb, runs it, returns its status. */
#include "hull.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct verb {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"run", "run a machine in the foreground, console on this terminal", cmd_run},
    {"snapshot", "save a running machine to a directory", cmd_snapshot},
    {"restore", "let a saved machine go on", cmd_restore},
    {"clone", "let copies of a saved machine run", cmd_clone},
    {"image", "build bootable disk images from packages", cmd_image},
    {"disk", "make, show, change and copy disk images", cmd_disk},
    {"top", "what a running machine's soft engine does", cmd_top},
    {"info", "this host: engines, what limits speed, what is missing", cmd_info},
    {"help", "this text, or help on a verb", cmd_help},
};

/* Verbs of DESIGN.md section 9 that come with later work; named so that the error can say so. */
static const char *const later[] = {
    "create", "start",  "stop",    "kill",    "pause", "resume", "reboot", "list",
    "show",   "edit",   "delete",  "console", "log",   "exec",   "copy",   "stats",
    "pool",   "volume", "network", "migrate", "host",  "events", NULL,
};

static void print_help(FILE *out)
{
    fprintf(out, "Usage: hull VERB [options]\n\n");
    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
        fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(out, "\nExamples:\n"
                 "  hull image build debian -o debian.img\n"
                 "  hull run debian.img --memory 1G --net user,forward=tcp:2222:22\n"
                 "  hull run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n"
                 "\nhull VERB --help tells more; so does man hull.\n");
}

static const struct verb *find_verb(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
        if (!strcmp(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

int usage_error(const char *verb, const struct err *err)
{
    log_error("%s", err->text);
    fprintf(stderr, "Try: hull %s%s--help\n", verb, *verb ? " " : "");
    return EXIT_USAGE;
}

static int unknown_verb(const char *name)
{
    const char *names[ARRAY_SIZE(verbs) + 1] = {NULL}, *near;
    struct err err;

    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
        names[i] = verbs[i].name;
    for (unsigned i = 0; later[i]; i++)
        if (!strcmp(later[i], name)) {
            err_set(&err, ENOSYS, "%s: not in this version of hull", name);
            return usage_error("", &err);
        }
    near = nearest_word(name, names);
    err_set(&err, EINVAL, "%s: no such verb%s%s%s", name, near ? ", did you mean " : "",
            near ? near : "", near ? "?" : "");
    return usage_error("", &err);
}

int cmd_help(int argc, char **argv)
{
    const struct verb *verb = argc > 0 ? find_verb(argv[0]) : NULL;
    char *help[] = {"--help"};

    if (argc > 0 && !verb)
        return unknown_verb(argv[0]);
    if (verb && verb->run != cmd_help)
        return verb->run(1, help);
    print_help(stdout);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    const struct verb *verb;

    log_setup("hull", LOG_WARN);
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return cmd_help(0, NULL);
    if (!strcmp(argv[1], "--version")) {
        printf("hull %s\n", HULL_VERSION);
        return EXIT_DONE;
    }
    verb = find_verb(argv[1]);
    return verb ? verb->run(argc - 2, argv + 2) : unknown_verb(argv[1]);
}
