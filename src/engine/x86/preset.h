/* SPDX-License-Identifier: MIT */
/* The named CPU models. A model is a list of lists: what it stands for, and what it takes if the
 * engine has it. */
#ifndef HULL_X86_PRESET_H
#define HULL_X86_PRESET_H

#include <stdint.h>

struct cpu_preset {
    const char *name, *about;
    const uint8_t *const *needs;  /* lists of enum x86_feature, each ended by 0; NULL ends them */
    const uint8_t *const *extras; /* taken if offered */
    uint32_t signature;           /* 0: all that is offered, with its identity */
};

extern const struct cpu_preset cpu_presets[]; /* name NULL after the last */

#endif
