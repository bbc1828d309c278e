/* SPDX-License-Identifier: MIT */
/* Running a vCPU: KVM_RUN until someone kicks, with what it asks for in between.
 *
 * After an I/O exit the access is finished by the next KVM_RUN, not before. So this loop leaves
 * only from a KVM_RUN that said EINTR, which finishes accesses first: state read while paused is
 * whole. */
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <sys/ioctl.h>

static bool aligned_size(unsigned size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

static void access_one(struct bus *bus, uint64_t addr, uint8_t *data, unsigned size, bool write)
{
    uint64_t value = 0;

    if (write) {
        memcpy(&value, data, size);
        bus_write(bus, addr, value, size);
    } else {
        value = bus_read(bus, addr, size);
        memcpy(data, &value, size);
    }
}

static void port_io(struct vm *vm, struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
        access_one(vm->pio, run->io.port, data, run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
}

/* An access over the end of a page comes in two pieces of any length. */
static void memory_io(struct vm *vm, struct kvm_run *run)
{
    unsigned len = run->mmio.len, step = aligned_size(len) ? len : 1;

    for (unsigned at = 0; at < len && at < sizeof run->mmio.data; at += step)
        access_one(vm->mmio, run->mmio.phys_addr + at, run->mmio.data + at, step,
                   run->mmio.is_write);
}

/* INTA for the 8259 pair: the vector is fetched only when the kernel will take it, which it says
 * with ready_for_interrupt_injection; until then it is asked to leave the guest at that point. */
static void offer_pic(struct vcpu *vcpu, struct kvm_run *run)
{
    struct vm *vm = vcpu->vm;
    struct kvm_vm *kvm = kvm_of(vm);
    const struct kvm_cpu *cpu = vcpu->priv;
    struct kvm_interrupt irq;
    int vector;

    if (atomic_load(&kvm->intr) && run->ready_for_interrupt_injection && vm->events->pic_ack) {
        vector = vm->events->pic_ack(vm);
        irq.irq = (uint32_t)vector;
        if (vector >= 0)
            (void)ioctl(cpu->fd, KVM_INTERRUPT, &irq);
        run->ready_for_interrupt_injection = 0;
    }
    run->request_interrupt_window = atomic_load(&kvm->intr);
}

static void hex(char *text, size_t room, const uint8_t *bytes, unsigned count)
{
    text[0] = 0;
    for (unsigned i = 0; i < count && i * 3 + 4 < room; i++)
        snprintf(text + i * 3, room - i * 3, " %02x", bytes[i]);
}

static enum vcpu_exit broken(struct vcpu *vcpu, int code, const char *why)
{
    const struct kvm_cpu *cpu = vcpu->priv;
    struct kvm_regs regs = {0};
    struct kvm_sregs sregs = {0};

    (void)ioctl(cpu->fd, KVM_GET_REGS, &regs);
    (void)ioctl(cpu->fd, KVM_GET_SREGS, &sregs);
    err_set(&vcpu->err, code, "%s, at %x:%llx (cr0 %llx, efer %llx)", why, sregs.cs.selector,
            regs.rip, sregs.cr0, sregs.efer);
    return VCPU_BROKEN;
}

/* The soft engine knows the instruction, or raises #UD for the guest. */
static enum vcpu_exit internal_error(struct vcpu *vcpu, const struct kvm_run *run)
{
    char why[256], bytes[64] = "";
    struct err err;
    enum vcpu_exit exit;
    bool has_bytes =
        run->emulation_failure.ndata >= 3 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);

    if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
        snprintf(why, sizeof why, "KVM's internal error %u", run->internal.suberror);
        return broken(vcpu, EIO, why);
    }
    exit = kvm_complete(vcpu, &err);
    if (exit != VCPU_BROKEN)
        return exit;
    if (has_bytes)
        hex(bytes, sizeof bytes, run->emulation_failure.insn_bytes,
            (unsigned)min_u64(run->emulation_failure.insn_size, 15));
    snprintf(why, sizeof why, "KVM cannot emulate an instruction%s%s, nor can we: %.120s",
             bytes[0] ? ":" : "", bytes, err.text);
    return broken(vcpu, ENOTSUP, why);
}

static enum vcpu_count kind_of(uint32_t reason)
{
    switch (reason) {
    case KVM_EXIT_IO: return COUNT_PORT;
    case KVM_EXIT_MMIO: return COUNT_MMIO;
    case KVM_EXIT_IOAPIC_EOI: return COUNT_EOI;
    case KVM_EXIT_IRQ_WINDOW_OPEN: return COUNT_WINDOW;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR: return COUNT_MSR;
    case KVM_EXIT_INTERNAL_ERROR: return COUNT_EMULATED;
    case KVM_EXIT_DIRTY_RING_FULL: return COUNT_DIRTY;
    default: return COUNT_OTHER;
    }
}

/* What an exit asks for. VCPU_KICKED: it is done, go on. */
static enum vcpu_exit handle(struct vcpu *vcpu, struct kvm_run *run)
{
    char why[96];

    vcpu_count(vcpu, kind_of(run->exit_reason));
    switch (run->exit_reason) {
    case KVM_EXIT_IO: port_io(vcpu->vm, run); return VCPU_KICKED;
    case KVM_EXIT_MMIO: memory_io(vcpu->vm, run); return VCPU_KICKED;
    case KVM_EXIT_IOAPIC_EOI:
        if (vcpu->vm->events->eoi)
            vcpu->vm->events->eoi(vcpu->vm, run->eoi.vector);
        return VCPU_KICKED;
    case KVM_EXIT_HYPERV: /* the kernel serves what CPUID offers; other calls do not exist */
        if (run->hyperv.type == KVM_EXIT_HYPERV_HCALL)
            run->hyperv.u.hcall.result = 2; /* invalid hypercall code */
        return VCPU_KICKED;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_HLT: return VCPU_KICKED;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR: kvm_answer_msr(vcpu, run); return VCPU_KICKED;
    case KVM_EXIT_DIRTY_RING_FULL: kvm_dirty_collect(vcpu->vm); return VCPU_KICKED;
    case KVM_EXIT_SHUTDOWN: return VCPU_SHUTDOWN;
    case KVM_EXIT_INTERNAL_ERROR: return internal_error(vcpu, run);
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(why, sizeof why, "the processor refused to enter the guest (reason 0x%llx)",
                 run->fail_entry.hardware_entry_failure_reason);
        return broken(vcpu, EIO, why);
    }
    snprintf(why, sizeof why, "KVM stopped with unknown reason %u", run->exit_reason);
    return broken(vcpu, EIO, why);
}

/* The thread was started with all signals blocked. */
static void take_kicks(struct kvm_cpu *cpu)
{
    sigset_t kick;

    if (cpu->unblocked)
        return;
    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    cpu->unblocked = true;
}

enum vcpu_exit kvm_engine_run(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->priv;
    enum vcpu_exit todo;
    int result;

    take_kicks(cpu);
    for (;;) {
        if (vcpu->id == 0)
            offer_pic(vcpu, cpu->run);
        result = ioctl(cpu->fd, KVM_RUN, 0) < 0 ? errno : 0;
        kvm_defer_flush(vcpu);
        if (result == EAGAIN) /* an AP that has just got its start-up message */
            continue;
        if (result == EINTR) {
            __atomic_store_n(&cpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
            vcpu_count(vcpu, COUNT_KICK);
            return VCPU_KICKED;
        }
        if (result)
            return broken(vcpu, result, strerror(result));
        todo = handle(vcpu, cpu->run);
        if (todo != VCPU_KICKED)
            return todo;
    }
}
