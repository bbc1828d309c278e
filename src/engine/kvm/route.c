/* SPDX-License-Identifier: MIT */
/* Eventfds between the guest and us, in the kernel, and the table of interrupt routes.
 *
 *   bell      a guest's write to an address  -> eventfd            KVM_IOEVENTFD
 *   line      eventfd -> message to a LAPIC                        KVM_IRQFD, and a route
 *   pin       an IOAPIC pin's message, so that its EOI exits       a route alone
 *
 * The table is always sent whole, and the kernel waits for all vCPUs to notice, so only changes go
 * there. Routes 0 to 23 are the pins, the following ones the lines. */
#include "engine/kvm/kvm.h"
#include "base/log.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

/* ---- routes ---- */

static void add_route(struct kvm_irq_routing *table, unsigned gsi, const struct msi *msi)
{
    table->entries[table->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = {.address_lo = (uint32_t)msi->address,
                  .address_hi = (uint32_t)(msi->address >> 32),
                  .data = msi->data},
    };
}

static bool send_routes_locked(struct kvm_vm *kvm)
{
    size_t most = KVM_PINS + kvm->line_count;
    struct kvm_irq_routing *table = calloc(1, sizeof *table + most * sizeof table->entries[0]);
    bool sent;

    if (!table)
        return false;
    for (unsigned pin = 0; pin < KVM_PINS; pin++)
        if (kvm->level_pins & BIT(pin))
            add_route(table, pin, &kvm->pin[pin]);
    for (unsigned i = 0; i < kvm->line_count; i++)
        if (kvm->line[i].fd >= 0)
            add_route(table, KVM_PINS + i, &kvm->line[i].msi);
    sent = ioctl(kvm->fd, KVM_SET_GSI_ROUTING, table) == 0;
    if (!sent)
        log_warn("KVM refuses the interrupt routes: %s", strerror(errno));
    free(table);
    return sent;
}

static bool same(const struct msi *a, const struct msi *b)
{
    return a->address == b->address && a->data == b->data;
}

void kvm_engine_route(struct vm *vm, unsigned pin, const struct msi *msi)
{
    struct kvm_vm *kvm = kvm_of(vm);
    bool was;

    if (pin >= KVM_PINS)
        return;
    pthread_mutex_lock(&kvm->lock);
    was = kvm->level_pins & BIT(pin);
    if (msi && (!was || !same(msi, &kvm->pin[pin]))) {
        kvm->pin[pin] = *msi;
        kvm->level_pins |= (uint32_t)BIT(pin);
        send_routes_locked(kvm);
    } else if (!msi && was) {
        kvm->level_pins &= ~(uint32_t)BIT(pin);
        send_routes_locked(kvm);
    }
    pthread_mutex_unlock(&kvm->lock);
}

/* ---- lines ---- */

static bool assign(struct kvm_vm *kvm, unsigned i, bool on)
{
    struct kvm_irqfd f = {.fd = (uint32_t)kvm->line[i].fd,
                          .gsi = KVM_PINS + i,
                          .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

    return ioctl(kvm->fd, KVM_IRQFD, &f) == 0;
}

static struct kvm_line *find_line(struct kvm_vm *kvm, int fd)
{
    for (unsigned i = 0; i < kvm->line_count; i++)
        if (kvm->line[i].fd == fd)
            return &kvm->line[i];
    return NULL;
}

static struct kvm_line *new_line(struct kvm_vm *kvm)
{
    struct kvm_line *line = find_line(kvm, -1);

    if (line || kvm->line_count == KVM_LINES_MAX)
        return line;
    line = realloc(kvm->line, (kvm->line_count + 1) * sizeof *line);
    if (!line)
        return NULL;
    kvm->line = line;
    line += kvm->line_count++;
    line->fd = -1;
    return line;
}

/* The route is there before the eventfd: the kernel sends what waits in it at once. */
static bool start_line(struct kvm_vm *kvm, int fd, const struct msi *msi)
{
    struct kvm_line *line = new_line(kvm);

    if (!line)
        return false;
    *line = (struct kvm_line){.fd = fd, .msi = *msi};
    if (send_routes_locked(kvm) && assign(kvm, (unsigned)(line - kvm->line), true))
        return true;
    line->fd = -1;
    return false;
}

static void end_line(struct kvm_vm *kvm, struct kvm_line *line)
{
    assign(kvm, (unsigned)(line - kvm->line), false);
    line->fd = -1; /* its route does no harm until the next change */
}

bool kvm_engine_msi_fd(struct vm *vm, int fd, const struct msi *msi)
{
    struct kvm_vm *kvm = kvm_of(vm);
    struct kvm_line *line;
    bool good = true;

    pthread_mutex_lock(&kvm->lock);
    line = find_line(kvm, fd);
    if (!msi && line) {
        end_line(kvm, line);
    } else if (msi && !line) {
        good = start_line(kvm, fd, msi);
    } else if (msi && !same(msi, &line->msi)) {
        line->msi = *msi;
        good = send_routes_locked(kvm);
    }
    pthread_mutex_unlock(&kvm->lock);
    return good;
}

/* ---- bells ---- */

/* Without a length any write that begins there counts, and on Intel the kernel need not even look
 * at the instruction. A machine with more bells than the kernel takes does without the rest. */
bool kvm_engine_bell(struct vm *vm, uint64_t addr, int fd, bool on)
{
    struct kvm_vm *kvm = kvm_of(vm);
    struct kvm_ioeventfd e = {
        .addr = addr, .fd = fd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};

    return ioctl(kvm->fd, KVM_IOEVENTFD, &e) == 0;
}
