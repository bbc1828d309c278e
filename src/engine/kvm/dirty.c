/* SPDX-License-Identifier: MIT */
/* Memory slots, and which pages the guest wrote.
 *
 * Newer kernels list the pages in a ring for each vCPU, shared with us; older ones answer a
 * question with a bitmap of the slot. The ring costs as much as was written, the bitmap as much as
 * there is. A full ring is an exit. Pages are protected again (KVM_RESET_DIRTY_RINGS) before anyone
 * looks at their contents, so what is written later is listed again.
 *
 *   ring entry: 0 -> DIRTY (the kernel) -> RESET (we have seen it) -> 0 (the kernel) */
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

#define RING_ENTRIES 4096u /* 64 KiB; the kernel keeps some 600 of them back */

bool kvm_without_ring;

bool kvm_set_slot(struct vm *vm, unsigned slot, bool log)
{
    const struct mem_region *r = &vm->mem->region[slot];
    const struct kvm_userspace_memory_region m = {
        .slot = slot,
        .flags = (r->readonly ? KVM_MEM_READONLY : 0) | (log ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = r->base,
        .memory_size = r->size,
        .userspace_addr = (uintptr_t)r->host,
    };

    return ioctl(kvm_of(vm)->fd, KVM_SET_USER_MEMORY_REGION, &m) == 0;
}

/* ---- rings ---- */

/* On x86 both capabilities mean the same; kernels before 5.19 know only the older name. */
bool kvm_dirty_open(struct vm *vm, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vm);
    const uint32_t caps[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};

    for (unsigned i = 0; i < ARRAY_SIZE(caps) && !kvm_without_ring; i++) {
        int most = ioctl(kvm->fd, KVM_CHECK_EXTENSION, caps[i]); /* bytes */
        struct kvm_enable_cap e = {.cap = caps[i]};

        if (most <= 0)
            continue;
        e.args[0] = min_u64((uint64_t)most, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
        if (ioctl(kvm->fd, KVM_ENABLE_CAP, &e) == 0)
            kvm->dirty_entries = (unsigned)(e.args[0] / sizeof(struct kvm_dirty_gfn));
        return true;
    }
    return true;
}

static size_t ring_bytes(const struct kvm_vm *kvm)
{
    return kvm->dirty_entries * sizeof(struct kvm_dirty_gfn);
}

bool kvm_dirty_vcpu_open(struct vcpu *vcpu, struct err *err)
{
    const struct kvm_vm *kvm = kvm_of(vcpu->vm);
    struct kvm_cpu *cpu = vcpu->priv;
    void *ring;

    if (!kvm->dirty_entries)
        return true;
    ring = mmap(NULL, ring_bytes(kvm), PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd,
                KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE);
    if (ring == MAP_FAILED)
        return err_set(err, errno, "cannot map the list of written pages: %s", strerror(errno));
    cpu->dirty = ring;
    return true;
}

void kvm_dirty_vcpu_close(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->priv;

    if (cpu->dirty)
        munmap(cpu->dirty, ring_bytes(kvm_of(vcpu->vm)));
    cpu->dirty = NULL;
}

/* The kernel wrote the entry: it is not the guest's, but checked all the same. */
static void mark(struct vm *vm, const struct kvm_dirty_gfn *e)
{
    struct mem_region *r = &vm->mem->region[e->slot & 0xffff];
    uint64_t *dirty;

    if ((e->slot & 0xffff) >= vm->mem->count || e->offset >= r->size / PAGE_SIZE)
        return;
    dirty = __atomic_load_n(&r->dirty, __ATOMIC_ACQUIRE);
    if (dirty)
        __atomic_fetch_or(&dirty[e->offset / 64], BIT(e->offset % 64), __ATOMIC_RELAXED);
}

static unsigned empty_ring(struct vm *vm, struct kvm_cpu *cpu)
{
    unsigned n = 0;

    for (;; cpu->dirty_next++, n++) {
        struct kvm_dirty_gfn *e = &cpu->dirty[cpu->dirty_next % kvm_of(vm)->dirty_entries];

        if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
            return n;
        mark(vm, e);
        __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
}

/* Nobody wants to know any more, and did not say so. */
static void stop_listing(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_of(vm);

    for (unsigned slot = 0; slot < vm->mem->count; slot++)
        if (kvm->logging[slot] && !vm->mem->region[slot].dirty && kvm_set_slot(vm, slot, false))
            kvm->logging[slot] = false;
}

void kvm_dirty_collect(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_of(vm);
    unsigned n = 0;

    pthread_mutex_lock(&kvm->dirty_lock);
    for (unsigned i = 0; i < vm->cpu_count; i++)
        n += empty_ring(vm, vm->cpu[i]->priv);
    if (n)
        (void)ioctl(kvm->fd, KVM_RESET_DIRTY_RINGS, 0);
    stop_listing(vm);
    pthread_mutex_unlock(&kvm->dirty_lock);
}

/* ---- the bitmap ---- */

static void all_dirty(struct mem_region *r)
{
    uint64_t pages = r->size / PAGE_SIZE;

    for (uint64_t w = 0; w < pages / 64; w++)
        __atomic_store_n(&r->dirty[w], UINT64_MAX, __ATOMIC_RELAXED);
    if (pages % 64)
        __atomic_fetch_or(&r->dirty[pages / 64], BIT(pages % 64) - 1, __ATOMIC_RELAXED);
}

static void ask_log(struct vm *vm, struct mem_region *r, unsigned slot)
{
    size_t words = (r->size / PAGE_SIZE + 63) / 64;
    uint64_t *bits = calloc(words, sizeof *bits);
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bits};

    if (!bits || ioctl(kvm_of(vm)->fd, KVM_GET_DIRTY_LOG, &log))
        all_dirty(r);
    for (size_t w = 0; bits && w < words; w++)
        if (bits[w])
            __atomic_fetch_or(&r->dirty[w], bits[w], __ATOMIC_RELAXED);
    free(bits);
}

/* ---- both ---- */

/* Listing starts with the first question, which therefore answers "all of them". */
void kvm_engine_dirty(struct vm *vm, struct mem_region *r)
{
    struct kvm_vm *kvm = kvm_of(vm);
    unsigned slot = (unsigned)(r - vm->mem->region);

    if (!r->dirty || !kvm->logging[slot]) {
        if (kvm->logging[slot] != (r->dirty != NULL) && kvm_set_slot(vm, slot, r->dirty != NULL))
            kvm->logging[slot] = r->dirty != NULL;
        if (r->dirty)
            all_dirty(r);
        return;
    }
    kvm_complete_dirty(vm, r);
    if (kvm->dirty_entries)
        kvm_dirty_collect(vm);
    else
        ask_log(vm, r, slot);
}
