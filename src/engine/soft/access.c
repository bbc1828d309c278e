/* SPDX-License-Identifier: MIT */
/* Loads and stores of instruction handlers: segmentation, then the TLB, then the slow half, which
 * splits accesses at page ends, reaches devices and watches breakpoints. */
#include "engine/soft/det.h"
#include "engine/soft/access.h"
#include "bus/bus.h"

static bool canonical_range(uint64_t linear, unsigned size)
{
    uint64_t last = linear + size - 1;

    return (uint64_t)((int64_t)(linear << 16) >> 16) == linear &&
           (uint64_t)((int64_t)(last << 16) >> 16) == last;
}

_Noreturn static void segment_fault(struct soft_cpu *cpu, unsigned seg)
{
    soft_raise(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

/* Legacy and compatibility mode: SDM volume 3, 5.3 and 5.5. */
static bool segment_allows(const struct x86_seg *s, uint64_t offset, unsigned size,
                           enum mem_access access)
{
    unsigned type = s->attr & SEG_TYPE;
    uint64_t last = offset + size - 1;
    bool code = type & 8;

    if (!(s->attr & SEG_P))
        return false;
    if (access == ACCESS_WRITE ? code || !(type & 2) : access == ACCESS_READ && code && !(type & 2))
        return false;
    if (!code && (type & 4)) /* expand-down */
        return offset > s->limit && last <= (s->attr & SEG_DB ? 0xffffffff : 0xffff);
    return last <= s->limit;
}

uint64_t soft_linear(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size,
                     enum mem_access access)
{
    const struct x86_seg *s = &cpu->seg[seg];

    if (cpu->mode == X86_MODE_64) {
        uint64_t linear = offset + (seg >= SEG_FS ? s->base : 0);

        if (!canonical_range(linear, size))
            segment_fault(cpu, seg);
        return linear;
    }
    if (!segment_allows(s, offset, size, access))
        segment_fault(cpu, seg);
    return (uint32_t)(s->base + offset);
}

uint64_t soft_ea(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t a = (uint64_t)(int64_t)in->disp;

    if (in->base == X86_NO_REG && x86_form[in->form].op == X86_MOV_MOFFS)
        a = in->imm;
    else if (in->base == X86_RIP)
        a += cpu->next_rip;
    else if (in->base != X86_NO_REG)
        a += cpu->reg[in->base];
    if (in->index != X86_NO_REG)
        a += cpu->reg[in->index] << in->scale;
    return in->adsize == 8 ? a : in->adsize == 4 ? (uint32_t)a : (uint16_t)a;
}

/* ---- breakpoints ---- */

static void watch(struct soft_cpu *cpu, uint64_t linear, unsigned size, enum mem_access access)
{
    static const uint8_t len_of[4] = {1, 2, 8, 4};

    for (unsigned i = 0; i < 4; i++) {
        unsigned type = cpu->dr7 >> (16 + 4 * i) & 3, len = len_of[cpu->dr7 >> (18 + 4 * i) & 3];
        uint64_t at = cpu->dr[i] & ~(uint64_t)(len - 1);

        if (!(cpu->dr7 >> (2 * i) & 3) || !(type == 3 || (type == 1 && access == ACCESS_WRITE)))
            continue;
        if (linear < at + len && at < linear + size) {
            cpu->trap_dr6 |= 1u << i;
            atomic_fetch_or(&cpu->pending, PEND_TRAP);
        }
    }
}

static inline void watched(struct soft_cpu *cpu, uint64_t linear, unsigned size,
                           enum mem_access access)
{
    if (unlikely(cpu->dr7 & 0xff))
        watch(cpu, linear, size, access);
}

/* ---- what is not RAM ---- */

static uint64_t device_read(struct soft_cpu *cpu, uint64_t phys, unsigned size)
{
    if ((phys & PAGE_MASK) == cpu->apic_page)
        return soft_apic_mmio_read(cpu, phys & ~PAGE_MASK, size);
    det_access(cpu);
    return bus_read(cpu->vm->mmio, phys, size);
}

static void device_write(struct soft_cpu *cpu, uint64_t phys, unsigned size, uint64_t value)
{
    if ((phys & PAGE_MASK) == cpu->apic_page) {
        soft_apic_mmio_write(cpu, phys & ~PAGE_MASK, size, (uint32_t)value);
        return;
    }
    det_access(cpu);
    bus_write(cpu->vm->mmio, phys, value, size);
}

static unsigned piece(uint64_t phys, size_t len)
{
    unsigned size = 8;

    while (size > len || (phys & (size - 1)))
        size /= 2;
    return size;
}

static void target_read(struct soft_cpu *cpu, const struct soft_target *t, void *dst, size_t len)
{
    uint8_t *to = dst;

    if (t->host) {
        memcpy(to, t->host, len);
        return;
    }
    for (size_t at = 0; at < len;) {
        unsigned size = piece(t->phys + at, len - at);
        uint64_t v = device_read(cpu, t->phys + at, size);

        memcpy(to + at, &v, size);
        at += size;
    }
}

static void target_write(struct soft_cpu *cpu, const struct soft_target *t, const void *src,
                         size_t len)
{
    const uint8_t *from = src;

    if (t->host) {
        if (t->ram.region->readonly)
            return;
        memcpy(t->host, from, len);
        soft_ram_written(cpu, t->phys, (unsigned)len);
        return;
    }
    for (size_t at = 0; at < len;) {
        unsigned size = piece(t->phys + at, len - at);
        uint64_t v = 0;

        memcpy(&v, from + at, size);
        device_write(cpu, t->phys + at, size, v);
        at += size;
    }
}

/* ---- any length ---- */

static uint64_t linear_mask(const struct soft_cpu *cpu)
{
    return cpu->mode == X86_MODE_64 || (cpu->efer & 0x400) ? ~0ULL : 0xffffffff;
}

/* Resolves both pages of [linear, linear + len); returns the bytes in the first. */
static size_t resolve_pair(struct soft_cpu *cpu, uint64_t linear, size_t len,
                           enum mem_access access, bool user, struct soft_target t[2])
{
    size_t first = min_size(len, PAGE_SIZE - (linear & ~PAGE_MASK));

    soft_resolve(cpu, linear, access, user, &t[0]);
    if (first < len)
        soft_resolve(cpu, (linear + first) & linear_mask(cpu), access, user, &t[1]);
    return first;
}

static void load_linear_bytes(struct soft_cpu *cpu, uint64_t linear, void *dst, size_t len,
                              bool user)
{
    struct soft_target t[2];
    size_t first = resolve_pair(cpu, linear, len, ACCESS_READ, user, t);

    watched(cpu, linear, (unsigned)len, ACCESS_READ);
    target_read(cpu, &t[0], dst, first);
    if (first < len)
        target_read(cpu, &t[1], (uint8_t *)dst + first, len - first);
}

static void store_linear_bytes(struct soft_cpu *cpu, uint64_t linear, const void *src, size_t len,
                               bool user)
{
    struct soft_target t[2];
    size_t first = resolve_pair(cpu, linear, len, ACCESS_WRITE, user, t);

    watched(cpu, linear, (unsigned)len, ACCESS_WRITE);
    target_write(cpu, &t[0], src, first);
    if (first < len)
        target_write(cpu, &t[1], (const uint8_t *)src + first, len - first);
}

void soft_load_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t offset, void *dst, size_t len)
{
    uint64_t linear = soft_linear(cpu, seg, offset, (unsigned)len, ACCESS_READ);
    const void *p = soft_tlb_read(cpu, linear, (unsigned)len);

    if (likely(p != NULL))
        memcpy(dst, p, len);
    else
        load_linear_bytes(cpu, linear, dst, len, soft_user(cpu));
}

void soft_store_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t offset, const void *src,
                      size_t len)
{
    uint64_t linear = soft_linear(cpu, seg, offset, (unsigned)len, ACCESS_WRITE);
    void *p = soft_tlb_write(cpu, linear, (unsigned)len);

    if (likely(p != NULL))
        memcpy(p, src, len);
    else
        store_linear_bytes(cpu, linear, src, len, soft_user(cpu));
}

void soft_probe_write(struct soft_cpu *cpu, unsigned seg, uint64_t offset, size_t len)
{
    uint64_t linear = soft_linear(cpu, seg, offset, (unsigned)len, ACCESS_WRITE);
    struct soft_target t[2];

    if (soft_tlb_write(cpu, linear, (unsigned)len) == NULL)
        resolve_pair(cpu, linear, len, ACCESS_WRITE, soft_user(cpu), t);
}

/* ---- one operand ---- */

static bool crosses(uint64_t linear, unsigned size)
{
    return (linear & ~PAGE_MASK) + size > PAGE_SIZE;
}

static uint64_t load_slow(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool user)
{
    struct soft_target t;
    uint64_t value = 0;

    if (crosses(linear, size)) {
        load_linear_bytes(cpu, linear, &value, size, user);
        return value;
    }
    soft_resolve(cpu, linear, ACCESS_READ, user, &t);
    watched(cpu, linear, size, ACCESS_READ);
    return t.host ? host_read(t.host, size) : device_read(cpu, t.phys, size);
}

static void store_slow(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value,
                       bool user)
{
    struct soft_target t;

    if (crosses(linear, size)) {
        store_linear_bytes(cpu, linear, &value, size, user);
        return;
    }
    soft_resolve(cpu, linear, ACCESS_WRITE, user, &t);
    watched(cpu, linear, size, ACCESS_WRITE);
    if (t.host == NULL) {
        device_write(cpu, t.phys, size, value);
    } else if (!t.ram.region->readonly) {
        host_write(t.host, size, value);
        soft_ram_written(cpu, t.phys, size);
    }
}

static uint64_t load_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool user)
{
    const void *p = tlb_peek(&cpu->tlb->read[user], linear, size);

    return likely(p != NULL) ? host_read(p, size) : load_slow(cpu, linear, size, user);
}

static void store_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value,
                     bool user)
{
    void *p = tlb_peek(&cpu->tlb->write[user], linear, size);

    if (likely(p != NULL))
        host_write(p, size, value);
    else
        store_slow(cpu, linear, size, value, user);
}

static inline void check_alignment(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
    if (unlikely(cpu->align_check) && (linear & (size - 1)) && size <= 8)
        soft_raise(cpu, VEC_AC, 0);
}

uint64_t soft_load(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size)
{
    uint64_t linear = soft_linear(cpu, seg, offset, size, ACCESS_READ);

    check_alignment(cpu, linear, size);
    return load_as(cpu, linear, size, soft_user(cpu));
}

void soft_store(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, uint64_t value)
{
    uint64_t linear = soft_linear(cpu, seg, offset, size, ACCESS_WRITE);

    check_alignment(cpu, linear, size);
    store_as(cpu, linear, size, value, soft_user(cpu));
}

uint64_t soft_load_linear(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool system)
{
    return load_as(cpu, linear, size, !system && soft_user(cpu));
}

void soft_store_linear(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value,
                       bool system)
{
    store_as(cpu, linear, size, value, !system && soft_user(cpu));
}

void *soft_host_ptr(struct soft_cpu *cpu, uint64_t linear, unsigned size, enum mem_access access,
                    bool system)
{
    bool user = !system && soft_user(cpu), write = access == ACCESS_WRITE;
    struct soft_target t[2];
    void *p = tlb_peek(write ? &cpu->tlb->write[user] : &cpu->tlb->read[user], linear, size);

    if (!system)
        check_alignment(cpu, linear, size);
    if (likely(p != NULL))
        return p;
    if (crosses(linear, size)) {
        resolve_pair(cpu, linear, size, access, user, t);
        return NULL;
    }
    soft_resolve(cpu, linear, access, user, &t[0]);
    if (t[0].host == NULL || (write && t[0].ram.region->readonly))
        return NULL;
    watched(cpu, linear, size, access);
    if (write) {
        if (cpu->code_stores == ARRAY_SIZE(cpu->code_store))
            soft_code_stored(cpu);
        cpu->code_store[cpu->code_stores++] = (struct code_store){t[0].phys, size};
    }
    return t[0].host;
}

void soft_code_stored(struct soft_cpu *cpu)
{
    for (unsigned i = 0; i < cpu->code_stores; i++)
        soft_ram_written(cpu, cpu->code_store[i].phys, cpu->code_store[i].len);
    cpu->code_stores = 0;
}
