/* SPDX-License-Identifier: MIT */
/* Interrupt messages: from an ICR, from MSI writes and the IOAPIC, to the local APICs they name.
 * Any thread. Intel SDM 3, 11.6 and 11.11. */
#include "engine/soft/apic.h"

static bool logical_match(const struct soft_apic *a, const struct apic_message *m)
{
    uint32_t ldr = atomic_load_explicit(&a->ldr, memory_order_relaxed);
    uint32_t dfr = atomic_load_explicit(&a->dfr, memory_order_relaxed);

    if (apic_x2(a))
        return ldr >> 16 == m->dest >> 16 && (ldr & m->dest & 0xffff);
    ldr >>= 24;
    if (dfr >> 28 == 15)
        return ldr & m->dest;
    return ldr >> 4 == m->dest >> 4 && (ldr & m->dest & 15);
}

static bool match(const struct soft_apic *a, const struct apic_message *m)
{
    if (!apic_enabled(a))
        return false;
    if (m->broadcast)
        return true;
    return m->logical ? logical_match(a, m) : a->id == m->dest;
}

static void deliver_to(struct soft_apic *a, const struct apic_message *m)
{
    switch (m->mode) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST: apic_accept(a, m->vector, m->level); break;
    case DELIVER_NMI: soft_pend(a->cpu, PEND_NMI); break;
    case DELIVER_INIT: soft_pend(a->cpu, PEND_INIT); break;
    case DELIVER_SIPI:
        atomic_store(&a->sipi_vector, m->vector);
        soft_pend(a->cpu, PEND_SIPI);
        break;
    case DELIVER_EXTINT:
        atomic_store(&a->extint, true);
        soft_pend(a->cpu, PEND_INTR);
        break;
    }
}

static struct soft_apic *apic_of(struct vm *vm, unsigned i)
{
    struct soft_cpu *cpu = vm->cpu[i] ? vm->cpu[i]->priv : NULL;

    return cpu ? cpu->apic : NULL;
}

/* Lowest priority goes to one of those that match and accept interrupts: the least loaded by TPR.
 */
static void deliver_lowest(struct vm *vm, const struct apic_message *m)
{
    struct soft_apic *best = NULL;

    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct soft_apic *a = apic_of(vm, i);

        if (!a || !match(a, m) || !(atomic_load(&a->svr) & SVR_ENABLE))
            continue;
        if (!best || atomic_load(&a->tpr) < atomic_load(&best->tpr))
            best = a;
    }
    if (best)
        deliver_to(best, m);
}

void apic_send(struct vm *vm, const struct apic_message *m)
{
    if (m->mode == DELIVER_LOWEST) {
        deliver_lowest(vm, m);
        return;
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct soft_apic *a = apic_of(vm, i);

        if (a && match(a, m))
            deliver_to(a, m);
    }
}

void soft_apic_msi(struct vm *vm, const struct msi *msi)
{
    struct apic_message m = {.dest = msi->address >> 12 & 0xff,
                             .vector = msi->data & 0xff,
                             .mode = msi->data >> 8 & 7,
                             .logical = msi->address >> 2 & 1,
                             .level = msi->data >> 15 & 1};

    if (msi->address >> 20 != 0xfee)
        return;
    m.broadcast = m.dest == 0xff;
    apic_send(vm, &m);
}

/* Shorthands 2 and 3 go to every APIC, with or without the sender. */
static void send_all(struct soft_apic *self, const struct apic_message *m, bool with_self)
{
    struct vm *vm = self->cpu->vm;

    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct soft_apic *a = apic_of(vm, i);

        if (a && apic_enabled(a) && (with_self || a != self))
            deliver_to(a, m);
    }
}

void apic_write_icr(struct soft_apic *a, uint32_t low, uint32_t dest)
{
    struct apic_message m = {
        .dest = dest, .vector = low & 0xff, .mode = low >> 8 & 7, .logical = low >> 11 & 1};
    bool assert_level = low >> 14 & 1, level = low >> 15 & 1;
    unsigned shorthand = low >> 18 & 3;

    a->icr = low & ~0x1000u; /* delivery is done at once: status idle */
    if (m.mode == DELIVER_INIT && level && !assert_level)
        return; /* INIT level de-assert: nothing since the Pentium 4 */
    if ((m.mode == DELIVER_FIXED || m.mode == DELIVER_LOWEST) && m.vector < 16) {
        apic_error(a, ESR_SEND_VECTOR);
        return;
    }
    m.broadcast = dest == (apic_x2(a) ? 0xffffffff : 0xff);
    switch (shorthand) {
    case 0: apic_send(a->cpu->vm, &m); break;
    case 1: deliver_to(a, &m); break;
    default: send_all(a, &m, shorthand == 2); break;
    }
}
