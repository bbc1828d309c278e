/* SPDX-License-Identifier: MIT */
/* What KVM was measured to be worth, kept from one machine to the next. */
#ifndef HULL_ENGINE_SPEED_CACHE_H
#define HULL_ENGINE_SPEED_CACHE_H

#include "engine/kvm/probe.h"

/* False: nothing is kept for this kernel, its KVM and this processor, or not by us. */
bool speed_cache_read(struct kvm_speed *speed);
/* May fail in silence: the next machine then measures again. */
void speed_cache_write(const struct kvm_speed *speed);

#endif
