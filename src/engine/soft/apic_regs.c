/* SPDX-License-Identifier: MIT */
/* The local APIC as the guest sees it: the xAPIC page, the x2APIC MSRs, the APIC base MSR, and its
 * part of a snapshot. Intel SDM 3, 11.4, 11.5 and 11.12. */
#include "engine/soft/apic.h"
#include <errno.h>
#include <stdlib.h>

#define VERSION      (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24) /* EOIs can be kept from IOAPICs */
#define SVR_WRITABLE 0x11ffu

static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x710ff, [LVT_THERMAL] = 0x117ff, [LVT_PERF] = 0x117ff,
    [LVT_LINT0] = 0x1f7ff, [LVT_LINT1] = 0x1f7ff,   [LVT_ERROR] = 0x110ff,
};

static uint32_t id_register(const struct soft_apic *a)
{
    return apic_x2(a) ? a->id : a->id << 24;
}

static bool read_reg(struct soft_apic *a, unsigned reg, uint32_t *value)
{
    if (reg >= APIC_LVT && reg <= APIC_LVT_LAST) {
        *value = apic_lvt(a, reg - APIC_LVT);
        return true;
    }
    if (reg >= APIC_ISR && reg < APIC_IRR + 8) {
        unsigned i = reg & 7;

        *value = reg < APIC_TMR   ? a->isr[i]
                 : reg < APIC_IRR ? atomic_load(&a->tmr[i])
                                  : atomic_load(&a->irr[i]);
        return true;
    }
    switch (reg) {
    case APIC_ID: *value = id_register(a); break;
    case APIC_VERSION: *value = VERSION; break;
    case APIC_TPR: *value = atomic_load(&a->tpr); break;
    case APIC_PPR: *value = apic_ppr(a); break;
    case APIC_LDR: *value = atomic_load(&a->ldr); break;
    case APIC_DFR: *value = atomic_load(&a->dfr); break;
    case APIC_SVR: *value = atomic_load(&a->svr); break;
    case APIC_ESR: *value = a->esr; break;
    case APIC_ICR: *value = a->icr; break;
    case APIC_ICR_HIGH: *value = a->icr_high; break;
    case APIC_INITIAL: *value = a->initial; break;
    case APIC_CURRENT: *value = apic_timer_current(a); break;
    case APIC_DIVIDE: *value = a->divide; break;
    default: *value = 0; return false;
    }
    return true;
}

static void write_lvt(struct soft_apic *a, unsigned n, uint32_t value)
{
    value &= lvt_writable[n];
    if (!(atomic_load(&a->svr) & SVR_ENABLE))
        value |= LVT_MASKED;
    if (n == LVT_TIMER) {
        if (!soft_has(a->cpu, X86_F_TSC_DEADLINE))
            value &= ~(uint32_t)LVT_DEADLINE;
        apic_timer_set_lvt(a, value);
    } else if (n == LVT_LINT0) {
        atomic_store(&a->lint0, value);
        atomic_fetch_or(&a->cpu->pending, PEND_INTR); /* the PIC's line may be up */
    } else {
        a->lvt[n] = value;
    }
}

static void write_svr(struct soft_apic *a, uint32_t value)
{
    atomic_store(&a->svr, value & SVR_WRITABLE);
    if (value & SVR_ENABLE)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        write_lvt(a, i, apic_lvt(a, i) | LVT_MASKED);
}

/* False: no such register, or it cannot be written. */
static bool write_reg(struct soft_apic *a, unsigned reg, uint32_t value)
{
    if (reg >= APIC_LVT && reg <= APIC_LVT_LAST) {
        write_lvt(a, reg - APIC_LVT, value);
        return true;
    }
    switch (reg) {
    case APIC_TPR: apic_set_tpr(a, value & 0xff); break;
    case APIC_EOI: apic_eoi(a); break;
    case APIC_LDR: atomic_store(&a->ldr, value & 0xff000000); break;
    case APIC_DFR: atomic_store(&a->dfr, value | 0x0fffffff); break;
    case APIC_SVR: write_svr(a, value); break;
    case APIC_ESR: a->esr = atomic_exchange(&a->errors, 0); break;
    case APIC_ICR: apic_write_icr(a, value, a->icr_high >> 24); break;
    case APIC_ICR_HIGH: a->icr_high = value & 0xff000000; break;
    case APIC_INITIAL: apic_timer_set_initial(a, value); break;
    case APIC_DIVIDE: apic_timer_set_divide(a, value); break;
    default: return false;
    }
    return true;
}

/* Registers are 32 bits at multiples of 16; narrower reads get their part. */
uint64_t soft_apic_mmio_read(struct soft_cpu *cpu, uint32_t offset, unsigned size)
{
    uint32_t value;

    if ((offset & 15) + size > 4)
        return 0;
    if (!read_reg(cpu->apic, offset >> 4, &value))
        apic_error(cpu->apic, ESR_REGISTER);
    return value >> (offset & 3) * 8;
}

void soft_apic_mmio_write(struct soft_cpu *cpu, uint32_t offset, unsigned size, uint32_t value)
{
    if ((offset & 15) || size != 4)
        return;
    if (!write_reg(cpu->apic, offset >> 4, value))
        apic_error(cpu->apic, ESR_REGISTER);
}

/* ---- x2APIC MSRs ---- */
static bool x2_readable(unsigned reg)
{
    return reg != APIC_APR && reg != APIC_EOI && reg != APIC_DFR && reg != APIC_ICR_HIGH &&
           reg != APIC_SELF;
}

static bool x2_write_valid(unsigned reg, uint64_t value)
{
    switch (reg) {
    case APIC_EOI:
    case APIC_ESR: return value == 0;
    case APIC_TPR:
    case APIC_SELF: return value < 0x100;
    case APIC_SVR: return !(value & ~(uint64_t)SVR_WRITABLE);
    case APIC_INITIAL: return value >> 32 == 0;
    case APIC_DIVIDE: return !(value & ~0xbull);
    case APIC_ICR: return !(value & 0xfff32000);
    default: break;
    }
    if (reg >= APIC_LVT && reg <= APIC_LVT_LAST)
        return !(value & ~((uint64_t)lvt_writable[reg - APIC_LVT] | 0x1000));
    return false;
}

static bool read_base(struct soft_apic *a, uint64_t *value)
{
    *value = atomic_load(&a->base);
    return true;
}

static void map_page(struct soft_apic *a, uint64_t base)
{
    bool page = (base & BASE_ENABLE) && !(base & BASE_X2);

    a->cpu->apic_page = page ? base & PAGE_MASK : 1;
    soft_tlb_flush(a->cpu, true);
}

static bool write_base(struct soft_apic *a, uint64_t value)
{
    uint64_t old = atomic_load(&a->base), on = BASE_ENABLE | BASE_X2;
    uint64_t reserved = ~(BIT(soft_phys_bits(a->cpu)) - 1) | 0x2ff;

    if ((value & reserved) || (value & on) == BASE_X2)
        return false;
    if ((value & BASE_X2) && (!soft_has(a->cpu, X86_F_X2APIC) || !(old & BASE_ENABLE)))
        return false;
    if ((old & on) == on && (value & on) == BASE_ENABLE)
        return false;
    value = (value & ~(uint64_t)BASE_BSP) | (old & BASE_BSP);
    atomic_store(&a->base, value);
    if ((old ^ value) & BASE_ENABLE)
        apic_clear(a);
    if (value & BASE_X2)
        atomic_store(&a->ldr, (a->id >> 4) << 16 | 1u << (a->id & 15));
    map_page(a, value);
    return true;
}

bool soft_apic_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    struct soft_apic *a = cpu->apic;
    unsigned reg = msr - 0x800;
    uint32_t low = 0;

    if (msr == 0x1b)
        return read_base(a, value);
    if (msr == 0x6e0) {
        *value = a->tsc_deadline;
        return soft_has(cpu, X86_F_TSC_DEADLINE);
    }
    if (!apic_x2(a) || !x2_readable(reg) || !read_reg(a, reg, &low))
        return false;
    *value = low;
    if (reg == APIC_ICR)
        *value |= (uint64_t)a->icr_high << 32;
    return true;
}

bool soft_apic_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    struct soft_apic *a = cpu->apic;
    unsigned reg = msr - 0x800;

    if (msr == 0x1b)
        return write_base(a, value);
    if (msr == 0x6e0) {
        if (!soft_has(cpu, X86_F_TSC_DEADLINE))
            return false;
        apic_timer_set_deadline(a, value);
        return true;
    }
    if (!apic_x2(a) || !x2_write_valid(reg, value))
        return false;
    if (reg == APIC_ICR) {
        a->icr_high = (uint32_t)(value >> 32);
        apic_write_icr(a, (uint32_t)value, a->icr_high);
        return true;
    }
    if (reg == APIC_SELF) {
        apic_write_icr(a, 1u << 18 | (uint32_t)value, 0);
        return true;
    }
    return write_reg(a, reg, (uint32_t)value);
}

/* ---- power-on and snapshots ---- */
/* The timer's input clock is the crystal that CPUID names. */
static uint64_t timer_hz(struct soft_cpu *cpu)
{
    struct cpuid_context context = {.cpu_count = 1};
    uint32_t out[4];

    cpu_model_cpuid(cpu->vm->model, &context, 0x15, 0, out);
    return out[X86_ECX] ? out[X86_ECX] : 1000000000;
}

bool soft_apic_open(struct soft_cpu *cpu, struct err *err)
{
    struct soft_apic *a = calloc(1, sizeof *a);

    if (!a)
        return err_set(err, ENOMEM, "no memory for a local APIC");
    a->cpu = cpu;
    a->id = cpu->vcpu->id;
    a->hz = timer_hz(cpu);
    cpu->apic = a;
    return true;
}

void soft_apic_close(struct soft_cpu *cpu)
{
    free(cpu->apic);
    cpu->apic = NULL;
}

void soft_apic_reset(struct soft_cpu *cpu)
{
    struct soft_apic *a = cpu->apic;
    uint64_t base = 0xfee00000 | BASE_ENABLE | (a->id == 0 ? BASE_BSP : 0);

    atomic_store(&a->base, base);
    atomic_store(&a->pic_line, false);
    apic_clear(a);
    map_page(a, base);
}

static void put_reg(struct lapic_state *s, unsigned reg, uint32_t value)
{
    put_le32(s->regs + reg * 16, value);
}

static uint32_t get_reg(const struct lapic_state *s, unsigned reg)
{
    return le32(s->regs + reg * 16);
}

void soft_apic_get(struct soft_cpu *cpu, struct lapic_state *s)
{
    struct soft_apic *a = cpu->apic;
    uint32_t value;

    *s = (struct lapic_state){.base_msr = atomic_load(&a->base), .tsc_deadline = a->tsc_deadline};
    for (unsigned reg = 0; reg <= APIC_DIVIDE; reg++)
        if (read_reg(a, reg, &value))
            put_reg(s, reg, value);
    put_reg(s, APIC_CURRENT, 0); /* timer_left_ns says it exactly; equal states stay equal bytes */
    s->timer_left_ns = apic_timer_left_ns(a);
}

bool soft_apic_check(const struct lapic_state *s, unsigned phys_bits, struct err *err)
{
    uint64_t reserved = ~(BIT(phys_bits) - 1) | 0x2ff;

    if ((s->base_msr & reserved) || (s->base_msr & (BASE_X2 | BASE_ENABLE)) == BASE_X2)
        return err_set(err, EINVAL, "local APIC: base register 0x%llx is impossible",
                       (unsigned long long)s->base_msr);
    if (get_reg(s, APIC_IRR) & 0xffff || get_reg(s, APIC_ISR) & 0xffff)
        return err_set(err, EINVAL, "local APIC: a request for a vector below 16");
    return true;
}

/* After soft_apic_check. Unknown and read-only bits are dropped, as if the guest had written them.
 */
void soft_apic_set(struct soft_cpu *cpu, const struct lapic_state *s)
{
    struct soft_apic *a = cpu->apic;

    atomic_store(&a->base, (s->base_msr & ~(uint64_t)BASE_BSP) | (a->id == 0 ? BASE_BSP : 0));
    apic_clear(a);
    for (unsigned i = 0; i < 8; i++) {
        atomic_store(&a->irr[i], get_reg(s, APIC_IRR + i));
        atomic_store(&a->tmr[i], get_reg(s, APIC_TMR + i));
        a->isr[i] = get_reg(s, APIC_ISR + i);
    }
    for (unsigned i = 0; i < LVT_COUNT; i++)
        a->lvt[i] = get_reg(s, APIC_LVT + i) & lvt_writable[i];
    atomic_store(&a->lint0, a->lvt[LVT_LINT0]);
    atomic_store(&a->svr, get_reg(s, APIC_SVR) & SVR_WRITABLE);
    atomic_store(&a->tpr, get_reg(s, APIC_TPR) & 0xff);
    atomic_store(&a->dfr, get_reg(s, APIC_DFR) | 0x0fffffff);
    if (!apic_x2(a))
        atomic_store(&a->ldr, get_reg(s, APIC_LDR) & 0xff000000);
    a->esr = get_reg(s, APIC_ESR) & 0xff;
    a->icr = get_reg(s, APIC_ICR) & ~0x1000u;
    a->icr_high = get_reg(s, APIC_ICR_HIGH);
    a->initial = get_reg(s, APIC_INITIAL);
    a->divide = get_reg(s, APIC_DIVIDE) & 0xb;
    a->tsc_deadline = s->tsc_deadline;
    apic_timer_resume(a, s->timer_left_ns);
    map_page(a, atomic_load(&a->base));
    apic_recheck(a);
}
