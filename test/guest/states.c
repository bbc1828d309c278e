/* SPDX-License-Identifier: MIT */
/* guest-states: runs the cases of state images (test/guest/state), each in a machine of its own,
 * all machines in this process one after the other, and writes how each ends: the state of its
 * vCPUs and devices through their field tables, a hash of its memory, what the case noted. Two
 * engines must end alike; test/guest/states-compare says where they do not.
 *
 *   guest-states [--engine soft|kvm] [--cpu MODEL] [--only NAME,NAME...] [--step N] [--repeat N]
 * IMAGE[:CPUS]...
 *
 * --step: only every Nth case. What a machine leaves behind in the process (descriptors, threads,
 * mappings) is a failure. */
#include "machine/machine.h"
#include "boot/boot.h"
#include "state/result.h"
#include <dirent.h>
#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

struct leak {
    unsigned fds, threads, maps;
};

static struct machine machine;
static const char *engine = "soft", *model = "x86-64-v2,-xsave", *only;
static unsigned step = 1;
static bool failed;

static unsigned entries(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;

    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static struct leak what_is_open(void)
{
    struct leak l = {.fds = entries("/proc/self/fd"), .threads = entries("/proc/self/task")};
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];

    while (f && fgets(line, sizeof line, f))
        l.maps += strstr(line, "memfd:") || strstr(line, "anon_inode:"); /* not malloc's */
    if (f)
        fclose(f);
    return l;
}

/* ---- the dump ---- */

static uint64_t hash_page(const uint8_t *p)
{
    uint64_t h = 0xcbf29ce484222325;

    for (size_t i = 0; i < PAGE_SIZE; i += 8)
        h = (h ^ le64(p + i)) * 0x100000001b3;
    return h;
}

/* A hash of each page that is not zero. */
static void dump_memory(const struct mem_region *r)
{
    static const uint8_t zero[PAGE_SIZE];

    for (uint64_t at = 0; at < r->size; at += PAGE_SIZE)
        if (memcmp(r->host + at, zero, PAGE_SIZE))
            printf("%llx: %016llx\n", (unsigned long long)(r->base + at),
                   (unsigned long long)hash_page(r->host + at));
}

/* One line of field_dump: a table's name, or a member, which is printed with the names of the
 * tables that it is in, unless it says 0 or off: most of a board is at rest. */
static void dump_line(const char *line)
{
    static const char *table[16];
    size_t depth = strspn(line, " ") / 2;
    const char *value = strstr(line, ": ");

    if (!value && depth < ARRAY_SIZE(table))
        table[depth] = line + depth * 2;
    if (!value || !value[2 + strspn(value + 2, "0 ")] || !strcmp(value, ": off"))
        return;
    for (size_t i = 0; i < depth && i < ARRAY_SIZE(table); i++)
        printf("%.*s.", (int)strcspn(table[i], ":"), table[i]);
    puts(line + depth * 2);
}

static void dump_fields(const char *name, const struct field *table, const void *from)
{
    char *text = NULL, *line, *rest;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    field_dump(table, from, f, 0);
    fclose(f);
    printf("[%s]\n", name);
    for (rest = text; (line = strsep(&rest, "\n")) && rest;)
        dump_line(line);
    free(text);
}

static void dump_result(const struct result *r)
{
    printf("[result]\n");
    for (unsigned i = 0; i < r->count && i < RESULT_VALUES; i++)
        printf("%u: %llx\n", i, (unsigned long long)r->value[i]);
}

static void dump(const struct result *r)
{
    static struct vcpu_state s;
    char name[16];

    dump_result(r);
    for (unsigned i = 0; i < machine.vm.cpu_count; i++) {
        machine.vm.engine->get(machine.vm.cpu[i], &s);
        snprintf(name, sizeof name, "cpu%u", i);
        dump_fields(name, vcpu_state_fields, &s);
    }
    list_for(at, &machine.board.devices)
    {
        const struct device *d = container_of(at, struct device, link);

        if (d->type->state)
            dump_fields(d->id, d->type->state, d);
    }
    printf("[memory]\n");
    for (unsigned i = 0; i < machine.mem.count; i++)
        if (!machine.mem.region[i].readonly)
            dump_memory(&machine.mem.region[i]);
}

/* ---- one case ---- */

static bool configure(struct config *c, const char *image, const char *cpus, unsigned number,
                      struct err *err)
{
    char append[128];
    char *argv[] = {"--engine",   (char *)engine, "--cpu",         (char *)model, "--cpus",
                    (char *)cpus, "--memory",     "16M",           "--kernel",    (char *)image,
                    "--append",   append,         "--net",         "none",        "--serial",
                    "none",       "--debug-exit", "--random-seed", "1",           "--timeout",
                    "30",         "--no-sandbox"};

    snprintf(append, sizeof append, "%s %u", only ? only : "-", number);
    config_defaults(c);
    return config_parse_args(c, ARRAY_SIZE(argv), argv, err) && config_check(c, err);
}

/* False: the image has no such case. */
static bool run_case(const char *image, const char *cpus, unsigned number)
{
    static struct config config;
    static struct result result;
    struct err err = {0};
    int status = -1;
    bool there = false;

    if (!configure(&config, image, cpus, number, &err) || !machine_open(&machine, &config, &err)) {
        printf("@failed %s\n", err.text);
        failed = true;
        return false;
    }
    if (machine_start(&machine, &err))
        status = machine_run(&machine);
    if (mem_read(&machine.mem, RESULT_AT, &result, sizeof result) || result.magic != RESULT_MAGIC) {
        printf("@failed %s %u: no result, status %d %s\n", image, number, status, err.text);
        failed = true;
    } else if (result.name[0]) {
        there = true;
        printf("@case %.*s\nstatus: %d\n", (int)sizeof result.name, result.name, status);
        dump(&result);
    }
    machine_close(&machine);
    fflush(stdout);
    return there;
}

static void run_named(const char *image, const char *cpus)
{
    char *list = strdup(only), *rest = list;
    const char *all = only;

    while ((only = strsep(&rest, ",")))
        run_case(image, cpus, 0);
    only = all;
    free(list);
}

static void run_image(const char *image)
{
    char path[CONFIG_PATH], *cpus, *name;

    snprintf(path, sizeof path, "%s", image);
    cpus = strrchr(path, ':');
    if (cpus)
        *cpus++ = 0;
    name = strrchr(path, '/'); /* its name is in guest memory: the same wherever it lies */
    if (name) {
        *name++ = 0;
        if (chdir(path)) {
            perror(path);
            exit(1);
        }
    }
    name = name ? name : path;
    if (!cpus)
        cpus = (char *)"1";
    if (only)
        run_named(name, cpus);
    else
        for (unsigned n = 0; run_case(name, cpus, n); n += step)
            ;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"engine", 1, NULL, 'e'}, {"cpu", 1, NULL, 'c'},
                                            {"only", 1, NULL, 'o'},   {"repeat", 1, NULL, 'r'},
                                            {"step", 1, NULL, 's'},   {0}};
    struct leak before, after;
    int c, repeat = 1;

    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (c) {
        case 'e': engine = optarg; break;
        case 'c': model = optarg; break;
        case 'o': only = optarg; break;
        case 's': step = max_u64(1, (unsigned)atoi(optarg)); break;
        case 'r': repeat = atoi(optarg); break;
        default: return 2;
        }
    }
    log_setup("guest-states", LOG_ERROR);
    setvbuf(stdout, NULL, _IOFBF, MiB); /* a case is shown at once, between what others log */
    before = what_is_open();
    while (repeat-- > 0)
        for (int i = optind; i < argc; i++)
            run_image(argv[i]);
    after = what_is_open();
    printf("@left descriptors %u threads %u mappings %u\n", after.fds - before.fds,
           after.threads - before.threads, after.maps - before.maps);
    return failed || memcmp(&before, &after, sizeof before);
}
