/* SPDX-License-Identifier: MIT */
/* What the system half of the soft engine (event, segment, far, iret, task, control) shares:
 * descriptors as they lie in memory, and stacks that are written before any register changes. */
#ifndef HULL_SOFT_SYSTEM_H
#define HULL_SOFT_SYSTEM_H

#include "engine/soft/soft.h"
#include "engine/x86/model.h"
#include "engine/x86/msr.h"

enum {
    CR0_PE = 1,
    CR0_MP = 2,
    CR0_EM = 4,
    CR0_TS = 8,
    CR0_ET = 0x10,
    CR0_NE = 0x20,
    CR0_WP = 0x10000,
    CR0_AM = 0x40000,
    CR0_NW = 0x20000000,
    CR0_CD = 0x40000000,
};
#define CR0_PG 0x80000000u

enum {
    CR4_VME = 1,
    CR4_PVI = 2,
    CR4_TSD = 4,
    CR4_DE = 8,
    CR4_PSE = 0x10,
    CR4_PAE = 0x20,
    CR4_MCE = 0x40,
    CR4_PGE = 0x80,
    CR4_PCE = 0x100,
    CR4_OSFXSR = 0x200,
    CR4_OSXMM = 0x400,
    CR4_UMIP = 0x800,
    CR4_FSGSBASE = 0x10000,
    CR4_PCIDE = 0x20000,
    CR4_OSXSAVE = 0x40000,
    CR4_SMEP = 0x100000,
    CR4_SMAP = 0x200000,
};
enum { DR6_BD = 0x2000, DR6_BS = 0x4000, DR6_BT = 0x8000, DR7_GD = 0x2000, DR7_FIXED = 0x400 };
#define DR6_FIXED 0xffff0ff0u

enum { /* system descriptor types (S = 0) */
       TYPE_TSS16 = 1,
       TYPE_LDT = 2,
       TYPE_TSS16_BUSY = 3,
       TYPE_CALL16 = 4,
       TYPE_TASK = 5,
       TYPE_INT16 = 6,
       TYPE_TRAP16 = 7,
       TYPE_TSS32 = 9,
       TYPE_TSS32_BUSY = 11,
       TYPE_CALL32 = 12,
       TYPE_INT32 = 14,
       TYPE_TRAP32 = 15,
       TYPE_ACCESSED = 1,
       TYPE_WRITE = 2,
       TYPE_READ = 2,
       TYPE_CONFORMING = 4,
       TYPE_DOWN = 4,
       TYPE_CODE = 8,
};

struct desc {
    uint64_t raw, high; /* high: the second half of a 16-byte descriptor */
    uint64_t linear;    /* where it lies */
    uint16_t sel;
};

struct gate {
    uint16_t sel;
    uint8_t type, dpl, count; /* count: call gates' parameters */
    bool present;
    uint64_t offset;
};

static inline bool long_mode(const struct soft_cpu *cpu)
{
    return cpu->efer & EFER_LMA;
}

static inline bool protected_mode(const struct soft_cpu *cpu)
{
    return cpu->cr0 & CR0_PE;
}

static inline bool v8086(const struct soft_cpu *cpu)
{
    return cpu->rflags & FL_VM;
}

/* Real or v8086: selectors are paragraph numbers. */
static inline bool real_segments(const struct soft_cpu *cpu)
{
    return !protected_mode(cpu) || v8086(cpu);
}

static inline bool code64(const struct soft_cpu *cpu)
{
    return cpu->mode == X86_MODE_64;
}

static inline unsigned iopl(const struct soft_cpu *cpu)
{
    return (unsigned)(cpu->rflags & FL_IOPL) >> 12;
}

static inline bool canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static inline unsigned seg_type(const struct x86_seg *s)
{
    return s->attr & SEG_TYPE;
}

static inline unsigned seg_dpl(const struct x86_seg *s)
{
    return (s->attr & SEG_DPL) >> 5;
}

static inline bool null_sel(uint16_t sel)
{
    return !(sel & ~3);
}

/* The error code that names a selector; EXT is set while a hardware event is delivered. */
static inline uint32_t sel_code(const struct soft_cpu *cpu, uint16_t sel)
{
    return (sel & 0xfffcu) | cpu->ext;
}

static inline unsigned desc_type(const struct desc *d) /* S included: 16-31 are code and data */
{
    return (d->raw >> 40) & 0x1f;
}

static inline unsigned desc_dpl(const struct desc *d)
{
    return (d->raw >> 45) & 3;
}

static inline bool desc_present(const struct desc *d)
{
    return d->raw >> 47 & 1;
}

static inline bool desc_is_code(const struct desc *d)
{
    return (desc_type(d) & (SEG_S | TYPE_CODE)) == (SEG_S | TYPE_CODE);
}

static inline bool desc_conforming(const struct desc *d)
{
    return desc_type(d) & TYPE_CONFORMING;
}

static inline bool desc_long(const struct desc *d)
{
    return d->raw >> 53 & 1;
}

static inline bool desc_writable_data(const struct desc *d)
{
    return (desc_type(d) & (SEG_S | TYPE_CODE | TYPE_WRITE)) == (SEG_S | TYPE_WRITE);
}

static inline void reg_write(struct soft_cpu *cpu, unsigned reg, unsigned size, uint64_t value)
{
    if (size == 2)
        cpu->reg[reg] = (cpu->reg[reg] & ~0xffffull) | (value & 0xffff);
    else
        cpu->reg[reg] = size == 4 ? (uint32_t)value : value;
}

static inline void set_zf(struct soft_cpu *cpu, bool on)
{
    cpu->arith = (uint16_t)((cpu->arith & ~(FL_ZF << 8)) | (on ? FL_ZF << 8 : 0));
}

static inline bool soft_has(const struct soft_cpu *cpu, enum x86_feature feature)
{
    return cpu_model_has(cpu->vm->model, feature);
}

static inline unsigned soft_phys_bits(const struct soft_cpu *cpu)
{
    return cpu->vm->model->phys_bits;
}

/* ---- segment.c ---- */
/* Loads and stores as the processor's own, at a linear address that wraps at 4 GiB outside long
 * mode. */
uint64_t system_load(struct soft_cpu *cpu, uint64_t linear, unsigned size);
void system_store(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
/* False: beyond the table's limit, or in a null LDT. `wide`: a 16-byte descriptor if it is a system
 * one. */
bool desc_find(struct soft_cpu *cpu, uint16_t sel, bool wide, struct desc *d);
/* desc_find, or soft_raise(vector) with the selector as code. */
void desc_read(struct soft_cpu *cpu, uint16_t sel, unsigned vector, struct desc *d);
void desc_to_seg(const struct desc *d, uint16_t sel, struct x86_seg *seg);
void desc_accessed(struct soft_cpu *cpu, struct desc *d); /* sets the bit in memory and in *d */
/* Sets or clears bits of the descriptor's second dword in one locked operation. */
void desc_update(struct soft_cpu *cpu, const struct desc *d, uint32_t set, uint32_t clear);
void desc_gate(const struct desc *d, bool wide, struct gate *g);
void seg_real(struct x86_seg *seg, uint16_t sel); /* a load in real mode: selector and base only */
void seg_real_code(struct x86_seg *cs, uint16_t sel);
void seg_v8086(struct x86_seg *seg, uint16_t sel);
bool seg_holds(const struct x86_seg *seg, uint64_t offset, unsigned size); /* limit, expand-down */
/* Checks a new SS for privilege `dpl` and makes its hidden part. Faults with `vector` (#TS or #GP)
 * except for a segment not present (#SS). */
void stack_segment(struct soft_cpu *cpu, uint16_t sel, unsigned dpl, unsigned vector,
                   struct x86_seg *ss);
/* ES, DS, FS, GS that the new, outer privilege may not see become null: returns to an outer ring.
 */
void drop_inner_segments(struct soft_cpu *cpu, unsigned cpl);
void seg_null(struct soft_cpu *cpu, struct x86_seg *seg, uint16_t sel);

/* A stack that is not yet (or still) the vCPU's. */
struct stack {
    struct soft_cpu *cpu;
    struct x86_seg seg;
    uint64_t sp;
    uint32_t code; /* of the #SS it raises */
    bool flat;     /* 64-bit: canonical checks only */
    bool system;   /* supervisor accesses */
};
void stack_current(struct soft_cpu *cpu, struct stack *s);
void stack_push(struct stack *s, unsigned size, uint64_t value);
uint64_t stack_pop(struct stack *s, unsigned size);
uint64_t stack_peek(struct stack *s, unsigned offset, unsigned size);
void stack_skip(struct stack *s, unsigned bytes);
/* SS:SP or SS:ESP for privilege `dpl` from a 16- or 32-bit TSS. */
void stack_from_tss(struct soft_cpu *cpu, unsigned dpl, uint16_t *ss, uint32_t *esp);
/* RSP0-2 (`slot` 0-2) or IST1-7 (slot 4-10) from the 64-bit TSS. */
uint64_t stack_from_tss64(struct soft_cpu *cpu, unsigned slot);

/* ---- far.c ---- */
/* Commits CS and RIP after all checks; cpl may change. The offset is checked by the caller. */
void set_cs(struct soft_cpu *cpu, const struct x86_seg *cs, unsigned cpl, uint64_t rip);
/* #GP(0) unless `rip` may be the next instruction in `cs`. */
void check_rip(struct soft_cpu *cpu, const struct x86_seg *cs, uint64_t rip);

/* ---- task.c ---- */
enum task_from { TASK_JMP, TASK_CALL, TASK_INT, TASK_IRET };
/* Switches to the task whose TSS descriptor `d` is already checked for type and presence; `next` is
 * the RIP that the old task will go on from. `code`: pushed on the new stack unless NO_CODE. */
void task_switch(struct soft_cpu *cpu, struct desc *d, enum task_from from, uint64_t next,
                 uint32_t code);
/* Through a task gate: checks the TSS selector (errors name it), then switches. */
void task_gate(struct soft_cpu *cpu, uint16_t tss_sel, enum task_from from, uint64_t next,
               uint32_t code);

/* ---- event.c ---- */
/* PEND_INTR or PEND_TRAP again where flags or TPR now allow what was held back. */
void event_recheck(struct soft_cpu *cpu);
/* What INIT does; the boot processor goes on at the reset vector, others wait for SIPI. */
void event_init(struct soft_cpu *cpu);
bool breakpoints_on_code(const struct soft_cpu *cpu); /* DR7 enables one on instructions */

/* ---- control.c ---- */
/* MOV to CR3's checks and effects, also for task switches. */
void control_set_cr3(struct soft_cpu *cpu, uint64_t value);
uint64_t control_cr4_known(const struct soft_cpu *cpu); /* CR4 bits that this CPU model has */
bool control_load_pdpte(struct soft_cpu *cpu,
                        uint64_t cr3); /* PAE; false: reserved bits, nothing changed */

/* ---- msr.c ---- */
bool msr_read(struct soft_cpu *cpu, uint32_t index, uint64_t *value); /* false: #GP */
bool msr_write(struct soft_cpu *cpu, uint32_t index, uint64_t value);
/* Of those that only answer, or take and forget. */
bool msr_without_state(struct soft_cpu *cpu, uint32_t index, bool write, uint64_t *value);

/* ---- pvclock.c ---- */
void pvclock_system_time(struct soft_cpu *cpu, uint64_t msr);
void pvclock_wall_clock(struct soft_cpu *cpu, uint64_t msr);

/* hyperv.c: Hyper-V's MSRs (false: #GP) and calls. */
bool soft_hyperv_read(struct soft_cpu *cpu, uint32_t index, uint64_t *value);
bool soft_hyperv_write(struct soft_cpu *cpu, uint32_t index, uint64_t value);
void soft_hyperv_call(struct soft_cpu *cpu);

#endif
