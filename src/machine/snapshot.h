/* SPDX-License-Identifier: MIT */
/* Saving a machine to a directory and making a machine from one.
 *
 *   save      machine (paused) -> machine_save_state -> stream -> file `state`
 *             guest memory -> memory_save (while the guest runs) -> file `memory`
 *   restore   `state` -> restore_open (checked whole) -> assembly -> restore_apply -> paused
 * machine `memory` is mapped privately: pages come when they are touched
 *
 * The directory holds `state`, `memory` and, if they were copied, `disk0`, `disk1`, ... A partial
 * memory has only the pages that changed since another snapshot, its base, which it names. */
#ifndef HULL_MACHINE_SNAPSHOT_H
#define HULL_MACHINE_SNAPSHOT_H

#include "machine/machine.h"
#include "machine/saved.h"

#define SNAPSHOT_LAYERS 64 /* a base of a base of a ... */

/* ---- save.c: while paused ---- */
/* `memory` says what the memory file holds; `pages` is NULL unless partial. */
bool machine_save_state(struct machine *m, const struct memory_facts *memory,
                        const struct stream *pages, struct stream *out, struct err *err);
void memory_facts_fill(struct machine *m, struct memory_facts *f);

/* ---- restore.c ---- */
struct restore; /* a snapshot that is being restored; the machine's */
/* Reads and checks the files of a snapshot and of its bases; no machine exists yet. NULL on error.
 */
struct restore *restore_read(const char *dir, struct err *err);
/* What config and snapshot both say must agree; memory added from now on comes from its file. */
bool restore_open(struct machine *m, struct err *err);
/* The CPU model as it was saved; before the engine opens. */
bool restore_model(struct machine *m, const struct cpu_offer *offer, struct err *err);
/* Memory's layers below the first, once the regions are there. */
bool restore_memory(struct machine *m, struct err *err);
/* All state into a machine that is assembled and has not run: it is paused afterwards. */
bool restore_apply(struct machine *m, struct err *err);
void restore_close(struct machine *m); /* idempotent */
/* Whoever waits for a restored machine on its networks is told that it is there. */
void restore_announce(struct machine *m);

#endif
