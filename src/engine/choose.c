/* SPDX-License-Identifier: MIT */
/* The choice between engines. Auto measures: a throw-away vCPU runs ring-0 code, and the reason
 * says what came of it or what is in the way.
 *
 * It stays with the soft engine even where KVM is at hardware speed, until the KVM engine is proven
 * outside test/kvm's nested machine too: --engine kvm takes it. */
#include "engine/choose.h"
#include "engine/kvm/probe.h"
#include <errno.h>
#include <stdio.h>

/* Far above what a KVM in software reaches (about 2), far below any hardware. */
#define HARDWARE_MIPS 50

static void choose_auto(struct engine_choice *choice)
{
    struct kvm_speed speed;
    struct err err;

    choice->ops = &soft_engine;
    if (!kvm_measure(&speed, &err)) {
        snprintf(choice->reason, sizeof choice->reason, "%s", err.text);
        return;
    }
    if (speed.mips < HARDWARE_MIPS) {
        snprintf(choice->reason, sizeof choice->reason,
                 "/dev/kvm runs ring 0 at %.1f million instructions a second: it is no hardware's "
                 "(--engine kvm takes it all the same)",
                 speed.mips);
        return;
    }
    snprintf(
        choice->reason, sizeof choice->reason,
        "/dev/kvm runs at hardware speed (an exit costs %.1f us): --engine kvm uses it, which is "
        "new and not yet chosen by itself",
        speed.exit_us);
}

bool engine_choose(const char *name, struct engine_choice *choice, struct err *err)
{
    if (!strcmp(name, "kvm")) {
        struct kvm_speed speed;
        struct err why;

        if (!kvm_measure(&speed, &why))
            return err_set(err, why.code, "--engine kvm: %.200s; or use --engine soft", why.text);
        choice->ops = &kvm_engine;
        snprintf(choice->reason, sizeof choice->reason,
                 "asked for with --engine kvm; %.0f million instructions a second, %.1f us an exit",
                 speed.mips, speed.exit_us);
    } else if (!strcmp(name, "soft")) {
        choice->ops = &soft_engine;
        snprintf(choice->reason, sizeof choice->reason, "asked for with --engine soft");
    } else {
        choose_auto(choice);
    }
    return true;
}
