/* SPDX-License-Identifier: MIT */
/* What /dev/kvm is worth on this host. */
#ifndef HULL_KVM_PROBE_H
#define HULL_KVM_PROBE_H

#include "base/err.h"

struct kvm_speed {
    double mips;    /* ring-0 instructions per microsecond */
    double exit_us; /* one exit to us and back */
};

/* Whether machines can be made on it now. False: err says what is in the way and what to do. */
bool kvm_usable(struct err *err);

/* Runs a few thousand ring-0 instructions in a throw-away vCPU. False: there is no usable KVM, and
 * err says what to do. */
bool kvm_measure(struct kvm_speed *speed, struct err *err);

struct kvm_capability { /* for people: what it is good for, where it is had from */
    const char *name, *about, *get;
    int value; /* 0: not there */
};

/* Each capability that matters, in the order to show them. */
bool kvm_report(void (*each)(void *to, const struct kvm_capability *), void *to, struct err *err);

#endif
