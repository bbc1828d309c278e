/* SPDX-License-Identifier: MIT */
/* What the guest finds in memory: ACPI and SMBIOS tables, the kernel, and a boot CPU set to enter
 * it. */
#include "machine/machine.h"
#include "boot/acpi.h"
#include "boot/smbios.h"
#include <errno.h>
#include <stdlib.h>

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

/* The guest's address of the ACPI tables' root, 0 on error. */
static gpa place_tables(struct machine *m, struct err *err)
{
    const struct acpi_config acpi = {
        .cpus = m->config.cpus,
        .layout = &m->layout,
        .uarts = 1,
        .hpet = true,
        .i8042 = true,
        .pvpanic = true,
    };
    struct smbios_config smbios = {
        .version = HULL_VERSION,
        .cpus = m->config.cpus,
        .cpu_name = m->model.name,
        .layout = &m->layout,
    };

    memcpy(smbios.uuid, m->uuid, sizeof smbios.uuid);
    return smbios_load(&smbios, &m->mem, err) ? acpi_load(&acpi, &m->mem, err) : 0;
}

bool machine_load(struct machine *m, struct err *err)
{
    struct vcpu_state *state = malloc(sizeof *state);
    struct vcpu *boot_cpu = m->vm.cpu[0];
    gpa rsdp = place_tables(m, err);
    bool good;

    if (!state || !rsdp) {
        free(state);
        return rsdp && err_set(err, ENOMEM, "no memory for the boot CPU's state");
    }
    m->vm.engine->get(boot_cpu, state);
    good = boot_load(m->boot, &m->mem, &m->layout, rsdp, state, err) &&
           m->vm.engine->set(boot_cpu, state, err);
    free(state);
    return good;
}
