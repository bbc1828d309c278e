/* SPDX-License-Identifier: MIT */
/* The tables of what a snapshot says of its machine beside devices and vCPUs. Append only. */
#include "machine/snapshot.h"

const struct field machine_facts_fields[] = {
    FIELD_TEXT(struct machine_facts, hull),
    FIELD_TEXT(struct machine_facts, engine),
    FIELD_TEXT(struct machine_facts, cpu),
    FIELD_TEXT(struct machine_facts, features),
    FIELD_BYTES(struct machine_facts, id),
    FIELD_BYTES(struct machine_facts, uuid),
    FIELD_BYTES(struct machine_facts, generation),
    FIELD(struct machine_facts, memory, UINT64_MAX),
    FIELD(struct machine_facts, cpus, CONFIG_CPUS_MAX),
    FIELD(struct machine_facts, tsc_khz, UINT32_MAX),
    FIELD(struct machine_facts, disks, CONFIG_DISKS),
    FIELD(struct machine_facts, nets, CONFIG_NETS),
    FIELD(struct machine_facts, xcr0_mask, UINT64_MAX),
    FIELD(struct machine_facts, board_ns, UINT64_MAX),
    FIELD(struct machine_facts, saved_at_ns, UINT64_MAX),
    {0},
};

static const struct field disk_fields[] = {
    FIELD(struct disk_fact, size, INT64_MAX),
    FIELD(struct disk_fact, mtime_ns, UINT64_MAX),
    FIELD(struct disk_fact, readonly, 1),
    {0},
};

const struct field disk_facts_fields[] = {
    FIELD_TABLES(struct disk_facts, disk, disk_fields),
    {0},
};

static const struct field region_fields[] = {
    FIELD_TEXT(struct memory_region_fact, name),
    FIELD(struct memory_region_fact, base, UINT64_MAX),
    FIELD(struct memory_region_fact, size, INT64_MAX),
    FIELD(struct memory_region_fact, offset, INT64_MAX),
    {0},
};

const struct field memory_facts_fields[] = {
    FIELD(struct memory_facts, partial, 1),
    FIELD_BYTES(struct memory_facts, base_id),
    FIELD_TEXT(struct memory_facts, base),
    FIELD(struct memory_facts, count, MEM_REGIONS_MAX),
    FIELD_TABLES(struct memory_facts, region, region_fields),
    {0},
};
