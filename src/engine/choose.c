/* SPDX-License-Identifier: MIT */
/* The choice between engines. The KVM engine is a later part of hull; until it is there, this says
 * so with the state of /dev/kvm, so that users know what to expect. */
#include "engine/choose.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Why /dev/kvm is of no use, or NULL if it opens. */
static const char *kvm_refusal(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0) {
        close(fd);
        return NULL;
    }
    switch (errno) {
    case ENOENT:
        return "there is no /dev/kvm (modprobe kvm_intel or kvm_amd, or enable virtualization in "
               "the firmware)";
    case EACCES:
    case EPERM:
        return "/dev/kvm may not be opened (be in group kvm: usermod -aG kvm USER, then log in "
               "again)";
    default: return strerror(errno);
    }
}

bool engine_choose(const char *name, struct engine_choice *choice, struct err *err)
{
    const char *refusal = kvm_refusal();

    choice->ops = &soft_engine;
    if (!strcmp(name, "kvm"))
        return err_set(err, refusal ? ENOENT : ENOSYS, "--engine kvm: %s; use --engine soft",
                       refusal ? refusal : "this version of hull has no KVM engine yet");
    if (!strcmp(name, "soft"))
        snprintf(choice->reason, sizeof choice->reason, "asked for with --engine soft");
    else
        snprintf(choice->reason, sizeof choice->reason, "%s",
                 refusal ? refusal : "this version of hull does not use /dev/kvm yet");
    return true;
}
