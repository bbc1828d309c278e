/* SPDX-License-Identifier: MIT */
/* Which engine a machine gets: --engine auto measures, it never trusts that /dev/kvm opens. */
#ifndef HULL_ENGINE_CHOOSE_H
#define HULL_ENGINE_CHOOSE_H

#include "engine/engine.h"
#include "engine/kvm/probe.h"

/* Ring-0 instructions a microsecond: far above what a KVM in software reaches (about 2), far below
 * any hardware. */
#define HARDWARE_MIPS 50

struct engine_choice {
    const struct engine_ops *ops;
    char reason[300]; /* one line for people: why this one, and how to get a better one */
    bool second_best; /* auto wanted KVM and could not take it: worth telling */
};

/* `name` is auto, kvm, soft, or soft,jit= and a setting of the JIT. Fails only when kvm was asked
 * for and cannot be had. */
bool engine_choose(const char *name, struct engine_choice *choice, struct err *err);

/* Measures KVM now, whatever was kept of earlier measurements, and keeps the result. */
bool engine_measure(struct kvm_speed *speed, struct err *err);

#endif
