/* SPDX-License-Identifier: MIT */
/* CPUID under KVM: the same table as the soft engine's.
 *
 *   KVM_GET_SUPPORTED_CPUID, _HV_CPUID -> cpu_offer -> cpu_model_make (the machine's) -> vm->model
 *   vm->model -> kvm->model -> cpu_model_cpuid -> KVM_SET_CPUID2 */
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ENTRIES_MAX 256

/* NULL: see err. The caller frees it. */
static struct kvm_cpuid2 *ask(int sys, unsigned long request, struct err *err)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + ENTRIES_MAX * sizeof c->entries[0]);

    if (!c) {
        err_set(err, ENOMEM, "no memory for CPUID");
        return NULL;
    }
    c->nent = ENTRIES_MAX;
    if (!ioctl(sys, request, c))
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

/* Two bits are KVM's to offer without listing them; nested virtualization only who asks gets. */
static uint8_t offers(int sys, const struct kvm_cpuid2 *c, unsigned f)
{
    const struct cpuid_bit *b = &cpuid_bit[f];

    if (f == X86_F_HYPERVISOR)
        return CPU_OFFERS;
    if (f == X86_F_TSC_DEADLINE)
        return ioctl(sys, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0 ? CPU_OFFERS
                                                                               : CPU_LACKS;
    if (!(supported_reg(c, b->leaf, b->sub, b->reg) >> b->bit & 1))
        return CPU_LACKS;
    return f == X86_F_VMX || f == X86_F_SVM ? CPU_ON_REQUEST : CPU_OFFERS;
}

/* What KVM does in the kernel, without exits that would need an answer from us. */
static void offer_hyperv(int sys, struct cpu_hyperv *hv)
{
    const uint32_t access = 1 /* run time */ | HV_ACCESS_REF_COUNT | HV_ACCESS_SYNIC |
                            HV_ACCESS_STIMER | HV_ACCESS_APIC | HV_ACCESS_HYPERCALL |
                            HV_ACCESS_VP_INDEX | HV_ACCESS_REF_TSC | HV_ACCESS_FREQUENCY;
    struct kvm_cpuid2 *c = NULL;
    struct err err;

    if (ioctl(sys, KVM_CHECK_EXTENSION, KVM_CAP_SYS_HYPERV_CPUID) > 0 &&
        ioctl(sys, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV_SYNIC2) > 0)
        c = ask(sys, KVM_GET_SUPPORTED_HV_CPUID, &err);
    if (!c)
        return;
    hv->access = supported_reg(c, 0x40000003, 0, X86_EAX) & access;
    hv->misc =
        supported_reg(c, 0x40000003, 0, X86_EDX) & (HV_MISC_FREQUENCY | HV_MISC_STIMER_DIRECT);
    hv->advice = supported_reg(c, 0x40000004, 0, X86_EAX) &
                 (HV_ADVICE_TLB_FLUSH | HV_ADVICE_APIC | HV_ADVICE_RELAXED | HV_ADVICE_IPI |
                  HV_ADVICE_MORE_CPUS);
    hv->spins = supported_reg(c, 0x40000004, 0, X86_EBX);
    free(c);
}

bool kvm_offer(int sys, struct cpu_offer *offer, struct err *err)
{
    struct kvm_cpuid2 *c = ask(sys, KVM_GET_SUPPORTED_CPUID, err);
    uint32_t phys_bits;

    if (!c)
        return false;
    *offer = (struct cpu_offer){.who = "this host's KVM", .phys_bits = X86_PHYS_BITS};
    host_identity(offer->vendor, &offer->signature, offer->brand);
    for (unsigned f = X86_F_BASE + 1; f < X86_F_COUNT; f++)
        offer->feature[f] = offers(sys, c, f);
    offer->xcr0_mask = supported_reg(c, 0xd, 0, X86_EAX) & 7;
    phys_bits = supported_reg(c, 0x80000008, 0, X86_EAX) & 0xff;
    if (phys_bits && phys_bits < offer->phys_bits)
        offer->phys_bits = (uint8_t)phys_bits;
    for (unsigned r = 0; r < 4; r++)
        offer->svm[r] = supported_reg(c, 0x8000000a, 0, r);
    offer_hyperv(sys, &offer->hv);
    free(c);
    return true;
}

bool kvm_engine_offer(struct cpu_offer *offer, struct err *err)
{
    int sys = kvm_open_device(err);
    bool done = sys >= 0 && kvm_offer(sys, offer, err);

    if (sys >= 0)
        close(sys);
    return done;
}

/* The model was made from this KVM's offer, or comes with a machine from elsewhere. */
bool kvm_model_open(struct vm *vm, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vm);
    struct cpu_offer offer;

    kvm->model = *vm->model;
    if (!kvm_offer(kvm->sys, &offer, err))
        return false;
    for (unsigned f = X86_F_BASE + 1; f < X86_F_COUNT; f++)
        if (kvm->model.feature[f] && offer.feature[f] == CPU_LACKS)
            return err_set(err, ENOTSUP, "cpu model %s: this host's KVM lacks %s", kvm->model.name,
                           cpu_feature_name(f));
    return true;
}

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

/* KVM writes sizes and masks of its own into these two leaves if it finds them, also when the model
 * has no XSAVE and no SGX. A leaf that is not in the table reads as zero. */
static bool left_out(const struct kvm_cpuid_entry2 *e)
{
    return (e->function == 0xd || e->function == 0x12) && !(e->eax | e->ebx | e->ecx | e->edx);
}

struct table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entry[128];
};

/* The leaves from `first` to the highest that `first` itself names. */
static void fill_range(struct vcpu *vcpu, struct table *t, uint32_t first)
{
    uint32_t last = first;

    for (uint32_t leaf = first; leaf <= last; leaf++) {
        unsigned subs = cpu_model_subleaves(leaf);

        for (unsigned sub = 0; sub < subs + !subs && t->head.nent < ARRAY_SIZE(t->entry); sub++) {
            struct kvm_cpuid_entry2 *e = &t->entry[t->head.nent];

            fill(vcpu, e, leaf, sub);
            e->flags = subs ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
            if (leaf == first)
                last = min_u64(e->eax, first + 0x40);
            t->head.nent += !left_out(e);
        }
    }
}

static bool enable(int fd, uint32_t cap, uint64_t arg)
{
    const struct kvm_enable_cap e = {.cap = cap, .args = {arg}};

    return ioctl(fd, KVM_ENABLE_CAP, &e) == 0;
}

/* Registers that CPUID does not offer are not there, as on the soft engine. Kernels that cannot
 * hide them show guests more than they look for. */
static bool enforce(struct vcpu *vcpu, struct err *err)
{
    const struct kvm_cpu *cpu = vcpu->priv;
    const struct cpu_model *model = &kvm_of(vcpu->vm)->model;

    (void)enable(cpu->fd, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1);
    if (!model->hyperv)
        return true;
    (void)enable(cpu->fd, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
    return !(model->hv.access & HV_ACCESS_SYNIC) || enable(cpu->fd, KVM_CAP_HYPERV_SYNIC2, 0) ||
           err_set(err, errno, "KVM does not switch on Hyper-V's timers: %s", strerror(errno));
}

bool kvm_set_cpuid(struct vcpu *vcpu, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);
    const struct kvm_cpu *cpu = vcpu->priv;
    struct table table = {0};
    int khz = ioctl(cpu->fd, KVM_GET_TSC_KHZ, 0);

    if (khz > 0)
        kvm->model.tsc_khz = (uint32_t)khz;
    fill_range(vcpu, &table, 0);
    if (kvm->model.feature[X86_F_HYPERVISOR])
        fill_range(vcpu, &table, 0x40000000);
    fill_range(vcpu, &table, 0x80000000);
    if (ioctl(cpu->fd, KVM_SET_CPUID2, &table))
        return err_set(err, errno, "KVM refuses the CPU model: %s", strerror(errno));
    return enforce(vcpu, err);
}
