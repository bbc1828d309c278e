/* SPDX-License-Identifier: MIT */
/* MSRs that answer as on the soft engine. KVM keeps those that have state, which are listed here;
 * any other is an exit, and the soft engine's table answers: a constant, nothing, or #GP.
 *
 * A CPU model with features that the soft engine has not ("host", nested virtualization) needs MSRs
 * of KVM's that nobody listed, so there only those come to us that KVM does not know. */
#include "engine/kvm/kvm.h"
#include "engine/soft/step.h"
#include "engine/x86/msr.h"
#include <sys/ioctl.h>

/* clang-format off */
static const struct {
    uint32_t first, last;
} kept[] = {
    {MSR_TSC, MSR_KVM_SYSTEM_TIME}, /* and the wall clock between them */
    {MSR_APIC_BASE, MSR_APIC_BASE},
    {MSR_TSC_ADJUST, MSR_TSC_ADJUST},
    {MSR_SPEC_CTRL, MSR_PRED_CMD},
    {MSR_BIOS_SIGN_ID, MSR_BIOS_SIGN_ID},
    {MSR_MTRR_CAP, MSR_MTRR_CAP},
    {MSR_ARCH_CAPABILITIES, MSR_FLUSH_CMD},
    {MSR_MISC_FEATURES_ENABLES, MSR_MISC_FEATURES_ENABLES},
    {MSR_SYSENTER_CS, MSR_SYSENTER_EIP},
    {MSR_MCG_STATUS, MSR_MCG_STATUS},
    {MSR_MISC_ENABLE, MSR_MISC_ENABLE},
    {MSR_MTRR_PHYS_BASE0, MSR_MTRR_PHYS_BASE0 + 15},
    {MSR_MTRR_FIX64K_00000, MSR_MTRR_FIX4K_C0000 + 7},
    {MSR_PAT, MSR_PAT},
    {MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE},
    {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE},
    {MSR_X2APIC_BASE, MSR_X2APIC_BASE + 0xff},
    {MSR_XSS, MSR_XSS},
    {0x40000000, 0x400001ff}, /* Hyper-V's */
    {MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_WALL_CLOCK_NEW + 0xff},
    {MSR_EFER, MSR_FMASK},
    {MSR_FS_BASE, MSR_TSC_AUX},
};
/* Windows over the numbers with a bit for each; everything outside of them is filtered out. */
static const struct {
    uint32_t base, count;
} window[] = {
    {0, 0x1000}, {0x40000000, 0x200}, {0x4b564d00, 0x100}, {0xc0000000, 0x200},
};
/* clang-format on */

static void fill_range(struct kvm_msr_filter_range *r, uint8_t *bitmap, unsigned w)
{
    *r = (struct kvm_msr_filter_range){
        .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
        .base = window[w].base,
        .nmsrs = window[w].count,
        .bitmap = bitmap,
    };
    for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
        for (uint32_t m = kept[i].first; m <= kept[i].last; m++)
            if (m - window[w].base < window[w].count)
                bitmap[(m - window[w].base) / 8] |= (uint8_t)BIT((m - window[w].base) % 8);
}

static bool models_agree(const struct cpu_model *m)
{
    return strcmp(m->name, "host") && !m->feature[X86_F_VMX] && !m->feature[X86_F_SVM];
}

/* Older kernels have neither: there KVM answers as it likes. */
void kvm_filter_msrs(struct kvm_vm *kvm)
{
    struct kvm_enable_cap exits = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = {KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    uint8_t bitmap[ARRAY_SIZE(window)][0x1000 / 8] = {0};

    if (ioctl(kvm->fd, KVM_ENABLE_CAP, &exits) || !models_agree(&kvm->model))
        return;
    for (unsigned w = 0; w < ARRAY_SIZE(window); w++)
        fill_range(&filter.ranges[w], bitmap[w], w);
    (void)ioctl(kvm->fd, KVM_X86_SET_MSR_FILTER, &filter);
}

void kvm_answer_msr(struct vcpu *vcpu, struct kvm_run *run)
{
    uint64_t value = run->msr.data;

    run->msr.error = !soft_msr_plain(&kvm_of(vcpu->vm)->model, run->msr.index,
                                     run->exit_reason == KVM_EXIT_X86_WRMSR, &value);
    run->msr.data = value;
}
