/* SPDX-License-Identifier: MIT */
/* The QMP commands: one function each, one table. Names and members as in QEMU's QMP reference. */
#include "machine/qmp.h"
#include "virtio/devices.h"
#include <errno.h>

static json_t *nothing(void)
{
    return json_object();
}

static json_t *query_status(struct machine *m, json_t *args, struct err *err)
{
    return json_pack("{s:s, s:b, s:b}", "status", run_state_name[m->state], "running",
                     m->state == RUN_RUNNING, "singlestep", 0);
}

static json_t *query_version(struct machine *m, json_t *args, struct err *err)
{
    return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", 7, "minor", 2, "micro", 0,
                     "package", "hull-" HULL_VERSION);
}

static json_t *query_name(struct machine *m, json_t *args, struct err *err)
{
    return m->config.name[0] ? json_pack("{s:s}", "name", m->config.name) : nothing();
}

static json_t *query_kvm(struct machine *m, json_t *args, struct err *err)
{
    bool kvm = !strcmp(m->vm.engine->name, "kvm");

    return json_pack("{s:b, s:b}", "enabled", kvm, "present", kvm);
}

static json_t *query_cpus(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();
    char path[32];

    for (unsigned i = 0; i < m->vm.cpu_count; i++) {
        snprintf(path, sizeof path, "/machine/cpu[%u]", i);
        json_array_append_new(list, json_pack("{s:i, s:s, s:i, s:s, s:{s:i, s:i, s:i}}",
                                              "cpu-index", i, "qom-path", path, "thread-id",
                                              (int)m->vm.cpu[i]->tid, "target", "x86_64", "props",
                                              "socket-id", 0, "core-id", i, "thread-id", 0));
    }
    return list;
}

static json_t *stop(struct machine *m, json_t *args, struct err *err)
{
    machine_stop(m);
    return nothing();
}

static json_t *cont(struct machine *m, json_t *args, struct err *err)
{
    machine_cont(m);
    return nothing();
}

static json_t *powerdown(struct machine *m, json_t *args, struct err *err)
{
    machine_powerdown(m);
    return nothing();
}

static json_t *reset(struct machine *m, json_t *args, struct err *err)
{
    return machine_reset(m, "host-qmp-system-reset", err) ? nothing() : NULL;
}

static json_t *quit(struct machine *m, json_t *args, struct err *err)
{
    machine_quit(m, MACHINE_OFF, "host-qmp-quit");
    return nothing();
}

static json_t *console_size(struct machine *m, json_t *args, struct err *err)
{
    json_int_t columns = json_integer_value(json_object_get(args, "columns"));
    json_int_t rows = json_integer_value(json_object_get(args, "rows"));

    if (columns < 0 || columns > UINT16_MAX || rows < 0 || rows > UINT16_MAX) {
        err_set(err, EINVAL, "columns and rows must be 0 to 65535");
        return NULL;
    }
    machine_resize_console(m, (uint16_t)columns, (uint16_t)rows);
    return nothing();
}

static json_t *balloon(struct machine *m, json_t *args, struct err *err)
{
    json_int_t bytes = json_integer_value(json_object_get(args, "value"));
    struct device *d = board_device(&m->board, "balloon0");

    if (!d) {
        err_set(err, ENOENT, "this machine has no balloon (--no-balloon was given)");
        return NULL;
    }
    if (bytes <= 0 || (uint64_t)bytes > m->config.memory) {
        err_set(err, EINVAL, "value must be 1 to %llu bytes", (unsigned long long)m->config.memory);
        return NULL;
    }
    virtio_balloon_set(d, m->config.memory - (uint64_t)bytes);
    return nothing();
}

static json_t *query_balloon(struct machine *m, json_t *args, struct err *err)
{
    struct device *d = board_device(&m->board, "balloon0");

    if (d)
        return json_pack("{s:I}", "actual",
                         (json_int_t)(m->config.memory - virtio_balloon_actual(d)));
    err_set(err, ENOENT, "this machine has no balloon (--no-balloon was given)");
    return NULL;
}

static json_t *describe_counts(const struct vcpu *cpu)
{
    json_t *counts = json_object();

    for (unsigned k = 0; k < VCPU_COUNTS; k++)
        json_object_set_new(counts, vcpu_count_name[k],
                            json_integer((json_int_t)atomic_load(&cpu->count[k])));
    return counts;
}

/* For benchmarks. A vCPU adds what it ran when it leaves the guest: `stop` first for exact numbers.
 */
static json_t *stats(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < m->vm.cpu_count; i++)
        json_array_append_new(list,
                              json_pack("{s:i, s:I, s:o}", "cpu-index", (int)i, "instructions",
                                        (json_int_t)atomic_load(&m->vm.cpu[i]->instructions),
                                        "exits", describe_counts(m->vm.cpu[i])));
    return json_pack("{s:s, s:o}", "engine", m->vm.engine->name, "cpus", list);
}

static json_t *query_commands(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    json_array_append_new(list, json_pack("{s:s}", "name", "qmp_capabilities"));
    json_array_append_new(list, json_pack("{s:s}", "name", "getfd"));
    json_array_append_new(list, json_pack("{s:s}", "name", "closefd"));
    for (const struct qmp_command *const *t = qmp_tables; *t; t++)
        for (const struct qmp_command *q = *t; q->name; q++)
            json_array_append_new(list, json_pack("{s:s}", "name", q->name));
    return list;
}

static const struct qmp_command qmp_commands[] = {
    {"query-status", query_status},
    {"query-version", query_version},
    {"query-name", query_name},
    {"query-kvm", query_kvm},
    {"query-cpus-fast", query_cpus},
    {"query-balloon", query_balloon},
    {"query-commands", query_commands},
    {"stop", stop},
    {"cont", cont},
    {"system_powerdown", powerdown},
    {"system_reset", reset},
    {"quit", quit},
    {"balloon", balloon},
    {"x-hull-snapshot", qmp_snapshot},
    {"x-hull-console-size", console_size},
    {"x-hull-stats", stats},
    {"x-hull-query-jit", qmp_query_jit},
    {0},
};

const struct qmp_command *const qmp_tables[] = {
    qmp_commands,       qmp_disk_commands,   qmp_node_commands, qmp_job_commands,
    qmp_block_commands, qmp_mirror_commands, qmp_nbd_commands,  NULL};
