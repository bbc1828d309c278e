/* SPDX-License-Identifier: MIT */
/* Initial RAM disks and Multiboot modules. */
#include "boot/loader.h"
#include <errno.h>

bool modules_join(struct load *ld, gpa max, struct placed *at, struct err *err)
{
    const struct boot *b = ld->boot;
    uint64_t total = 0, done = 0;

    *at = (struct placed){0, 0};
    for (unsigned i = 0; i < b->modules; i++) {
        const struct boot_file *f = &b->module[i];

        ld->subject = f;
        if (*f->args != '\0')
            return err_set(err, EINVAL, "text after the file name is for Multiboot modules only");
        if (f->size > LAYOUT_ECAM_BASE || total > LAYOUT_ECAM_BASE)
            return err_set(err, EFBIG, "%llu bytes cannot be loaded below 4 GiB",
                           (unsigned long long)f->size);
        total += align_up(f->size, 4);
    }
    if (total == 0)
        return true;
    if (total > max)
        return err_set(err, EFBIG, "%llu bytes are more than this kernel takes (%llu)",
                       (unsigned long long)total, (unsigned long long)max);
    if (!load_find_high(ld, total, PAGE_SIZE, max, "initrd", &at->base, err))
        return false;
    for (unsigned i = 0; i < b->modules; i++) {
        const struct boot_file *f = &b->module[i];

        ld->subject = f;
        if (!load_file(ld, f, 0, f->size, at->base + done, err) ||
            !load_zero(ld, at->base + done + f->size, align_up(f->size, 4) - f->size, err))
            return false;
        done += align_up(f->size, 4);
    }
    at->size = b->modules == 1 ? b->module[0].size : total;
    ld->subject = &b->kernel;
    return true;
}

bool modules_place(struct load *ld, struct placed at[MODULES_MAX], struct err *err)
{
    const struct boot *b = ld->boot;

    for (unsigned i = 0; i < b->modules; i++) {
        const struct boot_file *f = &b->module[i];
        gpa min = max_u64(load_top(ld), 1 * MiB);

        ld->subject = f;
        at[i].size = f->size;
        if (!load_find_low(ld, f->size, PAGE_SIZE, min, "module", &at[i].base, err) ||
            !load_file(ld, f, 0, f->size, at[i].base, err))
            return false;
    }
    ld->subject = &b->kernel;
    return true;
}

const char *module_text(const struct boot_file *f)
{
    return *f->args != '\0' ? f->args : f->name;
}
