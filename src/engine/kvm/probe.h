/* SPDX-License-Identifier: MIT */
/* What /dev/kvm is worth on this host. */
#ifndef HULL_KVM_PROBE_H
#define HULL_KVM_PROBE_H

#include "base/err.h"

struct kvm_speed {
    double mips;    /* ring-0 instructions per microsecond */
    double exit_us; /* one exit to us and back */
};

/* Runs a few thousand ring-0 instructions in a throw-away vCPU. False: there is no usable KVM, and
 * err says what to do. */
bool kvm_measure(struct kvm_speed *speed, struct err *err);

#endif
