/* SPDX-License-Identifier: MIT */
/* Keeps one KVM machine with one vCPU open until it is killed. Linux patches its code when the
 * first machine comes and the last goes, and when the first and last LAPIC is switched off (static
 * keys). QEMU 7.2 with a thread for each processor then now and then keeps a translation of the
 * breakpoint that patching uses, and all processors take it for ever. With this one open nothing is
 * patched while tests run. Says "held" when done.
 *
 *   kvm-hold --other on|off   processor 0's SVM as a hypervisor beside KVM has it (needs root, msr)
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int hold(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, cpu;
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

    vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
    cpu = vm < 0 || ioctl(vm, KVM_ENABLE_CAP, &split) ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
    if (cpu < 0) {
        perror("hold");
        return 1;
    }
    puts("held");
    fflush(stdout);
    for (;;)
        pause();
}

enum { EFER = (int)0xc0000080, EFER_SVME = 1 << 12 };

static int other(int on)
{
    int fd = open("/dev/cpu/0/msr", O_RDWR | O_CLOEXEC);
    off_t at = (uint32_t)EFER;
    uint64_t efer;

    if (fd >= 0 && pread(fd, &efer, sizeof efer, at) == sizeof efer) {
        efer = on ? efer | EFER_SVME : efer & ~(uint64_t)EFER_SVME;
        if (pwrite(fd, &efer, sizeof efer, at) == sizeof efer)
            return 0;
    }
    perror("/dev/cpu/0/msr");
    return 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--other"))
        return other(!strcmp(argv[2], "on"));
    return hold();
}
