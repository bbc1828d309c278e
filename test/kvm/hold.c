/* SPDX-License-Identifier: MIT */
/* Keeps one KVM machine with one vCPU open until it is killed. Linux patches its code when the
 * first machine comes and the last goes, and when the first and last LAPIC is switched off (static
 * keys). QEMU 7.2 with a thread for each processor then now and then keeps a translation of the
 * breakpoint that patching uses, and all processors take it for ever. With this one open nothing is
 * patched while tests run. Says "held" when done. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
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
