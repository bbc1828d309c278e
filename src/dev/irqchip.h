/* SPDX-License-Identifier: MIT */
/* The board's interrupt lines: from a device's line to IOAPIC pins and 8259 inputs.
 *
 * Lines carry "asserted", whatever their electrical polarity. GSI 0-15 are the ISA IRQs: line n
 * drives PIC input n and IOAPIC pin n, but line 0 drives pin 2 (as the MADT says). GSI 16-23 are
 * PIRQA-H: they drive their IOAPIC pins and, as the LPC bridge's PIRQ registers route them, PIC
 * inputs.
 *
 * The machine puts irqchip_set into board_ops.irq and calls irqchip_ack and irqchip_eoi from its
 * vm_events. Locks: irqchip, then pic or ioapic, then whatever board_ops.msi and intr take. */
#ifndef HULL_DEV_IRQCHIP_H
#define HULL_DEV_IRQCHIP_H

#include "bus/device.h"

#define GSI_COUNT 24

struct irqchip {
    struct device dev;
    pthread_mutex_t lines;       /* guards what follows */
    struct device *pic, *ioapic; /* set when those attach; NULL: absent */
    uint32_t level;              /* a bit per GSI */
    uint16_t isa_out;            /* what the PICs see */
    uint8_t route[8];            /* PIRQA-H: bit 7 off, bits 3-0 the IRQ */
    _Atomic bool legacy_off;     /* the HPET took IRQ 0 and 8 from PIT and RTC */
};

extern const struct device_type irqchip_type, pic_type, ioapic_type;

void irqchip_set(struct board *b, unsigned gsi, bool level); /* any thread; no irqchip: nothing */
int irqchip_ack(struct board *b);                            /* INTA: the vector, -1: none */
void irqchip_eoi(struct board *b, uint8_t vector);
void irqchip_route(struct board *b, unsigned pirq, uint8_t route); /* from the LPC bridge */
/* HPET legacy replacement: while on, PIT and RTC keep still. Reads and writes one flag. */
void irqchip_legacy_set(struct board *b, bool replaced);
bool irqchip_legacy_replaced(struct board *b);

/* dev/pic.c and dev/ioapic.c: a line moved. */
void pic_set(struct device *pic, unsigned irq, bool level);
int pic_ack(struct device *pic);
void ioapic_set(struct device *ioapic, unsigned pin, bool level);
void ioapic_eoi(struct device *ioapic, uint8_t vector);

#endif
