/* SPDX-License-Identifier: MIT */
/* A snapshot's `state` file from a stranger. Length and checksum are put right first, or nothing
 * would get past them; then everything that restore does before a guest runs is done with it:
 * facts, configuration, devices of the board, a vCPU of the soft engine. */
#include "config/config.h"
#include "dev/testboard.h"
#include "engine/engine.h"
#include "engine/x86/model.h"
#include "machine/saved.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem memory;
static struct vm vm;
static struct cpu_model model;

/* The soft engine wants low addresses, which a sanitizer may have taken: then without a vCPU. */
static bool open_vm(void)
{
    struct err err;

    mem_init(&memory);
    vm_init(&vm);
    vm.mem = &memory;
    vm.mmio = &tb.mmio;
    vm.pio = &tb.pio;
    vm.model = &model;
    return mem_add(&memory, "ram", 0, 2 * MiB, false, &err) &&
           cpu_model_parse(&model, "x86-64-v2", &err) && vm_open(&vm, &soft_engine, 1, &err);
}

/* As a writer would have finished it. */
static uint8_t *sealed(const uint8_t *data, size_t *size)
{
    static const uint8_t end[] = {3, 'e', 'n', 'd', 0, 0, 8, 0, 0, 0, 0, 0, 0, 0};
    uint8_t *bytes = calloc(1, 24 + *size + sizeof end + 8);
    size_t at = 24 + *size;

    memcpy(bytes, "hullstat", 8);
    bytes[8] = STATE_FORMAT;
    memcpy(bytes + 24, data, *size);
    memcpy(bytes + at, end, sizeof end);
    *size = at + sizeof end + 8;
    put_le64(bytes + 16, *size);
    put_le64(bytes + *size - 8, xxh64(bytes, *size - 8));
    return bytes;
}

static void restore_facts(const struct state *s)
{
    static struct machine_facts machine;
    static struct disk_facts disks;
    static struct memory_facts layout;
    static struct saved saved;
    static struct config config;
    struct err err;

    (void)state_restore(s, "machine", MACHINE_FACTS_VERSION, machine_facts_fields, &machine, &err);
    (void)state_restore(s, "disks", DISK_FACTS_VERSION, disk_facts_fields, &disks, &err);
    (void)state_restore(s, "memory", MEMORY_FACTS_VERSION, memory_facts_fields, &layout, &err);
    saved.state = *s;
    if (saved_config(&saved, &config, &err))
        (void)config_check(&config, &err);
}

static void restore_devices(const struct state *s)
{
    list_for(at, &tb.board.devices)
    {
        struct device *dev = container_of(at, struct device, link);
        char name[STATE_NAME_MAX];
        struct err err;

        if (!dev->type->state)
            continue;
        snprintf(name, sizeof name, "device/%s", dev->id);
        if (state_restore(s, name, dev->type->state_version, dev->type->state, dev, &err) &&
            dev->type->restored)
            (void)dev->type->restored(dev, &err);
    }
}

static void restore_cpu(const struct state *s)
{
    static struct vcpu_state state;
    struct err err;

    if (state_restore(s, "cpu/0", VCPU_STATE_VERSION, vcpu_state_fields, &state, &err))
        (void)vm.engine->set(vm.cpu[0], &state, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = sealed(data, &size);
    struct state s;
    struct err err = {0};
    bool cpu;

    if (state_open(&s, bytes, size, &err)) {
        restore_facts(&s);
        tb_full(NULL, NULL);
        cpu = open_vm();
        board_pause(&tb.board);
        restore_devices(&s);
        if (cpu)
            restore_cpu(&s);
        vm_close(&vm);
        mem_close(&memory);
        tb_close();
    } else if (!err.text[0])
        abort();
    state_close(&s);
    free(bytes);
    return 0;
}
