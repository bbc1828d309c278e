/* SPDX-License-Identifier: MIT */
/* From a snapshot's directory to a paused machine.
 *
 *   restore_open    `state` of the snapshot and of its bases is read and checked, memory is opened
 *   (assembly)      memory maps the lowest layer; devices and vCPUs are made as at power-on
 *   restore_memory  pages of the layers above it are laid over
 *   restore_apply   facts are compared, the clock, devices and vCPUs take their state
 *
 * A failure anywhere ends a process that has not run a guest: nothing that existed has changed. */
#include "boot/acpi.h"
#include "machine/snapshot.h"
#include "net/net.h"
#include "virtio/devices.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

struct layer {
    struct saved *saved;
    int fd; /* of `memory` */
};

struct restore {
    struct layer *layer[SNAPSHOT_LAYERS]; /* the snapshot, its base, the base's base, ... */
    unsigned count;
};

/* ---- reading ---- */

static void layer_close(struct layer *l)
{
    if (!l)
        return;
    saved_close(l->saved);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

static void restore_free(struct restore *r)
{
    for (unsigned i = 0; i < r->count; i++)
        layer_close(r->layer[i]);
    free(r);
}

void restore_close(struct machine *m)
{
    if (m->restore)
        restore_free(m->restore);
    m->restore = NULL;
}

static bool check_memory_facts(const struct layer *l, struct err *err)
{
    const struct memory_facts *f = &l->saved->memory;
    uint64_t end = 0;
    struct stat st;

    for (unsigned i = 0; i < f->count; i++) {
        const struct memory_region_fact *r = &f->region[i];

        if (r->offset < end || ((r->offset | r->size) & ~PAGE_MASK) || r->size > INT64_MAX / 2 ||
            r->offset > INT64_MAX / 2)
            return err_set(err, EINVAL, "%s/state: memory region %u cannot be", l->saved->dir, i);
        end = r->offset + r->size;
    }
    if (!f->count || fstat(l->fd, &st) || !S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s/memory: is not a saved memory", l->saved->dir);
    return (uint64_t)st.st_size == end ||
           err_set(err, EINVAL, "%s/memory: has %lld bytes instead of %llu: it was cut or altered",
                   l->saved->dir, (long long)st.st_size, (unsigned long long)end);
}

static struct layer *layer_open(const char *dir, struct err *err)
{
    struct layer *l = calloc(1, sizeof *l);

    if (!l) {
        err_set(err, ENOMEM, "no memory for a snapshot");
        return NULL;
    }
    l->fd = -1;
    l->saved = saved_open(dir, err);
    if (l->saved && (l->fd = saved_file(dir, "memory", err)) >= 0 && check_memory_facts(l, err))
        return l;
    layer_close(l);
    return NULL;
}

/* Where the base lies: absolute, or beside this snapshot. */
static bool base_dir(const struct layer *l, char *to, size_t size, struct err *err)
{
    const char *base = l->saved->memory.base;
    int n = *base == '/' ? snprintf(to, size, "%s", base)
                         : snprintf(to, size, "%s/%s", l->saved->dir, base);

    return (*base && n > 0 && (size_t)n < size) ||
           err_set(err, EINVAL, "%s/state: names no base that could be opened", l->saved->dir);
}

static bool open_base(struct restore *r, struct err *err)
{
    struct layer *above = r->layer[r->count - 1], *l;
    char dir[CONFIG_PATH];

    if (r->count == SNAPSHOT_LAYERS)
        return err_set(err, EINVAL, "%s: has more than %d bases", above->saved->dir,
                       SNAPSHOT_LAYERS - 1);
    if (!base_dir(above, dir, sizeof dir, err))
        return false;
    l = layer_open(dir, err);
    if (!l)
        return err_wrap(err, "%s needs its base", above->saved->dir);
    r->layer[r->count++] = l;
    if (memcmp(l->saved->facts.id, above->saved->memory.base_id, sizeof l->saved->facts.id))
        return err_set(err, EINVAL, "%s: is not the snapshot that %s was based on", dir,
                       above->saved->dir);
    return (l->saved->memory.count == above->saved->memory.count &&
            !memcmp(l->saved->memory.region, above->saved->memory.region,
                    sizeof l->saved->memory.region)) ||
           err_set(err, EINVAL, "%s: its memory is laid out differently from %s", dir,
                   above->saved->dir);
}

struct restore *restore_read(const char *dir, struct err *err)
{
    struct restore *r = calloc(1, sizeof *r);

    if (!r) {
        err_set(err, ENOMEM, "no memory for a snapshot");
        return NULL;
    }
    r->layer[0] = layer_open(dir, err);
    if (!r->layer[0]) {
        free(r);
        return NULL;
    }
    r->count = 1;
    while (r->layer[r->count - 1]->saved->memory.partial)
        if (!open_base(r, err)) {
            restore_free(r);
            return NULL;
        }
    return r;
}

bool restore_open(struct machine *m, struct err *err)
{
    const struct restore *r = m->restore;
    const struct machine_facts *f = &r->layer[0]->saved->facts;

    if (f->memory != m->config.memory)
        return err_set(err, EINVAL, "%s: was saved with --memory %lluM, not %lluM",
                       m->config.restore, (unsigned long long)f->memory >> 20,
                       (unsigned long long)m->config.memory >> 20);
    memcpy(m->uuid, f->uuid, sizeof m->uuid);
    mem_back(&m->mem, r->layer[r->count - 1]->fd);
    return true;
}

/* ---- the CPU ---- */

static const char *const feature_name[] = {
#define X(id, word, leaf, sub, reg, bit, how) [X86_F_##id] = word,
    X86_FEATURES(X)
#undef X
};

static bool named(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = list; (at = strstr(at, word)) != NULL; at += len)
        if ((at == list || at[-1] == ',') && (at[len] == ',' || !at[len]))
            return true;
    return false;
}

/* Adds what the saved list has and this model left out, as far as it is offered; what is not goes
 * to `missing` as "-A,-B". */
static void add_features(struct cpu_model *model, const struct cpu_offer *offer, char *list,
                         char *missing, size_t size)
{
    char *rest = NULL;
    size_t len = 0;

    *missing = 0;

    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        bool there = false;

        for (unsigned i = 0; i < ARRAY_SIZE(feature_name) && !there; i++) {
            there = feature_name[i] && !strcmp(feature_name[i], word) &&
                    (model->feature[i] || offer->feature[i] != CPU_LACKS);
            if (there)
                model->feature[i] = 1;
        }
        if (!there && len < size)
            len += (size_t)snprintf(missing + len, size - len, "%s-%s", len ? "," : "", word);
    }
}

bool restore_model(struct machine *m, const struct cpu_offer *offer, struct err *err)
{
    const struct layer *l = m->restore->layer[0];
    char list[sizeof l->saved->facts.features];
    char missing[128];

    memcpy(list, l->saved->facts.features, sizeof list);
    add_features(&m->model, offer, list, missing, sizeof missing);
    if (*missing)
        return err_set(err, ENOTSUP,
                       "the saved CPU has features that this host or engine lacks: save with "
                       "--cpu %s,%s",
                       l->saved->facts.cpu, missing);
    for (unsigned i = 0; i < ARRAY_SIZE(feature_name); i++) /* what is new here stays hidden */
        if (i != X86_F_BASE && feature_name[i] && !named(l->saved->facts.features, feature_name[i]))
            m->model.feature[i] = 0;
    m->model.xcr0_mask &= l->saved->facts.xcr0_mask;
    if (m->model.xcr0_mask != l->saved->facts.xcr0_mask ||
        strcmp(m->model.name, l->saved->facts.cpu))
        return err_set(err, ENOTSUP, "%s: was saved with --cpu %s, which differs from %s",
                       l->saved->dir, l->saved->facts.cpu, m->config.cpu);
    if (l->saved->facts.cpus != m->config.cpus)
        return err_set(err, EINVAL, "%s: was saved with --cpus %u, not %u", l->saved->dir,
                       l->saved->facts.cpus, m->config.cpus);
    if (!host_tsc_assume(l->saved->facts.tsc_khz))
        log_warn("the TSC ran at %u kHz where %s was saved, here it runs at %u: guests that keep "
                 "time by it will be wrong",
                 l->saved->facts.tsc_khz, l->saved->dir, host_tsc_khz());
    return true;
}

/* ---- memory ---- */

/* Lays one run of pages after another over the region. */
static bool overlay_region(struct mem_region *r, const uint8_t *bits, const struct layer *l,
                           uint64_t file_offset, struct err *err)
{
    uint64_t pages = r->size / PAGE_SIZE, first = 0;

    while (first < pages) {
        uint64_t end = first;

        while (end < pages && (bits[end / 8] >> end % 8 & 1))
            end++;
        if (end > first && !mem_overlay(r, first * PAGE_SIZE, (end - first) * PAGE_SIZE, l->fd,
                                        file_offset + first * PAGE_SIZE, err))
            return false;
        first = end;
        while (first < pages && !(bits[first / 8] >> first % 8 & 1))
            first += first % 8 == 0 && !bits[first / 8] ? 8 : 1;
    }
    return true;
}

static bool overlay(struct machine *m, const struct layer *l, struct err *err)
{
    const struct state_section *s = state_find(&l->saved->state, "pages", 1, err);
    size_t at = 0;

    if (!s)
        return err_wrap(err, "%s/state", l->saved->dir);
    for (unsigned i = 0; i < m->mem.count; i++) {
        struct mem_region *r = &m->mem.region[i];
        size_t bytes = (r->size / PAGE_SIZE + 63) / 64 * 8;

        if (bytes > s->len - at)
            return err_set(err, EINVAL, "%s/state: its map of pages is too short", l->saved->dir);
        if (!overlay_region(r, s->body + at, l, l->saved->memory.region[i].offset, err))
            return false;
        at += bytes;
    }
    return at == s->len ||
           err_set(err, EINVAL, "%s/state: its map of pages is too long", l->saved->dir);
}

static bool check_regions(struct machine *m, const struct layer *l, struct err *err)
{
    bool same = m->mem.count == l->saved->memory.count;

    for (unsigned i = 0; same && i < m->mem.count; i++) {
        const struct mem_region *r = &m->mem.region[i];
        const struct memory_region_fact *f = &l->saved->memory.region[i];

        same = !strcmp(r->name, f->name) && r->base == f->base && r->size == f->size &&
               mem_file_offset(&m->mem, i) == f->offset;
    }
    return same ||
           err_set(err, EINVAL, "%s: its memory is laid out differently from this machine's",
                   l->saved->dir);
}

bool restore_memory(struct machine *m, struct err *err)
{
    const struct restore *r = m->restore;

    if (!check_regions(m, r->layer[0], err))
        return false;
    for (unsigned i = r->count - 1; i-- > 0;)
        if (!overlay(m, r->layer[i], err))
            return false;
    m->mem.backing = -1;
    return true;
}

/* ---- devices and vCPUs ---- */

static bool check_disks(struct machine *m, const struct layer *l, struct err *err)
{
    struct disk_facts facts = {0};
    struct stat st;

    if (!state_restore(&l->saved->state, "disks", DISK_FACTS_VERSION, disk_facts_fields, &facts,
                       err))
        return err_wrap(err, "%s/state", l->saved->dir);
    if (l->saved->facts.disks != m->config.disk_count ||
        l->saved->facts.nets != m->config.net_count)
        return err_set(err, EINVAL,
                       "%s: was saved with %u disks and %u network interfaces, not %u and %u",
                       l->saved->dir, l->saved->facts.disks, l->saved->facts.nets,
                       m->config.disk_count, m->config.net_count);
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        const struct disk_fact *f = &facts.disk[i];
        const struct block *b = m->disk[i];

        if (b->size != f->size || b->readonly != f->readonly)
            return err_set(err, EINVAL, "%s: has %llu bytes%s, the disk in %s has %llu%s",
                           b->config.file, (unsigned long long)b->size,
                           b->readonly ? " read-only" : "", l->saved->dir,
                           (unsigned long long)f->size, f->readonly ? " read-only" : "");
        if (f->mtime_ns && !stat(b->config.file, &st) && S_ISREG(st.st_mode) &&
            (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec != f->mtime_ns)
            return err_set(err, EBUSY,
                           "%s: has changed since %s was saved: the guest would see a disk that is "
                           "not the one it knows; save with --copy-disks, restore with --temporary",
                           b->config.file, l->saved->dir);
    }
    return true;
}

/* Every saved device must be here, and every device here must have been saved. */
static bool count_devices(struct machine *m, const struct layer *l, struct err *err)
{
    for (unsigned i = 0; i < l->saved->state.count; i++) {
        const char *name = l->saved->state.section[i].name;
        struct device *dev;

        if (strncmp(name, "device/", 7))
            continue;
        dev = board_device(&m->board, name + 7);
        if (!dev || !dev->type->state)
            return err_set(err, EINVAL, "%s: has the device %s, which this machine has not",
                           l->saved->dir, name + 7);
    }
    return true;
}

static bool restore_device(struct machine *m, const struct layer *l, struct device *dev,
                           struct err *err)
{
    const struct device_type *t = dev->type;
    char name[STATE_NAME_MAX];

    snprintf(name, sizeof name, "device/%s", dev->id);
    return state_restore(&l->saved->state, name, t->state_version, t->state, dev, err) &&
           (!t->restored || t->restored(dev, err) || err_wrap(err, "%s", dev->id));
}

static bool restore_devices(struct machine *m, const struct layer *l, struct err *err)
{
    list_for(at, &m->board.devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (dev->type->state && !restore_device(m, l, dev, err))
            return err_wrap(err, "%s/state", l->saved->dir);
    }
    return true;
}

/* After the devices: messages that they sent while they took their state are not the guest's. */
static bool restore_cpus(struct machine *m, const struct layer *l, struct err *err)
{
    const struct engine_ops *engine = m->vm.engine;
    struct vcpu_state *state = calloc(1, sizeof *state);
    bool good = state || err_set(err, ENOMEM, "no memory for a vCPU's state");
    char name[STATE_NAME_MAX];

    for (unsigned i = 0; good && i < m->vm.cpu_count; i++) {
        snprintf(name, sizeof name, "cpu/%u", i);
        vcpu_state_reset(state, i == 0, i); /* what an older hull did not save */
        good = state_restore(&l->saved->state, name, VCPU_STATE_VERSION, vcpu_state_fields, state,
                             err);
        if (good && i == 0 && engine->set_tsc)
            engine->set_tsc(&m->vm, state->tsc - state->tsc_adjust);
        good = good && (engine->set(m->vm.cpu[i], state, err) || err_wrap(err, "%s", name));
    }
    free(state);
    return good || err_wrap(err, "%s/state", l->saved->dir);
}

/* A copy is told that it is one: its generation ID, on which its kernel stirs the random number
 * generator, and the addresses of its network cards, which a driver reads when it starts. */
static bool take_identity(struct machine *m, struct err *err)
{
    char id[16];
    uint8_t mac[6];

    if (getrandom(m->generation, sizeof m->generation, 0) != sizeof m->generation ||
        mem_write(&m->mem, LAYOUT_VMGENID, m->generation, sizeof m->generation))
        return err_set(err, EIO, "the machine cannot be given a new generation ID");
    pm_gpe(&m->board, ACPI_GPE_VMGENID);
    for (unsigned i = 0; i < m->config.net_count; i++) {
        struct device *dev;

        snprintf(id, sizeof id, "net%u", i);
        dev = board_device(&m->board, id);
        net_mac_make(mac, NULL, i);
        if (dev)
            virtio_net_readdress(dev, mac);
    }
    return true;
}

bool restore_apply(struct machine *m, struct err *err)
{
    const struct layer *l = m->restore->layer[0];

    board_pause(&m->board);
    if (!check_disks(m, l, err) || !count_devices(m, l, err))
        return false;
    memcpy(m->generation, l->saved->facts.generation, sizeof m->generation);
    memcpy(m->snapshot_id, l->saved->facts.id, sizeof m->snapshot_id);
    board_clock_set(&m->board, l->saved->facts.board_ns);
    if (!restore_devices(m, l, err) || !restore_cpus(m, l, err) ||
        (m->config.fresh_identity && !take_identity(m, err)))
        return false;
    m->state = RUN_PAUSED;
    m->pagemap =
        open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC); /* -1: no partial snapshot next */
    return true;
}

void restore_announce(struct machine *m)
{
    char id[16];

    for (unsigned i = 0; i < m->config.net_count; i++) {
        struct device *dev;

        snprintf(id, sizeof id, "net%u", i);
        dev = board_device(&m->board, id);
        if (dev)
            virtio_net_announce(dev);
    }
}
