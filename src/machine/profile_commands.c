/* SPDX-License-Identifier: MIT */
/* x-hull-query-jit: what the soft engine does and where the guest spends its time.
 *
 * Counters are what vCPUs last published. Samples are taken only while a client wants them: a query
 * with "sample": true has the vCPUs asked 250 times a second for the next three seconds. */
#include "base/clock.h"
#include "engine/soft/profile.h"
#include "machine/qmp.h"
#include <errno.h>
#include <stdlib.h>

#define SAMPLE_NS 4000000u
#define LEASE_NS  3000000000u
#define TOP_MAX   40u

static void on_timer(struct timer *t)
{
    struct machine *m = container_of(t, struct machine, profile);
    uint64_t now = now_ns();

    if (now >= m->profile_until_ns)
        return;
    soft_profile_ask(&m->vm);
    loop_at(m->loop, t, now + SAMPLE_NS);
}

static void sample(struct machine *m)
{
    m->profile_until_ns = now_ns() + LEASE_NS;
    if (m->profile.armed)
        return;
    m->profile.fire = on_timer;
    on_timer(&m->profile);
}

/* ---- top addresses ---- */

struct places { /* by address: open hashing, more slots than samples */
    struct place {
        struct soft_sample at;
        unsigned count;
    } * slot;
    unsigned slots;
};

static void count(struct places *p, const struct soft_sample *s)
{
    unsigned i = (unsigned)((s->rip + s->cpl) * 0x9e3779b97f4a7c15u >> 32) & (p->slots - 1);

    while (p->slot[i].count && (p->slot[i].at.rip != s->rip || p->slot[i].at.cpl != s->cpl))
        i = (i + 1) & (p->slots - 1);
    p->slot[i].at = *s;
    p->slot[i].count++;
}

/* Takes out the one met most often; NULL: none is left. (qsort asks the kernel for the size of
 * memory, which the sandbox does not allow.) */
static struct place *most(struct places *p)
{
    struct place *best = NULL;

    for (unsigned i = 0; i < p->slots; i++) {
        struct place *x = &p->slot[i];

        if (x->count && (best == NULL || x->count > best->count ||
                         (x->count == best->count && x->at.rip < best->at.rip)))
            best = x;
    }
    return best;
}

static void describe_places(struct places *p, json_t *list)
{
    struct place *x;
    char address[24];

    while (json_array_size(list) < TOP_MAX && (x = most(p)) != NULL) {
        snprintf(address, sizeof address, "0x%llx", (unsigned long long)x->at.rip);
        json_array_append_new(list, json_pack("{s:s, s:i, s:i}", "address", address, "ring",
                                              (int)x->at.cpl, "samples", (int)x->count));
        x->count = 0;
    }
}

static json_t *describe_top(const struct machine *m)
{
    struct places p = {.slots = 2 * PROFILE_SAMPLES};
    struct soft_sample s[PROFILE_SAMPLES];
    json_t *list = json_array();

    while (p.slots < 2 * PROFILE_SAMPLES * m->vm.cpu_count)
        p.slots *= 2;
    p.slot = calloc(p.slots, sizeof *p.slot);
    for (unsigned i = 0; p.slot && i < m->vm.cpu_count; i++) {
        const struct soft_profile *prof = soft_profile(m->vm.cpu[i]);
        unsigned got = prof ? soft_profile_samples(prof, s, PROFILE_SAMPLES) : 0;

        for (unsigned k = 0; k < got; k++)
            count(&p, &s[k]);
    }
    if (p.slot)
        describe_places(&p, list);
    free(p.slot);
    return list;
}

/* ---- counters ---- */

static json_t *describe_vcpu(const struct vcpu *vcpu)
{
    const struct soft_profile *p = soft_profile(vcpu);
    json_t *o =
        json_pack("{s:i, s:i, s:b, s:b}", "cpu-index", (int)vcpu->id, "thread-id", (int)vcpu->tid,
                  "jit", soft_profile_jit(vcpu), "exact", soft_profile_exact(vcpu));

    for (unsigned k = 0; p && k < PROFILE_COUNTS; k++)
        json_object_set_new(o, soft_profile_name[k],
                            json_integer((json_int_t)atomic_load(&p->count[k])));
    if (p) {
        json_object_set_new(o, "asked", json_integer(atomic_load(&p->asked)));
        json_object_set_new(o, "samples", json_integer(atomic_load(&p->samples)));
    }
    return o;
}

json_t *qmp_query_jit(struct machine *m, json_t *args, struct err *err)
{
    struct soft_code_writes w;
    json_t *cpus;

    if (m->vm.engine != &soft_engine) {
        err_set(err, ENOTSUP, "this machine runs on %s, which has no JIT", m->vm.engine->name);
        return NULL;
    }
    if (json_is_true(json_object_get(args, "sample"))) {
        if (m->vm.deterministic) {
            err_set(err, ENOTSUP, "a deterministic machine is not sampled: that would change it");
            return NULL;
        }
        sample(m);
    }
    cpus = json_array();
    for (unsigned i = 0; i < m->vm.cpu_count; i++)
        json_array_append_new(cpus, describe_vcpu(m->vm.cpu[i]));
    soft_profile_code(&m->vm, &w);
    return json_pack("{s:o, s:{s:I, s:I, s:I}, s:o}", "cpus", cpus, "code-writes", "guest",
                     (json_int_t)w.guest, "device", (json_int_t)w.device, "beside",
                     (json_int_t)w.beside, "top", describe_top(m));
}
