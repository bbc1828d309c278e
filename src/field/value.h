/* SPDX-License-Identifier: MIT */
/* Single values behind a struct field: shared by field.c and option.c, not for other folders. */
#ifndef HULL_FIELD_VALUE_H
#define HULL_FIELD_VALUE_H

#include "field/field.h"

size_t field_width(const struct field *f); /* bytes of one value in the struct and in a stream */
uint64_t field_load(const struct field *f, const void *at); /* not for text, bytes and tables */
void field_store(const struct field *f, void *at, uint64_t value);
uint64_t field_limit(const struct field *f); /* the largest value */
unsigned field_count(const struct field *table);

#endif
