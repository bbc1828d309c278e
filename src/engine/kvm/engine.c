/* SPDX-License-Identifier: MIT */
/* The KVM engine's entry points: opening the machine and its vCPUs, memory slots, interrupts.
 *
 *   MSI and IOAPIC messages   KVM_SIGNAL_MSI to the kernel's LAPICs
 *   eventfds, pins, bells     route.c
 *   the PICs' output          a flag, looked at by vCPU 0 before it enters the guest (run.c) */
#include "engine/kvm/kvm.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif

/* Four pages below 4 GiB that KVM needs on some Intel CPUs: no device or memory of ours is there.
 */
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_PAGES    0xfeffd000ull

bool kvm_check_version(int fd, struct err *err)
{
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);

    return version == KVM_API_VERSION ||
           err_set(err, ENOTSUP, "/dev/kvm is not KVM, or too old: its version is %d, not %d",
                   version, KVM_API_VERSION);
}

/* What to do depends on the processor: it may not have what KVM needs. */
static void no_device(struct err *err)
{
    const uint8_t *host = host_features();
    const char *todo = "enable virtualization in the firmware";

    if (host[X86_F_VMX])
        todo = "modprobe kvm_intel, or pass the device into this container";
    else if (host[X86_F_SVM])
        todo = "modprobe kvm_amd, or pass the device into this container";
    else if (host[X86_F_HYPERVISOR])
        todo = "this host is a virtual machine whose hypervisor must allow nested virtualization";
    err_set(err, ENOENT, "there is no /dev/kvm (%s)", todo);
}

int kvm_open_device(struct err *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO)) {
        no_device(err);
        return -1;
    }
    if (fd < 0 && (errno == EACCES || errno == EPERM)) {
        err_set(err, EACCES,
                "/dev/kvm may not be opened (be in group kvm: usermod -aG kvm USER, then log in "
                "again)");
        return -1;
    }
    if (fd < 0) {
        err_set(err, errno, "/dev/kvm: %s", strerror(errno));
        return -1;
    }
    if (kvm_check_version(fd, err))
        return fd;
    close(fd);
    return -1;
}

/* ---- opening ---- */

bool kvm_check_capabilities(int sys, struct err *err)
{
    static const struct {
        int cap;
        const char *what;
    } needed[] = {
        {KVM_CAP_SPLIT_IRQCHIP, "split irqchip"},     {KVM_CAP_SIGNAL_MSI, "MSI injection"},
        {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},   {KVM_CAP_READONLY_MEM, "read-only memory"},
        {KVM_CAP_USER_MEMORY, "user memory"},         {KVM_CAP_SREGS2, "KVM_GET_SREGS2"},
        {KVM_CAP_VCPU_EVENTS, "vCPU events"},         {KVM_CAP_XSAVE, "XSAVE state"},
        {KVM_CAP_MP_STATE, "multiprocessor state"},   {KVM_CAP_DEBUGREGS, "debug registers"},
        {KVM_CAP_GET_TSC_KHZ, "the TSC's frequency"}, {KVM_CAP_EXT_CPUID, "CPUID"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
        if (ioctl(sys, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
            return err_set(err, ENOTSUP,
                           "this host's KVM has no %s: the kernel is too old (5.14 or later works)",
                           needed[i].what);
    return true;
}

bool kvm_refused(int why, struct err *err)
{
    if (why == EBUSY)
        return err_set(err, EBUSY,
                       "another hypervisor holds the processor's virtualization: end it, or use "
                       "--engine soft");
    return err_set(err, why, "cannot create a virtual machine: %s", strerror(why));
}

static bool create_vm(struct kvm_vm *kvm, struct err *err)
{
    do
        kvm->fd = ioctl(kvm->sys, KVM_CREATE_VM, 0);
    while (kvm->fd < 0 && errno == EINTR);
    if (kvm->fd >= 0)
        return true;
    return kvm_refused(errno, err);
}

static bool enable(int fd, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap e = {.cap = cap, .args = {arg}};

    return ioctl(fd, KVM_ENABLE_CAP, &e) == 0;
}

static bool set_up_irqchip(struct kvm_vm *kvm, struct err *err)
{
    const uint64_t identity = IDENTITY_MAP;
    unsigned bus_ns = 1000000000 / X86_CRYSTAL_HZ;

    /* Ring 3's instructions too come to us (complete.c); older kernels send it #UD for them. */
    (void)enable(kvm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    if (ioctl(kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
        ioctl(kvm->fd, KVM_SET_TSS_ADDR, TSS_PAGES))
        return err_set(err, errno, "cannot place KVM's own pages: %s", strerror(errno));
    if (!enable(kvm->fd, KVM_CAP_SPLIT_IRQCHIP, KVM_PINS))
        return err_set(err, errno, "cannot split the interrupt controllers: %s", strerror(errno));
    /* CPUID leaf 0x15 says what the LAPIC timer counts; older kernels count nanoseconds. */
    kvm->apic_bus_ns = 1;
    if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_APIC_BUS_CYCLES_NS) > 0 &&
        enable(kvm->fd, KVM_CAP_X86_APIC_BUS_CYCLES_NS, bus_ns))
        kvm->apic_bus_ns = bus_ns;
    return true;
}

static bool map_memory(struct vm *vm, struct err *err)
{
    int slots = ioctl(kvm_of(vm)->sys, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);

    if (slots > 0 && vm->mem->count > (unsigned)slots)
        return err_set(err, ENOSPC, "this host's KVM has %d memory slots, the machine needs %u",
                       slots, vm->mem->count);
    for (unsigned i = 0; i < vm->mem->count; i++)
        if (!kvm_set_slot(vm, i, false))
            return err_set(err, errno, "cannot give memory '%s' to KVM: %s",
                           vm->mem->region[i].name, strerror(errno));
    return true;
}

static void on_kick(int signal)
{
}

static bool catch_kicks(struct err *err)
{
    struct sigaction a = {.sa_handler = on_kick, .sa_flags = SA_RESTART};

    sigemptyset(&a.sa_mask);
    return sigaction(KVM_KICK_SIGNAL, &a, NULL) == 0 ||
           err_set(err, errno, "cannot catch the kick signal: %s", strerror(errno));
}

static void engine_close(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_of(vm);

    if (kvm->fd >= 0)
        close(kvm->fd);
    if (kvm->sys >= 0)
        close(kvm->sys);
    kvm_complete_close(vm);
    pthread_mutex_destroy(&kvm->dirty_lock);
    pthread_mutex_destroy(&kvm->step_lock);
    pthread_mutex_destroy(&kvm->ring_lock);
    pthread_mutex_destroy(&kvm->lock);
    free(kvm->line);
    free(kvm);
    vm->priv = NULL;
}

static bool engine_open(struct vm *vm, struct err *err)
{
    struct kvm_vm *kvm = calloc(1, sizeof *kvm);
    int size;

    if (!kvm)
        return err_set(err, ENOMEM, "no memory for a machine");
    kvm->fd = -1;
    pthread_mutex_init(&kvm->lock, NULL);
    pthread_mutex_init(&kvm->ring_lock, NULL);
    pthread_mutex_init(&kvm->step_lock, NULL);
    pthread_mutex_init(&kvm->dirty_lock, NULL);
    vm->priv = kvm;
    kvm->sys = kvm_open_device(err);
    if (kvm->sys < 0 || !kvm_check_capabilities(kvm->sys, err) || !create_vm(kvm, err) ||
        !set_up_irqchip(kvm, err) || !kvm_dirty_open(vm, err) || !map_memory(vm, err) ||
        !catch_kicks(err) || !kvm_model_open(vm, err))
        goto close;
    kvm_filter_msrs(kvm);
    size = ioctl(kvm->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size >= (int)sizeof(struct kvm_run)) {
        kvm->run_size = (size_t)size;
        return true;
    }
    err_set(err, errno, "KVM's shared page has no size");
close:
    engine_close(vm);
    return false;
}

/* ---- vCPUs ---- */

static void engine_vcpu_close(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->priv;

    if (!cpu)
        return;
    kvm_dirty_vcpu_close(vcpu);
    if (cpu->run != MAP_FAILED)
        munmap(cpu->run, kvm_of(vcpu->vm)->run_size);
    if (cpu->fd >= 0)
        close(cpu->fd);
    free(cpu);
    vcpu->priv = NULL;
}

static bool power_on(struct vcpu *vcpu, struct err *err)
{
    struct vcpu_state *state = malloc(sizeof *state);
    bool done;

    if (!state)
        return err_set(err, ENOMEM, "no memory for a vCPU's state");
    vcpu_state_reset(state, vcpu->id == 0, vcpu->id);
    state->reg[2] = vcpu->vm->model->signature;
    done = kvm_engine_set(vcpu, state, err);
    free(state);
    return done;
}

static bool engine_vcpu_open(struct vcpu *vcpu, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);
    struct kvm_cpu *cpu = calloc(1, sizeof *cpu);

    if (!cpu)
        return err_set(err, ENOMEM, "no memory for a vCPU");
    vcpu->priv = cpu;
    cpu->run = MAP_FAILED;
    cpu->fd = ioctl(kvm->fd, KVM_CREATE_VCPU, (unsigned long)vcpu->id);
    if (cpu->fd >= 0)
        cpu->run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (cpu->run == MAP_FAILED)
        err_set(err, errno, "KVM refuses it: %s", strerror(errno));
    else if (kvm_dirty_vcpu_open(vcpu, err) && kvm_set_cpuid(vcpu, err) && power_on(vcpu, err)) {
        if (vcpu->id == 0)
            kvm_defer_open(vcpu);
        return true;
    }
    engine_vcpu_close(vcpu);
    return false;
}

/* HLT is the kernel's business: kvm_engine_run never says VCPU_HALT. */
static void engine_sleep(struct vcpu *vcpu)
{
}

void kvm_engine_kick(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->priv;
    int tid = atomic_load(&vcpu->tid);

    /* The flag first: a thread between its last look and KVM_RUN then does not enter the guest. */
    __atomic_store_n(&cpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (tid && tid != gettid())
        (void)tgkill(getpid(), tid, KVM_KICK_SIGNAL);
}

/* ---- interrupts ---- */

static void engine_msi(struct vm *vm, const struct msi *msi)
{
    struct kvm_msi m = {
        .address_lo = (uint32_t)msi->address,
        .address_hi = (uint32_t)(msi->address >> 32),
        .data = msi->data,
    };

    (void)ioctl(kvm_of(vm)->fd, KVM_SIGNAL_MSI, &m); /* a message to nobody vanishes */
}

static void engine_intr(struct vm *vm, bool level)
{
    bool before = atomic_exchange(&kvm_of(vm)->intr, level);

    if (level && !before && atomic_load(&vm->cpu[0]->tid) != gettid())
        kvm_engine_kick(vm->cpu[0]);
}

static void engine_nmi(struct vcpu *vcpu)
{
    const struct kvm_cpu *cpu = vcpu->priv;

    (void)ioctl(cpu->fd, KVM_NMI, 0);
}

const struct engine_ops kvm_engine = {
    .name = "kvm",
    .offer = kvm_engine_offer,
    .open = engine_open,
    .close = engine_close,
    .vcpu_open = engine_vcpu_open,
    .vcpu_close = engine_vcpu_close,
    .run = kvm_engine_run,
    .sleep = engine_sleep,
    .kick = kvm_engine_kick,
    .msi = engine_msi,
    .route = kvm_engine_route,
    .bell = kvm_engine_bell,
    .msi_fd = kvm_engine_msi_fd,
    .defer = kvm_engine_defer,
    .intr = engine_intr,
    .nmi = engine_nmi,
    .dirty = kvm_engine_dirty,
    .get = kvm_engine_get,
    .set = kvm_engine_set,
};
