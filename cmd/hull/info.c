/* SPDX-License-Identifier: MIT */
/* hull info: what this host offers to machines, what limits them and how to change that. */
#include "info.h"
#include "hull.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(void)
{
    printf("Usage: hull info [--cpu] [--json]\n\n"
           "Tells which engine this host gives machines and why, what KVM can do here and how fast "
           "it is,\nwhat limits machines, and how to get what is missing.\n\n"
           "  --cpu    the CPU models and features that --cpu takes, on each engine\n"
           "  --json   the same for programs; see hull-info(1) for the keys\n\n"
           "Examples:\n  hull info\n  hull info --cpu\n  hull info --json\n");
}

static const char *member(json_t *info, const char *name)
{
    return json_string_value(json_object_get(info, name));
}

static long long number(json_t *info, const char *name)
{
    return (long long)json_integer_value(json_object_get(info, name));
}

static bool is_true(json_t *info, const char *name)
{
    return json_is_true(json_object_get(info, name));
}

static void print_names(const char *title, json_t *names)
{
    size_t i;
    json_t *name;

    printf("%s", title);
    json_array_foreach(names, i, name) printf(" %s", json_string_value(name));
    printf("\n");
}

static void print_kvm(json_t *kvm)
{
    size_t i;
    json_t *cap, *caps = json_object_get(kvm, "capabilities");

    if (is_true(kvm, "usable"))
        printf("kvm        %.0f million ring-0 instructions a second, an exit costs %.1f us; "
               "nested %s\n",
               json_number_value(json_object_get(kvm, "mips")),
               json_number_value(json_object_get(kvm, "exit_us")),
               is_true(kvm, "nested") ? "possible" : "off");
    else
        printf("kvm        not usable: %s\n", member(kvm, "problem"));
    json_array_foreach(caps, i, cap)
    {
        if (number(cap, "value") > 1)
            printf("           %s %lld: %s\n", member(cap, "name"), number(cap, "value"),
                   member(cap, "about"));
        else if (number(cap, "value"))
            printf("           %s: %s\n", member(cap, "name"), member(cap, "about"));
        else
            printf("           no %s (%s): comes with %s\n", member(cap, "name"),
                   member(cap, "about"), member(cap, "get"));
    }
}

/* "Not affected" is not worth a line; the rest is. */
static void print_mitigations(json_t *all)
{
    const char *name, *title = "bugs      ";
    json_t *state;
    unsigned unaffected = 0;

    json_object_foreach(all, name, state)
    {
        if (!strncmp(json_string_value(state), "Not affected", 12)) {
            unaffected++;
            continue;
        }
        printf("%s %s: %s\n", title, name, json_string_value(state));
        title = "          ";
    }
    if (json_object_size(all))
        printf("%s %u known processor bugs do not affect this host\n", title, unaffected);
}

static void print_limits(json_t *limits)
{
    const char *title = "limits    ";
    size_t i;
    json_t *l;

    json_array_foreach(limits, i, l)
    {
        printf("%s %s\n           -> %s\n", title, member(l, "what"), member(l, "fix"));
        title = "          ";
    }
}

static void print_host(json_t *info)
{
    json_t *cpu = json_object_get(info, "processor"), *huge = json_object_get(info, "huge_pages");

    printf("hull       %s on Linux %s\n", member(info, "version"), member(info, "kernel"));
    printf("engine     %s: %s\n", member(info, "engine"), member(info, "reason"));
    printf("host       %lld CPUs, %lld MiB memory\n", number(info, "cpus"),
           number(info, "memory") >> 20);
    printf("processor  %s (%s)\n", member(cpu, "name"), member(cpu, "vendor"));
    print_names("           levels", json_object_get(cpu, "levels"));
    print_kvm(json_object_get(info, "kvm"));
    printf("memory     transparent huge pages: %s; 2 MiB pages reserved: %lld, free %lld\n",
           member(huge, "transparent"), number(huge, "reserved"), number(huge, "free"));
    printf("disks      %s\n", is_true(info, "io_uring") ? "io_uring" : "a thread pool");
    printf("network    user%s%s\n", is_true(info, "tap") ? ", tap" : "",
           is_true(info, "vhost_net") ? ", vhost" : "");
    printf("vsock      %s\n",
           is_true(info, "vhost_vsock") ? "vhost, UNIX sockets" : "UNIX sockets");
    printf("shares     %s9p\n",
           json_is_null(json_object_get(info, "virtiofsd")) ? "" : "virtiofs, ");
    print_names("--cpu     ", json_object_get(info, "cpu_models"));
    print_mitigations(json_object_get(info, "mitigations"));
    print_limits(json_object_get(info, "limits"));
}

int cmd_info(int argc, char **argv)
{
    bool json = false, cpu = false;
    struct err err;
    json_t *info;
    char *text;

    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help();
            return EXIT_DONE;
        }
        if (!strcmp(argv[i], "--json")) {
            json = true;
        } else if (!strcmp(argv[i], "--cpu")) {
            cpu = true;
        } else {
            err_set(&err, EINVAL, "%s: no such option", argv[i]);
            return usage_error("info", &err);
        }
    }
    info = cpu ? info_cpu() : info_host();
    if (json) {
        text = json_dumps(info, JSON_INDENT(2) | JSON_SORT_KEYS);
        printf("%s\n", text);
        free(text);
    } else {
        (cpu ? info_cpu_print : print_host)(info);
    }
    json_decref(info);
    return EXIT_DONE;
}
