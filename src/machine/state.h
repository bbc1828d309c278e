/* SPDX-License-Identifier: MIT */
/* The stream that carries a machine's state: to a snapshot's `state` file today, over a socket with
 * migration. It knows sections, not machines.
 *
 *   "hullstat"  u32 format  u32 flags (0)  u64 length of all
 *   sections:   u8 length of name, name, u16 version, u64 length of body, body
 *   "end"       the last section: u64 XXH64 of every byte before its body
 *
 * Numbers are little-endian. A reader checks length and checksum before it looks at any body, so
 * what was cut or altered is refused whole; a newer format is refused by its number. */
#ifndef HULL_MACHINE_STATE_H
#define HULL_MACHINE_STATE_H

#include "field/field.h"

#define STATE_FORMAT   1
#define STATE_NAME_MAX 48 /* with its NUL */
#define STATE_BYTES    (64 * MiB)

/* Writing: begin, sections, end. `out` starts zeroed; the caller frees it. */
bool state_begin(struct stream *out, struct err *err);
bool state_put(struct stream *out, const char *name, uint16_t version, const void *body, size_t len,
               struct err *err);
bool state_save(struct stream *out, const char *name, uint16_t version, const struct field *table,
                const void *from, struct err *err);
bool state_end(struct stream *out, struct err *err);

struct state_section {
    char name[STATE_NAME_MAX];
    uint16_t version;
    uint8_t *body; /* inside the bytes that were read */
    size_t len;
};

struct state {
    struct state_section *section;
    unsigned count; /* without "end" */
};

/* Checks the whole stream and lists its sections. `bytes` must outlive `s`. Close it in any case.
 */
bool state_open(struct state *s, uint8_t *bytes, size_t len, struct err *err);
void state_close(struct state *s);
/* NULL, with an error, if there is none, or if it is newer than `version`. */
const struct state_section *state_find(const struct state *s, const char *name, uint16_t version,
                                       struct err *err);
/* A section that a table describes. All of its bytes must be used. */
bool state_restore(const struct state *s, const char *name, uint16_t version,
                   const struct field *table, void *to, struct err *err);

uint64_t xxh64(const void *bytes, size_t len);

#endif
