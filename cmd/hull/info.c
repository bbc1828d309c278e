/* SPDX-License-Identifier: MIT */
/* hull info: what this host offers to machines, what limits them and how to change that. */
#include "hull.h"
#include "engine/choose.h"
#include "engine/x86/model.h"
#include "loop/uring.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

static void print_help(void)
{
    printf(
        "Usage: hull info [--json]\n\n"
        "Tells which engine this host gives machines and why, and what would make them faster.\n\n"
        "Examples:\n  hull info\n  hull info --json\n");
}

static bool has_uring(void)
{
    struct err err;
    struct loop *l = loop_open(&err);
    bool has = l && loop_has_uring(l);

    loop_close(l);
    return has;
}

static bool can_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static json_t *model_list(void)
{
    json_t *list = json_array();

    for (const char *const *name = cpu_model_names(); *name; name++)
        json_array_append_new(list, json_string(*name));
    return list;
}

static json_t *gather(void)
{
    struct engine_choice choice;
    struct utsname host;
    struct sysinfo memory;

    engine_choose("auto", &choice, NULL);
    uname(&host);
    sysinfo(&memory);
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:I, s:b, s:b, s:b, s:o}", "version", HULL_VERSION,
                     "kernel", host.release, "engine", choice.ops->name, "reason", choice.reason,
                     "cpus", get_nprocs(), "memory", (json_int_t)memory.totalram * memory.mem_unit,
                     "kvm_device", !access("/dev/kvm", F_OK), "io_uring", has_uring(), "tap",
                     can_open("/dev/net/tun"), "cpu_models", model_list());
}

static const char *member(json_t *info, const char *name)
{
    return json_string_value(json_object_get(info, name));
}

static void print_text(json_t *info)
{
    size_t i;
    json_t *model;

    printf("hull       %s on Linux %s\n", member(info, "version"), member(info, "kernel"));
    printf("engine     %s: %s\n", member(info, "engine"), member(info, "reason"));
    printf("host       %lld CPUs, %lld MiB memory\n",
           (long long)json_integer_value(json_object_get(info, "cpus")),
           (long long)json_integer_value(json_object_get(info, "memory")) >> 20);
    printf("disks      %s\n",
           json_is_true(json_object_get(info, "io_uring"))
               ? "io_uring"
               : "a thread pool: this kernel or container forbids io_uring, which is faster");
    printf("network    user%s\n",
           json_is_true(json_object_get(info, "tap"))
               ? ", tap"
               : "; no tap: /dev/net/tun cannot be opened (modprobe tun, or be in its group)");
    printf("--cpu     ");
    json_array_foreach(json_object_get(info, "cpu_models"), i, model)
        printf(" %s", json_string_value(model));
    printf("\n");
}

int cmd_info(int argc, char **argv)
{
    bool json = false;
    struct err err;
    json_t *info;

    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help();
            return EXIT_DONE;
        }
        if (strcmp(argv[i], "--json")) {
            err_set(&err, EINVAL, "%s: no such option", argv[i]);
            return usage_error("info", &err);
        }
        json = true;
    }
    info = gather();
    if (json)
        printf("%s\n", json_dumps(info, JSON_INDENT(2) | JSON_SORT_KEYS));
    else
        print_text(info);
    json_decref(info);
    return EXIT_DONE;
}
