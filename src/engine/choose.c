/* SPDX-License-Identifier: MIT */
/* The choice between engines. Auto measures: a throw-away vCPU runs ring-0 code, and the reason
 * says what came of it or what is in the way. Hardware speed is remembered for this kernel and this
 * processor; anything less is measured again each time, as a busy moment may have caused it. */
#include "engine/choose.h"
#include "engine/soft/jit/jit.h"
#include "engine/speed_cache.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

bool engine_measure(struct kvm_speed *speed, struct err *err)
{
    if (!kvm_measure(speed, err))
        return false;
    if (speed->mips >= HARDWARE_MIPS)
        speed_cache_write(speed);
    return true;
}

/* A usable KVM and its speed. What is remembered says nothing about whether it is free now. */
static bool find_speed(struct kvm_speed *speed, struct err *err)
{
    if (speed_cache_read(speed) && speed->mips >= HARDWARE_MIPS)
        return kvm_usable(err);
    return engine_measure(speed, err);
}

static void choose_auto(struct engine_choice *choice)
{
    struct kvm_speed speed;
    struct err err;

    choice->ops = &soft_engine;
    choice->second_best = true;
    if (!find_speed(&speed, &err)) {
        snprintf(choice->reason, sizeof choice->reason, "%s", err.text);
    } else if (speed.mips < HARDWARE_MIPS) {
        snprintf(choice->reason, sizeof choice->reason,
                 "/dev/kvm runs ring 0 at %.1f million instructions a second, so it is a KVM in "
                 "software: use a host with hardware virtualization, or --engine kvm all the same",
                 speed.mips);
    } else {
        choice->ops = &kvm_engine;
        choice->second_best = false;
        snprintf(choice->reason, sizeof choice->reason,
                 "/dev/kvm runs at hardware speed: %.0f million instructions a second, %.1f us an "
                 "exit",
                 speed.mips, speed.exit_us);
    }
}

bool engine_choose(const char *name, struct engine_choice *choice, struct err *err)
{
    struct err why;

    choice->second_best = false;
    if (!strcmp(name, "kvm")) {
        if (!kvm_usable(&why))
            return err_set(err, why.code, "--engine kvm: %.200s; or use --engine soft", why.text);
        choice->ops = &kvm_engine;
        snprintf(choice->reason, sizeof choice->reason, "asked for with --engine kvm");
    } else if (!strcmp(name, "soft") || !strncmp(name, "soft,", 5)) {
        const char *setting = !strcmp(name, "soft,perf=on")    ? "perf"
                              : !strncmp(name, "soft,jit=", 9) ? name + 9
                                                               : "";

        if (!soft_jit_setup(setting, err))
            return err_wrap(err, "--engine %s", name);
        choice->ops = &soft_engine;
        snprintf(choice->reason, sizeof choice->reason, "asked for with --engine soft");
    } else {
        choose_auto(choice);
    }
    return true;
}
