/* SPDX-License-Identifier: MIT */
/* Which engine a machine gets: --engine auto measures, it never trusts that /dev/kvm opens. */
#ifndef HULL_ENGINE_CHOOSE_H
#define HULL_ENGINE_CHOOSE_H

#include "engine/engine.h"

struct engine_choice {
    const struct engine_ops *ops;
    char reason[300]; /* one line for people: why this one, and how to get a better one */
};

/* `name` is auto, kvm or soft. Fails only when kvm was asked for and cannot be had. */
bool engine_choose(const char *name, struct engine_choice *choice, struct err *err);

#endif
