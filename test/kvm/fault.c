/* SPDX-License-Identifier: MIT */
/* The host's own KVM with one thing about it changed, for what no kernel at hand does: a library
 * for LD_PRELOAD. All but the named thing is the real kernel's. KVM_FAULT is one of:
 *
 *   version    the API is an older one              no-split   no split irqchip
 *   old        no KVM_GET_SREGS2, as before 5.14    busy       VMX or SVM is somebody else's
 *   slots      one memory slot, a second is refused vcpu       no vCPU can be made
 *   slow       ring 0 at 1.7 million instructions a second, as where it is emulated
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 1, NS_FOR_TWO = 1200 };

static int real(int fd, unsigned long request, void *arg)
{
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

static int refuse(int code)
{
    errno = code;
    return -1;
}

static int check_extension(const char *fault, int fd, void *arg)
{
    const unsigned long cap = (unsigned long)arg;

    if (cap == KVM_CAP_SPLIT_IRQCHIP && !strcmp(fault, "no-split"))
        return 0;
    if (cap == KVM_CAP_SREGS2 && !strcmp(fault, "old"))
        return 0;
    if (cap == KVM_CAP_NR_MEMSLOTS && !strcmp(fault, "slots"))
        return SLOTS;
    return real(fd, KVM_CHECK_EXTENSION, arg);
}

/* The probe counts CX down, two instructions each time. */
static int run_slowly(int fd, void *arg)
{
    struct kvm_regs regs = {0};
    struct timespec more = {0};

    if (real(fd, KVM_GET_REGS, &regs))
        return -1;
    more.tv_nsec = (long)(regs.rcx & 0xffff) * NS_FOR_TWO;
    nanosleep(&more, NULL);
    return real(fd, KVM_RUN, arg);
}

int ioctl(int fd, unsigned long request, ...);

int ioctl(int fd, unsigned long request, ...)
{
    const char *fault = getenv("KVM_FAULT");
    va_list list;
    void *arg;

    va_start(list, request);
    arg = va_arg(list, void *);
    va_end(list);
    if (!fault)
        return real(fd, request, arg);
    switch (request) {
    case KVM_CHECK_EXTENSION: return check_extension(fault, fd, arg);
    case KVM_GET_API_VERSION: return real(fd, request, arg) - !strcmp(fault, "version");
    case KVM_CREATE_VM:
        if (!strcmp(fault, "busy"))
            return refuse(EBUSY);
        break;
    case KVM_CREATE_VCPU:
        if (!strcmp(fault, "vcpu"))
            return refuse(ENOMEM);
        break;
    case KVM_SET_USER_MEMORY_REGION: {
        const struct kvm_userspace_memory_region *m = arg;

        if (m->slot >= SLOTS && !strcmp(fault, "slots"))
            return refuse(EINVAL);
        break;
    }
    case KVM_RUN:
        if (!strcmp(fault, "slow"))
            return run_slowly(fd, arg);
        break;
    }
    return real(fd, request, arg);
}
