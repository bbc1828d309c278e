/* SPDX-License-Identifier: MIT */
/* Deferred writes (KVM calls them coalesced): the kernel puts writes to index registers into a ring
 * and goes on with the guest; they are done here before whatever comes next.
 *
 * The ring is the machine's, in one page of the first vCPU's mapping. Every thread empties it after
 * every KVM_RUN, so no access of any vCPU overtakes a write before it; an entry that others wait
 * for is done under ring_lock, which therefore comes before any device's lock. */
#include "engine/kvm/kvm.h"
#include <sys/ioctl.h>

void kvm_defer_open(struct vcpu *vcpu)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);
    const struct kvm_cpu *cpu = vcpu->priv;
    int page = ioctl(kvm->sys, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
    size_t at = (size_t)page * PAGE_SIZE;

    if (page <= 0 || at + PAGE_SIZE > kvm->run_size)
        return;
    kvm->ring = (struct kvm_coalesced_mmio_ring *)((uint8_t *)cpu->run + at);
    kvm->ring_max = (PAGE_SIZE - sizeof *kvm->ring) / sizeof kvm->ring->coalesced_mmio[0];
}

void kvm_engine_defer(struct vm *vm, bool port, uint64_t addr, unsigned size)
{
    const struct kvm_vm *kvm = kvm_of(vm);
    struct kvm_coalesced_mmio_zone zone = {.addr = addr, .size = size, .pio = port};

    if (!kvm->ring || (port && ioctl(kvm->sys, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_PIO) <= 0))
        return;
    (void)ioctl(kvm->fd, KVM_REGISTER_COALESCED_MMIO, &zone); /* else each is an exit */
}

static void write_one(struct vcpu *vcpu, const struct kvm_coalesced_mmio *e)
{
    struct vm *vm = vcpu->vm;
    uint64_t value = 0;

    memcpy(&value, e->data, min_size(e->len, sizeof value));
    bus_write(e->pio ? vm->pio : vm->mmio, e->phys_addr, value, e->len);
    vcpu_count(vcpu, COUNT_DEFERRED);
}

void kvm_defer_flush(struct vcpu *vcpu)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);
    struct kvm_coalesced_mmio_ring *ring = kvm->ring;

    if (!ring || __atomic_load_n(&ring->first, __ATOMIC_RELAXED) ==
                     __atomic_load_n(&ring->last, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&kvm->ring_lock);
    while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
        write_one(vcpu, &ring->coalesced_mmio[ring->first % kvm->ring_max]);
        __atomic_store_n(&ring->first, (ring->first + 1) % kvm->ring_max, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&kvm->ring_lock);
}
