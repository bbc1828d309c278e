/* SPDX-License-Identifier: MIT */
/* MSRs between struct vcpu_state and KVM. One that this KVM does not know is no error as long as
 * its value is the one that no write has changed: 0. */
#include "engine/kvm/kvm.h"
#include "engine/x86/msr.h"
#include <errno.h>
#include <sys/ioctl.h>

enum { ALWAYS, HYPERV, HYPERV_MACHINE }; /* with these leaves; the machine's, of vCPU 0 */

/* clang-format off */
#define ONE(index, field)        {index, 1, 1, offsetof(struct vcpu_state, field), ALWAYS}
#define ONE_OF(when, index, field) {index, 1, 1, offsetof(struct vcpu_state, field), when}
static const struct {
    uint32_t index;
    uint8_t count, step; /* `count` MSRs, `step` apart, in an array of uint64_t */
    uint16_t offset;
    uint8_t when;
} table[] = {
    ONE(MSR_TSC, tsc),
    ONE(MSR_TSC_ADJUST, tsc_adjust),
    ONE(MSR_STAR, star),
    ONE(MSR_LSTAR, lstar),
    ONE(MSR_CSTAR, cstar),
    ONE(MSR_FMASK, fmask),
    ONE(MSR_KERNEL_GS_BASE, kernel_gs_base),
    ONE(MSR_SYSENTER_CS, sysenter_cs),
    ONE(MSR_SYSENTER_ESP, sysenter_esp),
    ONE(MSR_SYSENTER_EIP, sysenter_eip),
    ONE(MSR_PAT, pat),
    ONE(MSR_TSC_AUX, tsc_aux),
    ONE(MSR_MISC_ENABLE, misc_enable),
    ONE(MSR_SPEC_CTRL, spec_ctrl),
    ONE(MSR_BIOS_SIGN_ID, bios_sign),
    ONE(MSR_MTRR_DEF_TYPE, mtrr_def),
    ONE(MSR_MTRR_FIX64K_00000, mtrr_fix[0]),
    {MSR_MTRR_FIX16K_80000, 2, 1, offsetof(struct vcpu_state, mtrr_fix[1]), ALWAYS},
    {MSR_MTRR_FIX4K_C0000, 8, 1, offsetof(struct vcpu_state, mtrr_fix[3]), ALWAYS},
    {MSR_MTRR_PHYS_BASE0, 8, 2, offsetof(struct vcpu_state, mtrr_base), ALWAYS},
    {MSR_MTRR_PHYS_BASE0 + 1, 8, 2, offsetof(struct vcpu_state, mtrr_mask), ALWAYS},
    ONE(MSR_MCG_STATUS, mcg_status),
    ONE(MSR_KVM_WALL_CLOCK_NEW, kvm_wall_clock),
    ONE(MSR_KVM_SYSTEM_TIME_NEW, kvm_system_time),
    ONE(MSR_KVM_ASYNC_PF_INT, kvm_async_pf_int), /* before what switches it on */
    ONE(MSR_KVM_ASYNC_PF, kvm_async_pf),
    ONE(MSR_KVM_STEAL_TIME, kvm_steal_time),
    ONE(MSR_KVM_PV_EOI, kvm_pv_eoi),
    ONE(MSR_KVM_POLL_CONTROL, kvm_poll_control),
    ONE_OF(HYPERV_MACHINE, MSR_HV_GUEST_OS_ID, hv_guest_os_id), /* before the next */
    ONE_OF(HYPERV_MACHINE, MSR_HV_HYPERCALL, hv_hypercall),
    ONE_OF(HYPERV_MACHINE, MSR_HV_REFERENCE_TSC, hv_tsc_page),
    ONE_OF(HYPERV, MSR_HV_VP_ASSIST, hv_vp_assist),
    ONE_OF(HYPERV, MSR_HV_SCONTROL, hv_scontrol),
    ONE_OF(HYPERV, MSR_HV_SIEFP, hv_siefp),
    ONE_OF(HYPERV, MSR_HV_SIMP, hv_simp),
    {MSR_HV_SINT0, 16, 1, offsetof(struct vcpu_state, hv_sint), HYPERV},
    {MSR_HV_STIMER0, 8, 1, offsetof(struct vcpu_state, hv_stimer), HYPERV},
};
/* clang-format on */

#define LIST_MAX 96

struct msr_list {
    struct kvm_msrs head;
    struct kvm_msr_entry entry[LIST_MAX];
};

static bool in_list(struct vcpu *vcpu, unsigned i)
{
    if (table[i].when == ALWAYS)
        return true;
    return vcpu->vm->model->hyperv && (table[i].when == HYPERV || vcpu->id == 0);
}

static void make_list(struct vcpu *vcpu, struct msr_list *list, const struct vcpu_state *state)
{
    memset(list, 0, sizeof *list);
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        for (unsigned k = 0; in_list(vcpu, i) && k < table[i].count; k++) {
            struct kvm_msr_entry *e = &list->entry[list->head.nmsrs++];

            e->index = table[i].index + k * table[i].step;
            memcpy(&e->data, (const uint8_t *)state + table[i].offset + k * 8, 8);
            if (e->index == MSR_TSC && !e->data)
                e->data = 1; /* to KVM a 0 means: whatever the other vCPUs have */
        }
}

static void read_list(struct vcpu *vcpu, const struct msr_list *list, struct vcpu_state *state)
{
    const struct kvm_msr_entry *e = list->entry;

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        for (unsigned k = 0; in_list(vcpu, i) && k < table[i].count; k++, e++)
            memcpy((uint8_t *)state + table[i].offset + k * 8, &e->data, 8);
}

/* The kernel stops at the first that it does not know, so what is left goes there again. */
static unsigned transfer(int fd, unsigned long request, struct msr_list *list, unsigned from)
{
    struct msr_list part = {.head.nmsrs = list->head.nmsrs - from};
    int done;

    memcpy(part.entry, list->entry + from, part.head.nmsrs * sizeof part.entry[0]);
    done = ioctl(fd, request, &part);
    if (done > 0)
        memcpy(list->entry + from, part.entry, (unsigned)done * sizeof part.entry[0]);
    return from + (done > 0 ? (unsigned)done : 0);
}

void kvm_get_msrs(struct vcpu *vcpu, struct vcpu_state *state)
{
    const struct kvm_cpu *cpu = vcpu->priv;
    struct msr_list list;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } deadline = {.head.nmsrs = 1, .entry.index = MSR_TSC_DEADLINE};

    /* What a register that is not there would hold: as after power-on. */
    state->kvm_poll_control = 1;
    for (unsigned i = 0; i < ARRAY_SIZE(state->hv_sint); i++)
        state->hv_sint[i] = 0x10000;
    make_list(vcpu, &list, state);
    for (unsigned at = 0; at < list.head.nmsrs; at++) /* past what stopped it: that stays 0 */
        at = transfer(cpu->fd, KVM_GET_MSRS, &list, at);
    read_list(vcpu, &list, state);
    state->lapic.tsc_deadline =
        ioctl(cpu->fd, KVM_GET_MSRS, &deadline) == 1 ? deadline.entry.data : 0;
}

/* Values that an MSR has where CPUID does not offer it. */
static bool unset(const struct kvm_msr_entry *e)
{
    return (e->index == MSR_KVM_POLL_CONTROL && e->data == 1) ||
           (e->index >= MSR_HV_SINT0 && e->index < MSR_HV_SINT0 + 16 && e->data == 0x10000);
}

bool kvm_set_msrs(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err)
{
    const struct kvm_cpu *cpu = vcpu->priv;
    struct msr_list list;

    make_list(vcpu, &list, state);
    for (unsigned at = 0; at < list.head.nmsrs; at++) {
        at = transfer(cpu->fd, KVM_SET_MSRS, &list, at);
        if (at < list.head.nmsrs && list.entry[at].data && !unset(&list.entry[at]))
            return err_set(err, EINVAL, "vCPU state: KVM refuses MSR 0x%x = 0x%llx",
                           list.entry[at].index, list.entry[at].data);
    }
    return true;
}

bool kvm_set_deadline(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err)
{
    const struct kvm_cpu *cpu = vcpu->priv;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } m = {.head.nmsrs = 1,
           .entry = {.index = MSR_TSC_DEADLINE, .data = state->lapic.tsc_deadline}};

    return ioctl(cpu->fd, KVM_SET_MSRS, &m) == 1 || !state->lapic.tsc_deadline ||
           err_set(err, EINVAL, "vCPU state: KVM has no TSC deadline timer");
}
