/* SPDX-License-Identifier: MIT */
/* KVM's capabilities that matter to machines, for hull info: what each is good for and since when
 * the kernel has it. */
#include "engine/kvm/probe.h"
#include "engine/kvm/kvm.h"
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif

/* clang-format off */
static const struct {
    int cap;
    const char *name, *about, *get;
} caps[] = {
    {KVM_CAP_NR_VCPUS, "vcpus-recommended", "vCPUs that this host runs well", "more processors"},
    {KVM_CAP_MAX_VCPUS, "vcpus-max", "vCPUs of a machine", "a newer kernel"},
    {KVM_CAP_NR_MEMSLOTS, "memory-slots", "memory slots of a machine", "a newer kernel"},
    {KVM_CAP_SPLIT_IRQCHIP, "split-irqchip", "local APICs in the kernel; needed", "Linux 4.4"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate-exit", "kicks without a race; needed", "Linux 4.13"},
    {KVM_CAP_IRQFD, "irqfd", "interrupts by eventfd, without a system call of ours", "Linux 2.6.32"},
    {KVM_CAP_IOEVENTFD, "ioeventfd", "queue kicks that do not leave the kernel", "Linux 2.6.33"},
    {KVM_CAP_COALESCED_MMIO, "coalesced-mmio", "writes that cost no exit", "Linux 2.6.26"},
    {KVM_CAP_COALESCED_PIO, "coalesced-pio", "port writes that cost no exit", "Linux 4.20"},
    {KVM_CAP_READONLY_MEM, "readonly-memory", "ROM; needed", "Linux 3.7"},
    {KVM_CAP_SYNC_REGS, "sync-regs", "registers without system calls", "Linux 4.16"},
    {KVM_CAP_XSAVE2, "xsave2", "vector state beyond 4 KiB", "Linux 5.17"},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "manual-dirty-log", "a cheaper dirty log, for snapshots", "Linux 5.4"},
    {KVM_CAP_DIRTY_LOG_RING, "dirty-ring", "bytes of dirty ring, for migration", "Linux 5.11"},
    {KVM_CAP_X86_USER_SPACE_MSR, "user-space-msrs", "MSRs answered by us", "Linux 5.10"},
    {KVM_CAP_X86_MSR_FILTER, "msr-filter", "MSRs kept from guests", "Linux 5.10"},
    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, "exit-on-emulation-failure", "refused instructions reach us", "Linux 5.13"},
    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, "triple-fault-event", "triple faults survive a snapshot", "Linux 6.1"},
    {KVM_CAP_TSC_CONTROL, "tsc-scaling", "a guest's TSC at another rate than the host's", "hardware that has it"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "tsc-deadline", "the LAPIC's deadline timer", "a host with a stable TSC"},
    {KVM_CAP_X86_APIC_BUS_CYCLES_NS, "apic-bus-clock", "a LAPIC timer that counts our crystal", "Linux 6.11"},
    {KVM_CAP_X2APIC_API, "x2apic-api", "more than 255 APIC ids", "Linux 4.8"},
    {KVM_CAP_NESTED_STATE, "nested-state", "snapshots of guests that run guests", "Linux 4.19, nested=1"},
    {KVM_CAP_HYPERV_SYNIC2, "hyperv-synic", "Hyper-V's timers and messages", "Linux 4.14"},
    {KVM_CAP_SYS_HYPERV_CPUID, "hyperv-cpuid", "Hyper-V's leaves (--cpu ...,hyperv=on)", "Linux 5.11"},
    {KVM_CAP_PMU_CAPABILITY, "pmu", "performance counters", "Linux 5.18, hardware that has them"},
};
/* clang-format on */

bool kvm_report(void (*each)(void *to, const struct kvm_capability *), void *to, struct err *err)
{
    int sys = kvm_open_device(err);

    if (sys < 0)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(caps); i++) {
        int value = ioctl(sys, KVM_CHECK_EXTENSION, caps[i].cap);
        const struct kvm_capability c = {caps[i].name, caps[i].about, caps[i].get,
                                         value > 0 ? value : 0};

        each(to, &c);
    }
    close(sys);
    return true;
}
