/* SPDX-License-Identifier: MIT */
/* State images: many cases in one image, each run in a machine of its own whose end is compared
 * between engines. The command line ends in "NAME NUMBER": the case's number, and the only name
 * wanted or "-".
 *
 * A case must end the same way every time. So it waits in HLT rather than in a loop, keeps times to
 * itself, and what lies on stacks is wiped at the end. */
#ifndef HULL_GUEST_STATE_H
#define HULL_GUEST_STATE_H

#include "../guest.h"
#include "result.h"

struct state_case {
    const char *name; /* NULL: end of the list */
    void (*run)(uintptr_t arg);
    uintptr_t arg;
};

extern const struct state_case *const state_lists[]; /* the image's, NULL-terminated */

void note(uint64_t v); /* for the result block */
void state_main(uint32_t info);
_Noreturn void state_end(void); /* wipes stacks, clears registers, ends the machine */

#define RESULT ((volatile struct result *)RESULT_AT)

#endif
