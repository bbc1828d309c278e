/* SPDX-License-Identifier: MIT */
/* A paused machine as a stream: config, facts, devices in order of attachment, vCPUs. */
#include "machine/snapshot.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

/* What belongs to this process and not to the machine: descriptors, sockets, limits. */
static void forget_host(struct config *c)
{
    c->control_fd = 0;
    c->qmp[0] = c->user[0] = c->restore[0] = 0;
    c->timeout_s = 0;
    c->fresh_identity = c->paused = false;
    for (unsigned i = 0; i < c->net_count; i++)
        c->net[i].fd = 0;
    if (!strncmp(c->serial, "fd:", 3))
        strcpy(c->serial, "stdio");
    if (!strncmp(c->console, "fd:", 3))
        strcpy(c->console, "stdio");
}

static bool save_config(struct machine *m, struct stream *out, struct err *err)
{
    struct config *c = malloc(sizeof *c);
    char *text;
    bool good;

    if (!c)
        return err_set(err, ENOMEM, "no memory for a copy of the configuration");
    *c = m->config;
    forget_host(c);
    text = config_to_json(c);
    free(c);
    good = text ? state_put(out, "config", 1, text, strlen(text), err)
                : err_set(err, ENOMEM, "no memory for the configuration's text");
    free(text);
    return good;
}

static void list_features(const struct cpu_model *model, char *text, size_t size)
{
    static const char *const name[] = {
#define X(id, word, leaf, sub, reg, bit, how) [X86_F_##id] = word,
        X86_FEATURES(X)
#undef X
    };
    size_t len = 0;

    *text = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(name); i++)
        if (i != X86_F_BASE && name[i] && model->feature[i] && len < size)
            len += (size_t)snprintf(text + len, size - len, "%s%s", len ? "," : "", name[i]);
}

static void fill_facts(struct machine *m, struct machine_facts *f)
{
    *f = (struct machine_facts){
        .hull = HULL_VERSION,
        .memory = m->config.memory,
        .cpus = m->config.cpus,
        .tsc_khz = host_tsc_khz(),
        .disks = m->config.disk_count,
        .nets = m->config.net_count,
        .xcr0_mask = m->model.xcr0_mask,
        .board_ns = board_now(&m->board),
        .saved_at_ns = m->board.wall_now(),
    };
    snprintf(f->engine, sizeof f->engine, "%s", m->vm.engine->name);
    snprintf(f->cpu, sizeof f->cpu, "%s", m->model.name);
    list_features(&m->model, f->features, sizeof f->features);
    memcpy(f->id, m->snapshot_id, sizeof f->id);
    memcpy(f->uuid, m->uuid, sizeof f->uuid);
    memcpy(f->generation, m->generation, sizeof f->generation);
}

static bool save_facts(struct machine *m, struct stream *out, struct err *err)
{
    struct machine_facts *f = malloc(sizeof *f);
    bool good;

    if (!f)
        return err_set(err, ENOMEM, "no memory for the machine's facts");
    fill_facts(m, f);
    good = state_save(out, "machine", MACHINE_FACTS_VERSION, machine_facts_fields, f, err);
    free(f);
    return good;
}

static bool save_disks(struct machine *m, struct stream *out, struct err *err)
{
    struct disk_facts facts = {0};
    struct stat st;

    for (unsigned i = 0; i < m->config.disk_count; i++) {
        struct disk_fact *f = &facts.disk[i];

        f->size = m->disk[i]->size;
        f->readonly = m->disk[i]->readonly;
        if (!stat(m->disk[i]->config.file, &st))
            f->mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec;
    }
    return state_save(out, "disks", DISK_FACTS_VERSION, disk_facts_fields, &facts, err);
}

static bool save_devices(struct machine *m, struct stream *out, struct err *err)
{
    list_for(at, &m->board.devices)
    {
        struct device *dev = container_of(at, struct device, link);
        char name[STATE_NAME_MAX];
        bool good;

        if (!dev->type->state)
            continue;
        snprintf(name, sizeof name, "device/%s", dev->id);
        pthread_mutex_lock(&dev->lock);
        good = state_save(out, name, dev->type->state_version, dev->type->state, dev, err);
        pthread_mutex_unlock(&dev->lock);
        if (!good)
            return false;
    }
    return true;
}

static bool save_cpus(struct machine *m, struct stream *out, struct err *err)
{
    struct vcpu_state *state = malloc(sizeof *state);
    char name[STATE_NAME_MAX];
    bool good = state || err_set(err, ENOMEM, "no memory for a vCPU's state");

    for (unsigned i = 0; good && i < m->vm.cpu_count; i++) {
        snprintf(name, sizeof name, "cpu/%u", i);
        m->vm.engine->get(m->vm.cpu[i], state);
        good = state_save(out, name, VCPU_STATE_VERSION, vcpu_state_fields, state, err);
    }
    free(state);
    return good;
}

void memory_facts_fill(struct machine *m, struct memory_facts *f)
{
    f->count = m->mem.count;
    for (unsigned i = 0; i < m->mem.count; i++) {
        const struct mem_region *r = &m->mem.region[i];

        snprintf(f->region[i].name, sizeof f->region[i].name, "%s", r->name);
        f->region[i].base = r->base;
        f->region[i].size = r->size;
        f->region[i].offset = mem_file_offset(&m->mem, i);
    }
}

bool machine_save_state(struct machine *m, const struct memory_facts *memory,
                        const struct stream *pages, struct stream *out, struct err *err)
{
    return state_begin(out, err) && save_config(m, out, err) && save_facts(m, out, err) &&
           save_disks(m, out, err) &&
           state_save(out, "memory", MEMORY_FACTS_VERSION, memory_facts_fields, memory, err) &&
           (!pages || state_put(out, "pages", 1, pages->data, pages->size, err)) &&
           save_devices(m, out, err) && save_cpus(m, out, err) && state_end(out, err);
}
