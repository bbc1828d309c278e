/* SPDX-License-Identifier: MIT */
/* A writer of AML, the byte code of ACPI tables. ACPI 6.4, chapter 20.
 *
 * Terms are appended in order. A term that holds others (device, method, package, ...) is opened,
 * its contents are appended, and it is closed with the mark that opening gave: closing works out
 * the length, which stands before the contents. Running out of memory is remembered, not reported
 * by each call: ask aml_ok at the end. */
#ifndef HULL_BOOT_AML_H
#define HULL_BOOT_AML_H

#include "field/field.h"

struct aml {
    struct stream out;
    bool failed;
};

bool aml_ok(const struct aml *a);
void aml_byte(struct aml *a, uint8_t byte);
void aml_bytes(struct aml *a, const void *bytes, size_t len);

/* Terms that hold others. `path`: segments of up to 4 characters, as in "\\_SB.PCI0" or "_CRS". */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *path);
size_t aml_method(struct aml *a, const char *path, unsigned args, bool serialized);
size_t aml_package(struct aml *a, uint8_t count);
size_t aml_if(struct aml *a); /* the condition comes first */
size_t aml_else(struct aml *a);
/* Fields of `region`, byte access. */
size_t aml_field(struct aml *a, const char *region);
void aml_close(struct aml *a, size_t mark);

/* Within aml_field. */
void aml_field_unit(struct aml *a, const char *name, uint8_t bits); /* "" is a gap */

/* Data. */
void aml_path(struct aml *a, const char *path);
void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A08" */
void aml_buffer(struct aml *a, const void *bytes, size_t len);
void aml_name(struct aml *a, const char *path); /* Name(path, ...): the value follows */
void aml_name_integer(struct aml *a, const char *path, uint64_t value);
void aml_region_pci(struct aml *a, const char *path, uint64_t offset, uint64_t len);

/* Code. Operands follow each operator, then the target where there is one (AML_NOWHERE: none). */
enum {
    AML_NOWHERE = 0x00,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70, /* value, target */
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_NOTIFY = 0x86,      /* object, value */
    AML_DWORD_FIELD = 0x8a, /* CreateDWordField: buffer, offset, then aml_path for its name */
    AML_NOT = 0x92,         /* LNot */
    AML_EQUAL = 0x93,
    AML_RETURN = 0xa4,
};

#endif
