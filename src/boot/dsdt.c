/* SPDX-License-Identifier: MIT */
/* The DSDT: what a kernel cannot find by probing. PCI host bridge with its windows and interrupt
 * routing, the ISA devices, HPET, processors, the S5 state. */
#include "boot/acpi.h"
#include "boot/resource.h"

#include <errno.h>

#define PIRQS    8
#define GSI_PIRQ 16 /* PIRQA */
#define PM_BASE  0x600
#define PM_LEN   0x80
#define OSC_MASK 0x1f /* native hot-plug, SHPC, PME, AER, PCIe capability */

static const char *const link_name[PIRQS] = {"LNKA", "LNKB", "LNKC", "LNKD",
                                             "LNKE", "LNKF", "LNKG", "LNKH"};
/* Registers of the LPC bridge, by full name; the last segment names the field. */
static const char *const route_name[PIRQS] = {
    "\\_SB.PCI0.LPC.PRQA", "\\_SB.PCI0.LPC.PRQB", "\\_SB.PCI0.LPC.PRQC", "\\_SB.PCI0.LPC.PRQD",
    "\\_SB.PCI0.LPC.PRQE", "\\_SB.PCI0.LPC.PRQF", "\\_SB.PCI0.LPC.PRQG", "\\_SB.PCI0.LPC.PRQH",
};

/* The same rule as pci_pirq in bus/pci.c, with pins from 0. */
static unsigned slot_pirq(unsigned slot, unsigned pin)
{
    return slot < 25 ? 4 + ((slot + pin) & 3) : pin;
}

static void hid(struct aml *a, const char *id)
{
    aml_name(a, "_HID");
    aml_eisa_id(a, id);
}

/* ---- PCI host bridge ---- */

static void host_crs(struct aml *a, const struct acpi_config *c)
{
    struct resources r = {.len = 0};
    uint64_t base64 = c->layout->mmio64_base;

    resource_window(&r, RESOURCE_BUS, 0, LAYOUT_PCI_BUSES - 1);
    resource_io(&r, 0xcf8, 8);
    resource_window(&r, RESOURCE_IO, 0, 0xcf7);
    resource_window(&r, RESOURCE_IO, 0xd00, 0xffff);
    resource_window(&r, RESOURCE_MEMORY, LAYOUT_VGA_BASE, LAYOUT_VGA_END - 1);
    resource_window(&r, RESOURCE_MEMORY, LAYOUT_MMIO32_BASE, LAYOUT_MMIO32_END - 1);
    resource_window(&r, RESOURCE_MEMORY, base64, base64 + LAYOUT_MMIO64_SIZE - 1);
    resource_put(&r, a, "_CRS");
}

/* Return(Package of all slots and pins): GSIs, or link devices for kernels that use the 8259s. */
static void prt_table(struct aml *a, bool apic)
{
    size_t table, entry;

    aml_byte(a, AML_RETURN);
    table = aml_package(a, 32 * 4);
    for (unsigned i = 0; i < 32 * 4; i++) {
        unsigned pirq = slot_pirq(i / 4, i % 4);

        entry = aml_package(a, 4);
        aml_integer(a, (i / 4) << 16 | 0xffff);
        aml_integer(a, i % 4);
        if (apic) {
            aml_integer(a, 0);
            aml_integer(a, GSI_PIRQ + pirq);
        } else {
            aml_path(a, link_name[pirq]);
            aml_integer(a, 0);
        }
        aml_close(a, entry);
    }
    aml_close(a, table);
}

static void host_prt(struct aml *a)
{
    size_t method = aml_method(a, "_PRT", 0, false), branch;

    branch = aml_if(a);
    aml_path(a, "\\PICF");
    prt_table(a, true);
    aml_close(a, branch);
    prt_table(a, false);
    aml_close(a, method);
}

static void osc_or(struct aml *a, unsigned bits) /* CDW1 |= bits */
{
    aml_byte(a, AML_OR);
    aml_path(a, "CDW1");
    aml_integer(a, bits);
    aml_path(a, "CDW1");
}

static void osc_field(struct aml *a, unsigned offset, const char *name)
{
    aml_byte(a, AML_DWORD_FIELD);
    aml_byte(a, AML_ARG0 + 3);
    aml_integer(a, offset);
    aml_path(a, name);
}

/* The kernel may take all of OSC_MASK. PCI Firmware 3.2, 4.5. */
static void host_osc(struct aml *a)
{
    static const uint8_t uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                     0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
    size_t method = aml_method(a, "_OSC", 4, true), branch, inner;

    osc_field(a, 0, "CDW1");
    branch = aml_if(a);
    aml_byte(a, AML_EQUAL);
    aml_byte(a, AML_ARG0);
    aml_buffer(a, uuid, sizeof uuid);
    osc_field(a, 8, "CDW3");
    aml_byte(a, AML_AND);
    aml_path(a, "CDW3");
    aml_integer(a, OSC_MASK);
    aml_byte(a, AML_LOCAL0);
    inner = aml_if(a); /* another revision than 1 */
    aml_byte(a, AML_NOT);
    aml_byte(a, AML_EQUAL);
    aml_byte(a, AML_ARG0 + 1);
    aml_integer(a, 1);
    osc_or(a, 0x08);
    aml_close(a, inner);
    inner = aml_if(a); /* some bits were refused */
    aml_byte(a, AML_NOT);
    aml_byte(a, AML_EQUAL);
    aml_path(a, "CDW3");
    aml_byte(a, AML_LOCAL0);
    osc_or(a, 0x10);
    aml_close(a, inner);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_LOCAL0);
    aml_path(a, "CDW3");
    aml_close(a, branch);
    branch = aml_else(a);
    osc_or(a, 0x04); /* not a UUID that is known here */
    aml_close(a, branch);
    aml_byte(a, AML_RETURN);
    aml_byte(a, AML_ARG0 + 3);
    aml_close(a, method);
}

/* ---- PIRQ link devices ---- */

static void link_sta(struct aml *a, const char *route)
{
    size_t method = aml_method(a, "_STA", 0, false), branch = aml_if(a);

    aml_byte(a, AML_AND);
    aml_path(a, route);
    aml_integer(a, 0x80);
    aml_byte(a, AML_NOWHERE);
    aml_byte(a, AML_RETURN);
    aml_integer(a, 0x09); /* present, not enabled */
    aml_close(a, branch);
    aml_byte(a, AML_RETURN);
    aml_integer(a, 0x0b);
    aml_close(a, method);
}

static void link_crs(struct aml *a, const char *route)
{
    static const uint32_t none = 0;
    struct resources r = {.len = 0};
    size_t method;

    resource_interrupts(&r, &none, 1);
    resource_put(&r, a, "BUF0");
    aml_byte(a, AML_DWORD_FIELD);
    aml_path(a, "BUF0");
    aml_integer(a, 5);
    aml_path(a, "IRQN");
    method = aml_method(a, "_CRS", 0, true);
    aml_byte(a, AML_AND);
    aml_path(a, route);
    aml_integer(a, 0x0f);
    aml_path(a, "IRQN");
    aml_byte(a, AML_RETURN);
    aml_path(a, "BUF0");
    aml_close(a, method);
}

static void link_device(struct aml *a, unsigned n)
{
    static const uint32_t choice[] = {5, 10, 11};
    size_t device = aml_device(a, link_name[n]), method;
    struct resources r = {.len = 0};

    hid(a, "PNP0C0F");
    aml_name_integer(a, "_UID", n);
    link_sta(a, route_name[n]);
    resource_interrupts(&r, choice, ARRAY_SIZE(choice));
    resource_put(&r, a, "_PRS");
    link_crs(a, route_name[n]);
    method = aml_method(a, "_DIS", 0, false);
    aml_byte(a, AML_OR);
    aml_path(a, route_name[n]);
    aml_integer(a, 0x80);
    aml_path(a, route_name[n]);
    aml_close(a, method);
    method = aml_method(a, "_SRS", 1, true);
    aml_byte(a, AML_DWORD_FIELD);
    aml_byte(a, AML_ARG0);
    aml_integer(a, 5); /* the number in an extended interrupt descriptor */
    aml_path(a, "IRQW");
    aml_byte(a, AML_STORE);
    aml_path(a, "IRQW");
    aml_path(a, route_name[n]);
    aml_close(a, method);
    aml_close(a, device);
}

/* ---- ISA devices, below the LPC bridge ---- */

static void isa_device(struct aml *a, const char *name, const char *id, unsigned uid,
                       struct resources *r)
{
    size_t device = aml_device(a, name);

    hid(a, id);
    aml_name_integer(a, "_UID", uid);
    resource_put(r, a, "_CRS");
    aml_close(a, device);
}

static void isa_uarts(struct aml *a, uint8_t present)
{
    static const struct {
        const char *name;
        uint16_t port;
        uint8_t irq;
    } com[4] = {{"COM1", 0x3f8, 4}, {"COM2", 0x2f8, 3}, {"COM3", 0x3e8, 4}, {"COM4", 0x2e8, 3}};

    for (unsigned i = 0; i < 4; i++) {
        struct resources r = {.len = 0};

        if (!(present & 1 << i))
            continue;
        resource_io(&r, com[i].port, 8);
        resource_irq(&r, com[i].irq);
        isa_device(a, com[i].name, "PNP0501", i + 1, &r);
    }
}

static void isa_i8042(struct aml *a)
{
    struct resources keyboard = {.len = 0}, mouse = {.len = 0};

    resource_io(&keyboard, 0x60, 1);
    resource_io(&keyboard, 0x64, 1);
    resource_irq(&keyboard, 1);
    isa_device(a, "KBD", "PNP0303", 0, &keyboard);
    resource_irq(&mouse, 12);
    isa_device(a, "MOU", "PNP0F13", 0, &mouse);
}

static void isa_pvpanic(struct aml *a)
{
    size_t device = aml_device(a, "PEVT");
    struct resources r = {.len = 0};

    aml_name(a, "_HID");
    aml_string(a, "QEMU0001");
    aml_name_integer(a, "_STA", 0x0f);
    resource_io(&r, 0x505, 1);
    resource_put(&r, a, "_CRS");
    aml_close(a, device);
}

static void lpc(struct aml *a, const struct acpi_config *c)
{
    struct resources rtc = {.len = 0};
    size_t device = aml_device(a, "LPC"), field;

    aml_name_integer(a, "_ADR", 0x1f0000);
    aml_region_pci(a, "PIRQ", 0x60, 0x0c);
    field = aml_field(a, "PIRQ");
    for (unsigned n = 0; n < PIRQS; n++) {
        if (n == 4)
            aml_field_unit(a, "", 32);
        aml_field_unit(a, strrchr(route_name[n], '.') + 1, 8);
    }
    aml_close(a, field);
    resource_io(&rtc, 0x70, 2);
    resource_irq(&rtc, 8);
    isa_device(a, "RTC", "PNP0B00", 0, &rtc);
    isa_uarts(a, c->uarts);
    if (c->i8042)
        isa_i8042(a);
    if (c->pvpanic)
        isa_pvpanic(a);
    aml_close(a, device);
}

/* ---- the rest of \_SB ---- */

static void host_bridge(struct aml *a, const struct acpi_config *c)
{
    size_t device = aml_device(a, "PCI0");

    hid(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisa_id(a, "PNP0A03");
    aml_name_integer(a, "_UID", 0);
    aml_name_integer(a, "_SEG", 0);
    aml_name_integer(a, "_BBN", 0);
    host_crs(a, c);
    host_osc(a);
    lpc(a, c);
    host_prt(a);
    aml_close(a, device);
}

/* Ports and memory that belong to nobody else, so that the kernel leaves them alone. */
static void motherboard(struct aml *a)
{
    size_t device = aml_device(a, "MBRD");
    struct resources r = {.len = 0};

    hid(a, "PNP0C02");
    aml_name_integer(a, "_UID", 0);
    resource_io(&r, 0x20, 2);
    resource_io(&r, 0xa0, 2);
    resource_io(&r, 0x92, 1);
    resource_io(&r, 0xb2, 2);
    resource_io(&r, 0x4d0, 2);
    resource_io(&r, PM_BASE, PM_LEN);
    resource_memory32(&r, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE);
    resource_put(&r, a, "_CRS");
    aml_close(a, device);
}

static void hpet(struct aml *a)
{
    struct resources r = {.len = 0};

    resource_memory32(&r, LAYOUT_HPET_BASE, 0x400);
    isa_device(a, "HPET", "PNP0103", 0, &r);
}

/* Virtual Machine Generation ID (Microsoft, 2012): where it lies, and an event when it changes.
 * Linux knows the device by either compatible id. */
static void generation(struct aml *a, gpa at)
{
    size_t device = aml_device(a, "VGEN"), package;

    aml_name(a, "_HID");
    aml_string(a, "HULL0001");
    aml_name(a, "_CID");
    package = aml_package(a, 2);
    aml_string(a, "VM_Gen_Counter");
    aml_string(a, "VMGENCTR");
    aml_close(a, package);
    aml_name(a, "_DDN");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "ADDR");
    package = aml_package(a, 2);
    aml_integer(a, at & UINT32_MAX);
    aml_integer(a, at >> 32);
    aml_close(a, package);
    aml_close(a, device);
}

static void generation_event(struct aml *a)
{
    size_t scope = aml_scope(a, "\\_GPE"), method;
    char name[5];

    snprintf(name, sizeof name, "_E%02X", ACPI_GPE_VMGENID);
    method = aml_method(a, name, 0, false);
    aml_byte(a, AML_NOTIFY);
    aml_path(a, "\\_SB.VGEN");
    aml_integer(a, 0x80);
    aml_close(a, method);
    aml_close(a, scope);
}

static void processors(struct aml *a, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        char name[5];
        size_t device;

        snprintf(name, sizeof name, "C%03X", i & 0xfff);
        device = aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name_integer(a, "_UID", i);
        aml_close(a, device);
    }
}

static void power_states(struct aml *a)
{
    size_t package, method;

    aml_name(a, "\\_S5"); /* PM1_CNT.SLP_TYP of dev/pm.c */
    package = aml_package(a, 4);
    aml_integer(a, 7);
    aml_integer(a, 7);
    aml_integer(a, 0);
    aml_integer(a, 0);
    aml_close(a, package);
    aml_name_integer(a, "\\PICF", 0);
    method = aml_method(a, "\\_PIC", 1, false); /* the kernel says: 0 8259s, 1 IOAPIC */
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_ARG0);
    aml_path(a, "\\PICF");
    aml_close(a, method);
}

bool acpi_make_dsdt(struct stream *blob, const struct acpi_config *c, struct err *err)
{
    static const uint8_t header[36]; /* filled by acpi_make */
    struct aml a = {.failed = false};
    size_t scope;

    aml_bytes(&a, header, sizeof header);
    power_states(&a);
    scope = aml_scope(&a, "\\_SB");
    host_bridge(&a, c);
    for (unsigned n = 0; n < PIRQS; n++)
        link_device(&a, n);
    motherboard(&a);
    if (c->hpet)
        hpet(&a);
    processors(&a, c->cpus);
    if (c->vmgenid)
        generation(&a, c->vmgenid);
    aml_close(&a, scope);
    if (c->vmgenid)
        generation_event(&a);
    *blob = a.out;
    return aml_ok(&a) || err_set(err, ENOMEM, "no memory for the DSDT");
}
