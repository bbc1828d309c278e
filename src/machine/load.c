/* SPDX-License-Identifier: MIT */
/* What the guest finds in memory: ACPI and SMBIOS tables, the kernel, and a boot CPU set to enter
 * it. */
#include "machine/machine.h"
#include "boot/acpi.h"
#include "boot/smbios.h"
#include <errno.h>
#include <stdlib.h>

enum {
    MTRR_ENABLED = 0x800,
    MTRR_FIXED_ENABLED = 0x400,
    MTRR_WRITE_BACK = 6,
    MTRR_VGA = 2, /* the fixed register of 0xa0000-0xbffff, which stays uncached */
};

bool machine_open_kernel(struct machine *m, struct err *err)
{
    const struct boot_config config = {
        .kernel = m->config.kernel,
        .initrd = m->config.initrd,
        .append = m->config.append,
    };

    m->boot = boot_open(&config, err);
    return m->boot != NULL;
}

static uint8_t uarts(const struct board_parts *parts)
{
    uint8_t mask = 0;

    for (unsigned i = 0; i < BOARD_UARTS; i++)
        mask |= parts->serial[i] ? (uint8_t)(1u << i) : 0;
    return mask;
}

/* The guest's address of the ACPI tables' root, 0 on error. */
static gpa place_tables(struct machine *m, struct err *err)
{
    const struct acpi_config acpi = {
        .cpus = m->config.cpus,
        .layout = &m->layout,
        .uarts = uarts(&m->parts),
        .hpet = !m->parts.no_hpet,
        .i8042 = !m->parts.no_i8042,
        .pvpanic = !m->parts.no_pvpanic,
        .vmgenid = LAYOUT_VMGENID,
    };
    struct smbios_config smbios = {
        .version = HULL_VERSION,
        .cpus = m->config.cpus,
        .cpu_name = m->model.name,
        .layout = &m->layout,
    };

    memcpy(smbios.uuid, m->uuid, sizeof smbios.uuid);
    if (mem_load(&m->mem, LAYOUT_VMGENID, m->generation, sizeof m->generation)) {
        err_set(err, EINVAL, "there is no memory for the VM generation ID");
        return 0;
    }
    return smbios_load(&smbios, &m->mem, err) ? acpi_load(&acpi, &m->mem, err) : 0;
}

/* What firmware does to every CPU before it boots an operating system: MTRRs on, write-back where
 * no range says otherwise. Linux leaves the PAT alone without them. Intel SDM 3, 12.11.2.1. */
static bool set_up_cpus(struct machine *m, struct vcpu_state *state, struct err *err)
{
    for (unsigned i = 0; i < m->vm.cpu_count; i++) {
        m->vm.engine->get(m->vm.cpu[i], state);
        state->mtrr_def = MTRR_ENABLED | MTRR_FIXED_ENABLED | MTRR_WRITE_BACK;
        for (unsigned k = 0; k < ARRAY_SIZE(state->mtrr_fix); k++)
            state->mtrr_fix[k] = k == MTRR_VGA ? 0 : MTRR_WRITE_BACK * 0x0101010101010101;
        if (!m->vm.engine->set(m->vm.cpu[i], state, err))
            return false;
    }
    return true;
}

static bool load(struct machine *m, struct vcpu_state *state, struct err *err)
{
    gpa rsdp;

    if (!m->boot)
        return err_set(err, ENOENT, "%s is gone, and this machine was restored without it",
                       m->config.kernel);
    rsdp = place_tables(m, err);
    if (!rsdp || !set_up_cpus(m, state, err))
        return false;
    m->vm.engine->get(m->vm.cpu[0], state);
    return boot_load(m->boot, &m->mem, &m->layout, rsdp, state, err) &&
           m->vm.engine->set(m->vm.cpu[0], state, err);
}

bool machine_load(struct machine *m, struct err *err)
{
    struct vcpu_state *state = malloc(sizeof *state);
    bool good = state ? load(m, state, err) : err_set(err, ENOMEM, "no memory for vCPU state");

    free(state);
    return good;
}
