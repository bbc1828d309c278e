/* SPDX-License-Identifier: MIT */
/* Reads a verb's options from its table and prints its --help from the same table. As with getopt:
 * options may stand anywhere, letters may be joined ("-pc", "-fqcow2"), "--name=value" and "--name
 * value" are the same, and "--" ends them. */
#include "disk.h"
#include "field/field.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const struct disk_opt disk_common_opts[] = {
    DISK_OPT(0, "json", OPT_FLAG, json, NULL, "the answer for programs, with qemu-img's names"),
    DISK_OPT(0, "output", OPT_TEXT, output, "human|json", NULL),
    DISK_OPT('q', "quiet", OPT_FLAG, quiet, NULL, "say nothing but errors"),
    {0},
};

enum { NAMES_MAX = 64 };

static bool takes_value(const struct disk_opt *o)
{
    return o->kind != OPT_FLAG && o->kind != OPT_SKIP;
}

static const struct disk_opt *in_table(const struct disk_opt *table, const char *name, size_t len,
                                       char letter)
{
    for (const struct disk_opt *o = table; o->name || o->letter; o++) {
        if (letter ? o->letter == letter
                   : o->name && strlen(o->name) == len && !strncmp(o->name, name, len))
            return o;
    }
    return NULL;
}

static const struct disk_opt *find_opt(const struct disk_args *a, const char *name, size_t len,
                                       char letter)
{
    const struct disk_opt *o = in_table(a->verb->opts, name, len, letter);

    return o ? o : in_table(disk_common_opts, name, len, letter);
}

static bool no_such_option(const struct disk_args *a, const char *name, size_t len, struct err *err)
{
    const char *names[NAMES_MAX] = {NULL}, *near;
    char word[64];
    unsigned n = 0;

    for (const struct disk_opt *o = a->verb->opts; (o->name || o->letter) && n < 50; o++)
        if (o->name && o->say)
            names[n++] = o->name;
    for (const struct disk_opt *o = disk_common_opts; o->name; o++)
        names[n++] = o->name;
    snprintf(word, sizeof word, "%.*s", (int)len, name);
    near = nearest_word(word, names);
    return err_set(err, EINVAL, "--%s: no such option%s%s%s", word, near ? ", did you mean --" : "",
                   near ? near : "", near ? "?" : "");
}

static bool append(char **list, const char *more, struct err *err)
{
    char *joined = NULL;

    if (asprintf(&joined, "%s%s%s", *list ? *list : "", *list ? "," : "", more) < 0)
        return err_set(err, ENOMEM, "out of memory");
    free(*list);
    *list = joined;
    return true;
}

static bool store(struct disk_args *a, const struct disk_opt *o, const char *shown,
                  const char *value, struct err *err)
{
    void *to = (char *)a + o->to;
    char *end;

    if (a->given_count == ARRAY_SIZE(a->given))
        return err_set(err, E2BIG, "%s: too many options", shown);
    a->given[a->given_count++] = (struct disk_given){o->to, value};
    switch ((enum disk_opt_kind)o->kind) {
    case OPT_FLAG: *(bool *)to = true; return true;
    case OPT_TEXT: *(const char **)to = value; return true;
    case OPT_LIST: return append(to, value, err);
    case OPT_SIZE: return size_parse(value, to, err) || err_wrap(err, "%s", shown);
    case OPT_NUMBER:
        errno = 0;
        *(uint64_t *)to = strtoull(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || *end || errno)
            return err_set(err, EINVAL, "%s %.40s: not a number", shown, value);
        return true;
    case OPT_SKIP:
    case OPT_SKIP_VALUE: return true;
    }
    return true;
}

static bool read_long(struct disk_args *a, int argc, char **argv, int *i, struct err *err)
{
    const char *name = argv[*i] + 2, *value = strchr(name, '=');
    size_t len = value ? (size_t)(value - name) : strlen(name);
    const struct disk_opt *o = find_opt(a, name, len, 0);
    char shown[80];

    if (!o)
        return no_such_option(a, name, len, err);
    snprintf(shown, sizeof shown, "--%s", o->name);
    if (!takes_value(o))
        return value ? err_set(err, EINVAL, "%s takes no value", shown)
                     : store(a, o, shown, NULL, err);
    if (!value && *i + 1 == argc)
        return err_set(err, EINVAL, "%s needs a value: %s", shown, o->arg ? o->arg : "VALUE");
    return store(a, o, shown, value ? value + 1 : argv[++*i], err);
}

static bool read_letters(struct disk_args *a, int argc, char **argv, int *i, struct err *err)
{
    for (const char *p = argv[*i] + 1; *p; p++) {
        const struct disk_opt *o = find_opt(a, "", 0, *p);
        char shown[3] = {'-', *p, 0};

        if (!o)
            return err_set(err, EINVAL, "%s: no such option", shown);
        if (!takes_value(o)) {
            if (!store(a, o, shown, NULL, err))
                return false;
            continue;
        }
        if (p[1])
            return store(a, o, shown, p + 1, err);
        if (*i + 1 == argc)
            return err_set(err, EINVAL, "%s needs a value: %s", shown, o->arg ? o->arg : "VALUE");
        return store(a, o, shown, argv[++*i], err);
    }
    return true;
}

/* "-5G" is a size to shrink by, not letters. */
static bool is_option(const char *arg)
{
    return arg[0] == '-' && arg[1] && !(arg[1] >= '0' && arg[1] <= '9');
}

static bool check_args(struct disk_args *a, struct err *err)
{
    const struct disk_verb *v = a->verb;

    if (a->output && strcmp(a->output, "human") != 0 && strcmp(a->output, "json") != 0)
        return err_set(err, EINVAL, "--output %.40s: human or json", a->output);
    a->json |= a->output && !strcmp(a->output, "json");
    if (a->json && v->no_json)
        return err_set(err, EINVAL, "--json: disk %s has no answer but its status", v->name);
    if (a->progress_as && strcmp(a->progress_as, "json") != 0 &&
        strcmp(a->progress_as, "none") != 0)
        return err_set(err, EINVAL, "--progress %.40s: json or none", a->progress_as);
    if (a->options && (!strcmp(a->options, "help") || !strcmp(a->options, "?")))
        return true; /* no file is looked at */
    if (a->files < v->files_min)
        return err_set(err, EINVAL, "expected %s", v->usage);
    return true;
}

bool disk_args_read(struct disk_args *a, int argc, char **argv, struct err *err)
{
    bool only_files = false;

    for (int i = 0; i < argc; i++) {
        if (!only_files && !strcmp(argv[i], "--")) {
            only_files = true;
        } else if (!only_files && is_option(argv[i])) {
            if (!(argv[i][1] == '-' ? read_long : read_letters)(a, argc, argv, &i, err))
                return false;
        } else if (a->files == a->verb->files_max || a->files == ARRAY_SIZE(a->file)) {
            return err_set(err, EINVAL, "%.100s: one too many, expected %s", argv[i],
                           a->verb->usage);
        } else {
            a->file[a->files++] = argv[i];
        }
    }
    return check_args(a, err);
}

/* ---- help ---- */

static void print_opts(const struct disk_opt *table)
{
    for (const struct disk_opt *o = table; o->name || o->letter; o++) {
        char left[80], letter[8] = "";

        if (!o->say)
            continue;
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c%s", o->letter, o->name ? ", " : "");
        snprintf(left, sizeof left, "%s%s%s%s%s", letter, o->name ? "--" : "",
                 o->name ? o->name : "", o->arg ? " " : "", o->arg ? o->arg : "");
        printf(strlen(left) < 28 ? "  %-28s%s\n" : "  %s\n                              %s\n", left,
               o->say);
    }
}

void disk_verb_help(const struct disk_verb *v)
{
    printf("Usage: hull disk %s [options] %s\n\n%s\nOptions:\n", v->name, v->usage, v->about);
    print_opts(v->opts);
    print_opts(disk_common_opts + (v->no_json ? 2 : 0)); /* the answer's form: --json, --output */
    printf("\nExamples:\n%s", v->examples);
}
