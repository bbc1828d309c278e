/* SPDX-License-Identifier: MIT */
/* CPUID under KVM: the same table as the soft engine's, less what this host's KVM cannot do.
 *
 *   vm->model, KVM_GET_SUPPORTED_CPUID -> kvm->model -> cpu_model_cpuid -> KVM_SET_CPUID2 */
#include "engine/kvm/kvm.h"
#include "base/log.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define ENTRIES_MAX 256

static const struct {
    const char *name;
    uint32_t leaf;
    uint8_t sub, reg, bit;
} feature_bit[X86_F_COUNT] = {
#define X(name, text, leaf, sub, reg, bit, how) [X86_F_##name] = {text, leaf, sub, X86_##reg, bit},
    X86_FEATURES(X)
#undef X
};

static struct kvm_cpuid2 *supported(int sys, struct err *err)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + ENTRIES_MAX * sizeof c->entries[0]);

    if (!c) {
        err_set(err, ENOMEM, "no memory for CPUID");
        return NULL;
    }
    c->nent = ENTRIES_MAX;
    if (!ioctl(sys, KVM_GET_SUPPORTED_CPUID, c))
        return c;
    err_set(err, errno, "KVM does not say what CPUID it can do: %s", strerror(errno));
    free(c);
    return NULL;
}

static uint32_t supported_reg(const struct kvm_cpuid2 *c, uint32_t leaf, uint32_t sub, unsigned reg)
{
    for (unsigned i = 0; i < c->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &c->entries[i];
        const uint32_t value[] = {e->eax, e->ebx, e->ecx, e->edx};

        if (e->function == leaf && e->index == sub)
            return value[reg];
    }
    return 0;
}

/* Two bits are KVM's to offer without listing them. */
static bool offered(int sys, const struct kvm_cpuid2 *c, unsigned f)
{
    if (f == X86_F_HYPERVISOR)
        return true;
    if (f == X86_F_TSC_DEADLINE)
        return ioctl(sys, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    return supported_reg(c, feature_bit[f].leaf, feature_bit[f].sub, feature_bit[f].reg) >>
               feature_bit[f].bit &
           1;
}

static void drop_features(struct kvm_vm *kvm, const struct kvm_cpuid2 *c)
{
    char missing[200] = "";
    size_t len = 0;

    for (unsigned f = X86_F_BASE + 1; f < X86_F_COUNT; f++) {
        if (!kvm->model.feature[f] || offered(kvm->sys, c, f))
            continue;
        kvm->model.feature[f] = 0;
        if (len < sizeof missing)
            len +=
                (size_t)snprintf(missing + len, sizeof missing - len, " %s", feature_bit[f].name);
    }
    if (missing[0])
        log_info("cpu model %s: this host's KVM has no%s", kvm->model.name, missing);
}

bool kvm_model_open(struct vm *vm, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vm);
    struct kvm_cpuid2 *c = supported(kvm->sys, err);
    uint32_t phys_bits;

    if (!c)
        return false;
    kvm->model = *vm->model;
    drop_features(kvm, c);
    kvm->model.xcr0_mask &= supported_reg(c, 0xd, 0, X86_EAX);
    if (!kvm->model.feature[X86_F_XSAVE])
        kvm->model.xcr0_mask = 0;
    phys_bits = supported_reg(c, 0x80000008, 0, X86_EAX) & 0xff;
    if (phys_bits && phys_bits < kvm->model.phys_bits)
        kvm->model.phys_bits = (uint8_t)phys_bits;
    free(c);
    return true;
}

static const struct {
    uint32_t leaf, subs; /* subs: 0 if the sub-leaf does not matter */
} leaves[] = {
    {0, 0},          {1, 0},          {2, 0},          {4, 5},          {6, 0},
    {7, 1},          {0xb, 3},        {0xd, 3},        {0x15, 0},       {0x16, 0},
    {0x40000000, 0}, {0x40000001, 0}, {0x40000010, 0}, {0x80000000, 0}, {0x80000001, 0},
    {0x80000002, 0}, {0x80000003, 0}, {0x80000004, 0}, {0x80000006, 0}, {0x80000007, 0},
    {0x80000008, 0},
};

static void fill(struct vcpu *vcpu, struct kvm_cpuid_entry2 *e, uint32_t leaf, uint32_t sub)
{
    const struct kvm_vm *kvm = kvm_of(vcpu->vm);
    /* KVM itself follows CR4.OSXSAVE and XCR0 from here on. */
    const struct cpuid_context context = {
        .xcr0 = 1, .apic_id = vcpu->id, .cpu_count = vcpu->vm->cpu_count};
    uint32_t out[4];

    cpu_model_cpuid(&kvm->model, &context, leaf, sub, out);
    if (leaf == 0x15 && kvm->apic_bus_ns != 1000000000 / X86_CRYSTAL_HZ)
        memset(out, 0, sizeof out); /* the LAPIC timer would not run at the crystal's rate */
    if (leaf == 0x40000010)
        out[X86_EBX] = 1000000 / kvm->apic_bus_ns;
    *e = (struct kvm_cpuid_entry2){
        .function = leaf, .index = sub, .eax = out[0], .ebx = out[1], .ecx = out[2], .edx = out[3]};
}

bool kvm_set_cpuid(struct vcpu *vcpu, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);
    const struct kvm_cpu *cpu = vcpu->priv;
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[ARRAY_SIZE(leaves) + 8];
    } table = {0};
    int khz = ioctl(cpu->fd, KVM_GET_TSC_KHZ, 0);

    if (khz > 0)
        kvm->model.tsc_khz = (uint32_t)khz;
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
        for (uint32_t sub = 0; sub < leaves[i].subs + !leaves[i].subs; sub++) {
            struct kvm_cpuid_entry2 *e = &table.entry[table.head.nent++];

            fill(vcpu, e, leaves[i].leaf, sub);
            if (leaves[i].subs)
                e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        }
    return ioctl(cpu->fd, KVM_SET_CPUID2, &table) == 0 ||
           err_set(err, errno, "KVM refuses the CPU model: %s", strerror(errno));
}
